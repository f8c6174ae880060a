//! The server of a share, whose client is hostile.
//!
//! The Guest sends messages with any names, fids, flags and sizes, and any
//! bytes. Nothing outside the folder is read or changed, no device and no
//! program with its owner's rights is made, and a read-only folder stays as it
//! is. Each answer is whole, is of its request, and keeps to its room. The
//! first byte of the input says whether the folder is read-only.

use crate::input::Input;
use lguest::devices::share::server::{Payload, Server};
use lguest::memory::{GuestMemory, Section};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

const RAM: u32 = 0x4_0000;
const REQUEST: u32 = 0x1000;
const ANSWER: u32 = 0x2_0000;

/// What no answer has.
const SECRET: &[u8] = b"a secret outside of the folder";

/// What a file of the folder has.
const CONTENTS: &[u8] = b"in the folder";

/// Names in the folder, new ones, and some that are none.
const NAMES: &[&str] = &[
    "file",
    "folder",
    "out",
    "outdir",
    "new",
    "other",
    "inner",
    "..",
    ".",
    "",
    "/",
    "../outside",
    "outdir/secret",
    "folder/inner",
    "\0",
    "file\0",
];

/// Texts of links.
const TARGETS: &[&str] =
    &["../outside/secret", "../outside", "/etc", "file", ".", ""];

/// Requests, and what is in the body of each: `f` a fid, `n` a name, `t` the
/// text of a link, `w` any word of 32 bits, `o` one of 64 bits, `m` a mode, `l`
/// a list of names, `v` a version, `c` a count, `d` data.
const REQUESTS: &[(u8, &str)] = &[
    (8, "f"),
    (12, "fm"),
    (12, "fm"),
    (14, "fnmmw"),
    (16, "fntw"),
    (18, "fnmwww"),
    (20, "ffn"),
    (22, "f"),
    (24, "fo"),
    (26, "fmmwwooooo"),
    (30, "ffn"),
    (32, "fnow"),
    (40, "foc"),
    (50, "fw"),
    (52, "fbwoown"),
    (54, "fboown"),
    (70, "ffn"),
    (72, "fnmw"),
    (74, "fnfn"),
    (76, "fnm"),
    (100, "wv"),
    (104, "ffnnw"),
    (108, "h"),
    (110, "ffl"),
    (110, "ffl"),
    (110, "ffl"),
    (116, "foc"),
    (118, "focd"),
    (120, "f"),
    (122, "f"),
];

/// A folder with another beside it. Removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let name = format!("lguest-fuzz-share-{}", std::process::id());
        // In memory, because files are flushed often.
        let memory = PathBuf::from("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory,
            false => std::env::temp_dir(),
        };
        let place = Self(parent.join(name));
        let _ = fs::remove_dir_all(&place.0);
        let made = place.fill();
        made.expect("files can be had");
        place
    }

    fn fill(&self) -> std::io::Result<()> {
        fs::create_dir_all(self.0.join("shared/folder"))?;
        fs::create_dir(self.0.join("outside"))?;
        fs::write(self.0.join("outside/secret"), SECRET)?;
        fs::write(self.0.join("shared/file"), CONTENTS)?;
        fs::write(self.0.join("shared/folder/inner"), CONTENTS)?;
        symlink("../outside/secret", self.0.join("shared/out"))?;
        symlink("../outside", self.0.join("shared/outdir"))
    }

    /// Every file below `folder`, with all that can be changed of it.
    fn list(folder: &Path) -> Vec<String> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(is) = fs::symlink_metadata(&path) else {
                continue;
            };
            let kind = is.file_type();
            assert!(
                !kind.is_block_device() && !kind.is_char_device(),
                "a device was made"
            );
            let (links, mode, size) = (is.nlink(), is.mode(), is.size());
            assert!(mode & 0o6000 == 0, "a program with rights was made");
            let changed = (is.mtime(), is.mtime_nsec());
            all.push(format!("{path:?} {links} {mode} {size} {changed:?}"));
            if kind.is_dir() {
                all.extend(Self::list(&path));
            }
        }
        all.sort();
        all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Acts as a hostile Guest.
///
/// # Panics
///
/// If a promise is broken.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let read_only = input.bit();
    let place = Place::new();
    let shared = place.0.join("shared");
    let folder = File::open(&shared).expect("it was made");
    let outside = Place::list(&place.0.join("outside"));
    let before = Place::list(&shared);
    let server = Server::new(folder.into(), read_only);
    let mut server = server.expect("there is a /proc");
    let memory = GuestMemory::new(RAM, 0).expect("memory can be had");
    // Most inputs would never get that far.
    let attach = [104, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let _ = ask(&mut server, &memory, &message(&attach), 0x1000);
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let message = request(&mut input);
        let room = match input.byte() {
            0 => input.below(64),
            _ => 0x1000 + input.below(0x4000),
        };
        let answer = ask(&mut server, &memory, &message, room);
        check(&message, &answer, room);
    }
    drop(server);
    assert!(outside == Place::list(&place.0.join("outside")));
    let secret = fs::read(place.0.join("outside/secret"));
    assert!(secret.is_ok_and(|secret| secret == SECRET));
    let after = Place::list(&shared);
    if read_only {
        assert!(before == after, "a read-only folder has changed");
        let file = fs::read(shared.join("file"));
        assert!(file.is_ok_and(|file| file == CONTENTS));
    }
}

/// A message with its size, from its kind on.
fn message(rest: &[u8]) -> Vec<u8> {
    let size = u32::try_from(4 + rest.len()).unwrap_or(u32::MAX);
    [&size.to_le_bytes()[..], rest].concat()
}

/// A request that is mostly valid.
fn request(input: &mut Input<'_>) -> Vec<u8> {
    let index = usize::from(input.byte());
    let Some(&(kind, fields)) = REQUESTS.get(index % (REQUESTS.len() + 1))
    else {
        let len = usize::from(input.byte());
        return input.bytes(len).to_vec();
    };
    let mut rest = vec![kind, input.byte(), 0];
    for field in fields.chars() {
        match field {
            'f' => rest.extend(fid(input).to_le_bytes()),
            'n' => rest.extend(name(input)),
            't' => rest.extend(one_of(TARGETS, input)),
            'm' => rest.extend(mode(input).to_le_bytes()),
            'o' => rest.extend(place_in_file(input).to_le_bytes()),
            'b' => rest.push(input.byte()),
            'h' => rest.extend(input.half().to_le_bytes()),
            'l' => {
                let names = u16::from(input.byte() % 4);
                rest.extend(names.to_le_bytes());
                (0..names).for_each(|_| rest.extend(name(input)));
            }
            'v' => rest.extend(one_of(&["9P2000.L", "9P2000"], input)),
            'c' => {
                let count = input.one_of(&[0, 1, 100, 4096, u32::MAX]);
                rest.extend(count.to_le_bytes());
            }
            'd' => {
                let len = usize::from(input.byte());
                rest.extend(input.bytes(len));
            }
            _ => rest.extend(input.word().to_le_bytes()),
        }
    }
    match input.byte() {
        0 => rest.truncate(usize::from(input.byte())),
        1 => rest.extend(input.bytes(8)),
        _ => {}
    }
    let mut message = message(&rest);
    if input.byte() == 0 {
        message[..4].copy_from_slice(&input.word().to_le_bytes());
    }
    message
}

/// The root, one of a few fids, or any.
fn fid(input: &mut Input<'_>) -> u32 {
    match input.byte() % 16 {
        0 => input.word(),
        n => u32::from(n) % 6,
    }
}

fn mode(input: &mut Input<'_>) -> u32 {
    let kinds = [0, 1, 2, 0o644, 0o4755, 0x200, 0o1002, 0o20_0000, 0x3F];
    match input.byte() % 4 {
        0 => input.word(),
        1 => input.one_of(&[0o1_0644, 0o2_0644, 0o6_0644, 0o14_0644]),
        _ => kinds[usize::from(input.byte()) % kinds.len()],
    }
}

fn place_in_file(input: &mut Input<'_>) -> u64 {
    match input.byte() % 4 {
        0 => u64::from(input.word()) << 32 | u64::from(input.word()),
        1 => u64::from(input.byte()),
        _ => 0,
    }
}

fn one_of(texts: &[&str], input: &mut Input<'_>) -> Vec<u8> {
    text(texts[usize::from(input.byte()) % texts.len()].as_bytes())
}

fn name(input: &mut Input<'_>) -> Vec<u8> {
    let index = usize::from(input.byte()) % (NAMES.len() + 2);
    match NAMES.get(index) {
        Some(name) => text(name.as_bytes()),
        None => {
            let len = usize::from(input.byte());
            text(input.bytes(len))
        }
    }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
    [&len, bytes].concat()
}

/// Sends a message, and returns what was put into the room.
fn ask(
    server: &mut Server,
    memory: &GuestMemory,
    message: &[u8],
    room: u32,
) -> Vec<u8> {
    let put = memory.write(REQUEST, message);
    put.expect("there is room");
    let len = u32::try_from(message.len()).unwrap_or(0);
    let section = |at, len| {
        let section: Result<Section, _> = memory.section(at, len);
        section.expect("it is in memory")
    };
    let half = len / 2;
    let readable =
        [section(REQUEST, half), section(REQUEST + half, len - half)];
    let part = room.min(11);
    let writable = [section(ANSWER, part), section(ANSWER + part, room - part)];
    let bytes = server.serve(&Payload {
        memory,
        readable: &readable,
        writable: &writable,
    });
    assert!(bytes <= room, "more than there is room for");
    let mut answer = vec![0; bytes as usize];
    let read = memory.read(ANSWER, &mut answer);
    read.expect("it is in memory");
    answer
}

/// Checks an answer.
fn check(message: &[u8], answer: &[u8], room: u32) {
    let secret = answer.windows(SECRET.len()).any(|part| part == SECRET);
    assert!(!secret, "the secret was told");
    let (Some(&[kind, low, high]), true) =
        (message.get(4..7).and_then(|h| h.first_chunk()), room >= 11)
    else {
        return;
    };
    let size = u32::try_from(answer.len()).unwrap_or(0).to_le_bytes();
    assert!(answer[..4] == size, "another size than it has");
    assert!(answer[5..7] == [low, high], "the answer of another request");
    let good = [kind.wrapping_add(1), 7].contains(&answer[4]);
    assert!(good, "an answer of another kind");
    if answer[4] == 7 && kind != 6 {
        let error = answer[7..11].first_chunk().copied();
        let error = i32::from_le_bytes(error.unwrap_or_default());
        assert!((1..4096).contains(&error), "error {error}");
    }
}
