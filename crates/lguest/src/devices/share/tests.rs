//! A server in a process of its own: its answers, and its end.

use super::*;
use crate::memory::GuestMemory;
use std::fs;
use std::path::PathBuf;

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("lguest-served-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn share(&self) -> Share {
        Share::start(&config(self.0.clone()), 0).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config(path: PathBuf) -> ShareConfig {
    ShareConfig {
        path,
        tag: "tag".into(),
        read_only: false,
    }
}

/// `Tversion`, for messages of 8192 bytes, with tag 0xFFFF.
const VERSION: &[u8] = b"\x15\0\0\0\x64\xFF\xFF\0\x20\0\0\x08\x009P2000.L";

/// Asks for the version. Returns what comes.
fn ask(share: &mut Share, memory: &GuestMemory, number: u64) -> Received {
    memory.write(0, VERSION).unwrap();
    let section = |at, len| memory.section(at, len).unwrap();
    let asked = share.ask(number, &[section(0, 21)], &[section(4096, 4096)]);
    if !asked.unwrap() {
        return Received::Ended;
    }
    share.wait();
    share.receive()
}

#[test]
fn a_server_answers_into_the_guests_memory() {
    let folder = Folder::new("answers");
    let mut share = folder.share();
    let memory = GuestMemory::new(1 << 20, 1).unwrap();
    share.connect(&memory).unwrap();
    for number in 0..100 {
        let Received::Answer(of, 21) = ask(&mut share, &memory, number) else {
            panic!("no answer");
        };
        assert_eq!(of, number);
    }
    let mut answer = [0; 21];
    memory.read(4096, &mut answer).unwrap();
    assert_eq!(answer[4], VERSION[4] + 1);
    assert_eq!(answer[5..], VERSION[5..]);
    assert!(matches!(share.receive(), Received::Nothing));
    share.finish();
}

/// The Launcher goes on without it.
#[test]
fn the_end_of_a_server_is_noticed() {
    let folder = Folder::new("ends");
    let mut share = folder.share();
    let memory = GuestMemory::new(1 << 20, 1).unwrap();
    share.connect(&memory).unwrap();
    assert!(matches!(
        ask(&mut share, &memory, 1),
        Received::Answer(1, 21)
    ));
    share.killer().kill();
    share.wait();
    assert!(matches!(share.receive(), Received::Ended));
    assert!(matches!(ask(&mut share, &memory, 2), Received::Ended));
    assert_eq!(share.state().state.tag, "tag");
}

#[test]
fn a_server_that_does_not_answer_is_ended() {
    let folder = Folder::new("silent");
    let mut share = folder.share();
    // It was sent nothing, so it says nothing.
    share.wait_at_most(Timespec::default());
    assert!(matches!(share.receive(), Received::Ended));
}

#[test]
fn a_share_goes_on_with_what_another_server_has_told() {
    let folder = Folder::new("state");
    let memory = GuestMemory::new(1 << 20, 1).unwrap();
    let connected = || {
        let mut share = folder.share();
        share.connect(&memory).unwrap();
        share
    };
    let mut share = connected();
    let _ = ask(&mut share, &memory, 1);
    let used = share.state();
    let mut after = connected();
    after.restore(&used).unwrap();
    assert_eq!(after.state(), used);
    assert_eq!(after.obstacle(), None);
    // It answers as before.
    assert!(matches!(
        ask(&mut after, &memory, 2),
        Received::Answer(2, 21)
    ));
    let with = |session: Option<&str>| {
        let mut bad = used.clone();
        bad.state.session = session.map(str::to_owned);
        connected().restore(&bad).unwrap_err().to_string()
    };
    assert!(with(None).contains("it is not whole"));
    let long = "x".repeat(3 * 2048 + 1);
    for bad in ["", "{}", &long] {
        assert!(with(Some(bad)).contains("the share tag: "), "{bad}");
    }
    let long = "x".repeat(MOST_SESSION + 1);
    assert!(with(Some(&long)).contains("it is too long"));
}

/// What is open is told in as many pieces as it needs.
#[test]
fn a_long_session_is_told_piece_by_piece() {
    let folder = Folder::new("pieces");
    let memory = GuestMemory::new(1 << 20, 1).unwrap();
    let mut share = folder.share();
    share.connect(&memory).unwrap();
    let fids: Vec<String> = (0..1000)
        .map(|fid| {
            format!(r#"{{"fid":{fid},"path":null,"file":0,"open":null}}"#)
        })
        .collect();
    let text = format!(
        r#"{{"most":8192,"devices":[],"fids":[{}]}}"#,
        fids.join(",")
    );
    assert!(text.len() > 10 * 2048);
    let mut state = share.state();
    state.state.session = Some(text);
    share.restore(&state).unwrap();
    assert_eq!(share.state(), state);
}

/// A server that was taken over says more than it has announced, nothing at
/// all, very little at a time, or that there is no end.
#[test]
fn a_session_that_lies_about_its_size_is_none() {
    let folder = Folder::new("lies");
    let mut share = folder.share();
    let most = MOST_SESSION as u64;
    for (whole, piece) in [
        (1, PIECE),
        (9, 0),
        (most, 1),
        (most + 1, PIECE),
        (u64::MAX, PIECE),
    ] {
        let (ours, theirs) = wire::pair().unwrap();
        share.socket = Some(ours);
        let server = std::thread::spawn(move || {
            let mut answer = whole.to_le_bytes().to_vec();
            answer.extend(u32::try_from(piece).unwrap().to_le_bytes());
            answer.resize(answer.len() + 4, 0);
            answer.resize(answer.len() + piece, b'x');
            let (mut asked, mut bytes) = (0, [0; 64]);
            while rustix::io::read(&theirs, &mut bytes) != Ok(0) {
                asked += 1;
                assert!(asked <= MOST_SESSION / PIECE, "it has no end");
                rustix::io::write(&theirs, &answer).unwrap();
            }
        });
        assert_eq!(share.state().state.session, None);
        let why = share.obstacle().unwrap();
        assert!(why.contains("too much"), "{why}");
        share.socket = None;
        server.join().unwrap();
    }
}

#[test]
fn what_is_no_folder_is_refused_with_a_cure() {
    let folder = Folder::new("refused");
    let error = |path: PathBuf| {
        let share = Share::start(&config(path), 0);
        share.err().expect("it is no folder")
    };
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(error(file), ShareError::NotAFolder));
    let absent = folder.0.join("absent");
    assert!(matches!(error(absent), ShareError::Missing));
}
