//! A hostile process at the other end of a stream.

use super::outgoing::BATCH;
use super::*;
use crate::devices::net::{FRAME_MOST, FrameBuffers, Nic};
use crate::devices::{Filled, Readiness, ReceiveBuffers, Violation};
use crate::memory::SectionsIn;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair,
};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a busy machine may take until a process that another test has
/// forked has closed what it inherited.
const PATIENCE: Duration = Duration::from_secs(60);

/// The other end, and what was said about the link.
struct Other {
    file: File,
    said: Arc<Mutex<Vec<String>>>,
}

impl Other {
    fn write(&self, bytes: &[u8]) {
        (&self.file).write_all(bytes).unwrap();
    }

    fn frame(&self, frame: &[u8]) {
        self.write(&u32::try_from(frame.len()).unwrap().to_be_bytes());
        self.write(frame);
    }

    /// The next frame from the Guest. Waits.
    fn read(&self) -> Vec<u8> {
        let mut length = [0; 4];
        (&self.file).read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        (&self.file).read_exact(&mut frame).unwrap();
        frame
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

fn report(said: &Arc<Mutex<Vec<String>>>) -> Report {
    let said = said.clone();
    Box::new(move |reason| {
        said.lock().unwrap().push(reason.to_owned());
    })
}

fn pair() -> (Stream, Other) {
    let kind = SocketType::STREAM;
    let flags = SocketFlags::CLOEXEC;
    let (ours, other) =
        socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
    let said = Arc::default();
    let stream = Stream::connected(ours, report(&said)).unwrap();
    let file = other.into();
    (stream, Other { file, said })
}

/// The next frame for the Guest; empty if it was dropped.
fn receive(stream: &mut Stream) -> Result<Vec<u8>, ErrorKind> {
    let mut frame = Vec::new();
    let received = stream.receive(&mut frame);
    received.map(|_| frame).map_err(|error| error.kind())
}

fn send(stream: &mut Stream, frame: &[u8]) -> Result<(), ErrorKind> {
    let sent = stream.send(frame, Offload::default());
    sent.map_err(|error| error.kind())
}

/// Whether the file to watch is readable.
fn is_readable(stream: &Stream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let input = stream.input();
    let mut fds = [PollFd::new(&input, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn frames_go_both_ways() {
    let (mut stream, other) = pair();
    assert_eq!(receive(&mut stream), Err(ErrorKind::WouldBlock));
    for length in [14, 60, 1514, 60_000] {
        let frame: Vec<u8> = (0..=255).cycle().take(length).collect();
        assert_eq!(send(&mut stream, &frame), Ok(()));
        stream.flush();
        assert_eq!(other.read(), frame);
        other.frame(&frame);
        assert!(is_readable(&stream));
        assert_eq!(receive(&mut stream), Ok(frame));
    }
    assert_eq!(receive(&mut stream), Err(ErrorKind::WouldBlock));
    assert!(!is_readable(&stream));
    assert!(other.said().is_empty());
}

#[test]
fn a_frame_that_is_too_short_is_dropped_and_the_next_one_comes() {
    let (mut stream, other) = pair();
    other.frame(&[2; 13]);
    other.frame(&[]);
    other.frame(&[3; 1514]);
    for _ in 0..2 {
        assert_eq!(receive(&mut stream), Ok(vec![]));
    }
    assert_eq!(receive(&mut stream), Ok(vec![3; 1514]));
}

#[test]
fn a_length_that_lies_takes_the_link_down() {
    let (mut stream, other) = pair();
    other.frame(&[1; 60]);
    other.write(&[0xFF; 60]);
    assert_eq!(receive(&mut stream), Ok(vec![1; 60]));
    assert_eq!(receive(&mut stream), Err(ErrorKind::NotConnected));
    assert_eq!(send(&mut stream, &[1; 60]), Err(ErrorKind::NotConnected));
    stream.flush();
    let said = other.said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("a frame of 4294967295 bytes"), "{said:?}");
    assert!(!is_readable(&stream), "a link that is down is not readable");
    // The socket is closed, too.
    assert_eq!((&other.file).read(&mut [0; 9]).unwrap(), 0);
}

#[test]
fn a_stream_that_stops_in_a_frame_brings_no_part_of_it() {
    let (mut stream, other) = pair();
    other.write(&[0, 0, 0, 60, 1, 2, 3]);
    for _ in 0..3 {
        assert_eq!(receive(&mut stream), Err(ErrorKind::WouldBlock));
        assert!(!is_readable(&stream), "it would be asked without end");
    }
    assert_eq!(send(&mut stream, &[7; 60]), Ok(()));
    stream.flush();
    assert_eq!(other.read(), [7; 60], "the other direction goes on");
    shutdown(&other.file, Shutdown::Write).unwrap();
    assert!(is_readable(&stream));
    assert_eq!(receive(&mut stream), Err(ErrorKind::NotConnected));
    assert_eq!(other.said(), ["it has closed the stream"]);
}

#[test]
fn a_peer_that_reads_nothing_loses_whole_frames_and_blocks_nothing() {
    let (mut stream, other) = pair();
    let frame = |n: u16| {
        let mut frame = vec![0; 1514];
        frame[..2].copy_from_slice(&n.to_be_bytes());
        frame
    };
    let mut taken = Vec::new();
    for n in 0..4000 {
        match send(&mut stream, &frame(n)) {
            Ok(_) => taken.push(n),
            Err(kind) => assert_eq!(kind, ErrorKind::WouldBlock),
        }
        stream.flush();
    }
    assert!(taken.len() > 600, "{} were taken", taken.len());
    assert!(taken.len() < 2000, "{} were taken", taken.len());
    // The other end reads again: room wakes the Launcher, which sends the rest.
    let count = taken.len();
    let reader = std::thread::spawn(move || {
        let frames = (0..count).map(|_| other.read()).collect::<Vec<_>>();
        (frames, other)
    });
    while stream.peer.as_ref().unwrap().outgoing.waiting() > 0 {
        if is_readable(&stream) {
            stream.flush();
        }
        std::thread::yield_now();
    }
    let (frames, other) = reader.join().unwrap();
    let expected: Vec<_> = taken.into_iter().map(frame).collect();
    assert!(
        frames == expected,
        "each frame that was taken is there, whole"
    );
    assert!(!is_readable(&stream), "room alone makes nothing readable");
    assert!(other.said().is_empty());
}

/// passt of 2023 loses frames for which its socket has no room.
#[test]
fn frames_are_read_ahead_up_to_a_bound() {
    const FRAME: usize = 1000;
    let (mut stream, other) = pair();
    rustix::io::ioctl_fionbio(&other.file, true).unwrap();
    let mut text = 996_u32.to_be_bytes().to_vec();
    text.resize(FRAME, 7);
    // What a busy peer can send while the Guest takes nothing.
    let mut sent = 0;
    loop {
        stream.read_ahead();
        let piece = &text[sent % FRAME..];
        match (&other.file).write(piece) {
            Ok(count) => sent += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(stream.reads_more() || is_readable(&stream));
    }
    assert!(sent >= 4 << 20, "{sent}");
    assert!(sent < 8 << 20, "{sent}");
    assert!(!stream.reads_more(), "it would be asked without end");
    // All of it comes, and then the end.
    shutdown(&other.file, Shutdown::Write).unwrap();
    for _ in 0..sent / FRAME {
        assert_eq!(receive(&mut stream), Ok(vec![7; 996]));
        stream.read_ahead();
    }
    assert!(other.said().is_empty());
    assert!(
        !stream.reads_more(),
        "the end would be readable without end"
    );
    assert_eq!(receive(&mut stream), Err(ErrorKind::NotConnected));
    assert_eq!(other.said(), ["it has closed the stream"]);
}

#[test]
fn many_frames_are_sent_at_once() {
    let (mut stream, other) = pair();
    for n in 0..100 {
        assert_eq!(send(&mut stream, &[n; 100]), Ok(()));
    }
    let waiting = stream.peer.as_ref().unwrap().outgoing.waiting();
    assert_eq!(waiting, 100 * 104);
    const { assert!(100 * 104 < BATCH) };
    stream.flush();
    for n in 0..100 {
        assert_eq!(other.read(), [n; 100]);
    }
}

#[test]
fn a_frame_that_is_too_long_is_lost() {
    let (mut stream, other) = pair();
    assert_eq!(send(&mut stream, &vec![1; FRAME_MOST]), Ok(()));
    let longer = send(&mut stream, &vec![2; FRAME_MOST + 1]);
    assert_eq!(longer, Err(ErrorKind::WouldBlock));
    stream.flush();
    assert_eq!(other.read(), vec![1; FRAME_MOST]);
}

#[test]
fn a_peer_that_dies_is_reported_once_whichever_way_it_is_noticed() {
    let (mut stream, other) = pair();
    let said = other.said.clone();
    drop(other);
    assert_eq!(send(&mut stream, &[7; 60]), Ok(()));
    // For a moment, a process that another test has just forked may have that
    // end.
    let deadline = Instant::now() + PATIENCE;
    let end = loop {
        assert!(Instant::now() < deadline, "the end is not noticed");
        stream.flush();
        match send(&mut stream, &[7; 60]) {
            Ok(()) | Err(ErrorKind::WouldBlock) => std::thread::yield_now(),
            Err(end) => break end,
        }
    };
    assert_eq!(end, ErrorKind::NotConnected);
    assert_eq!(receive(&mut stream), Err(ErrorKind::NotConnected));
    assert_eq!(said.lock().unwrap().len(), 1);
}

/// Waits until nothing listens at `path`: for a moment after the end of a
/// listener, a process that another test has just forked may have its socket.
fn wait_until_nobody_listens(path: &std::path::Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "somebody listens");
        match open::connected(path) {
            Err(open::StreamError::NoListener { .. }) => return,
            Ok(_) | Err(open::StreamError::Full { .. }) => {
                std::thread::yield_now();
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn after_a_peer_the_next_one_may_connect() {
    let dir = std::env::temp_dir();
    let path = dir.join(format!("lguest-stream-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = open::listen_at(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o777, 0o600, "only this user may connect");
    let in_use = open::listen_at(&path).err().unwrap().to_string();
    assert!(in_use.contains("another process listens"), "{in_use}");
    let said = Arc::default();
    let mut stream = Stream::listening(listener, report(&said)).unwrap();
    assert_eq!(send(&mut stream, &[7; 60]), Err(ErrorKind::NotConnected));
    // The one that found out that the path is in use has gone.
    assert_eq!(receive(&mut stream), Err(ErrorKind::WouldBlock));
    for n in 0..3 {
        let other = Other {
            file: File::from(open::connected(&path).unwrap()),
            said: Arc::clone(&said),
        };
        other.frame(&[n; 60]);
        while !is_readable(&stream) {
            std::thread::yield_now();
        }
        while receive(&mut stream) != Ok(vec![n; 60]) {
            std::thread::yield_now();
        }
        assert_eq!(send(&mut stream, &[n; 70]), Ok(()));
        stream.flush();
        assert_eq!(other.read(), [n; 70]);
        drop(other);
        while receive(&mut stream) != Err(ErrorKind::WouldBlock) {}
    }
    drop(stream);
    // Its socket is left behind, and the next one takes its place.
    wait_until_nobody_listens(&path);
    drop(open::listen_at(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    File::create(&path).unwrap();
    assert!(open::listen_at(&path).is_err(), "a file is not removed");
    assert!(path.exists());
    std::fs::remove_file(&path).unwrap();
}

/// The first name of a socket is longer than that of the user.
#[test]
fn a_path_may_be_as_long_as_an_address() {
    const MOST: usize = 108;
    let name = format!("lguest-long-{}-", std::process::id());
    let mut folder = std::env::temp_dir().join(name).into_os_string();
    folder.push("x".repeat(MOST - 2 - folder.len()));
    std::fs::create_dir(&folder).unwrap();
    let folder = std::path::PathBuf::from(folder);
    let path = folder.join("s");
    // The second one replaces what the first one has left.
    for _ in 0..2 {
        let listener = open::listen_at(&path).unwrap();
        drop(open::connected(&path).unwrap());
        drop(listener);
        wait_until_nobody_listens(&path);
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    let longer = open::listen_at(&folder.join("so")).err().unwrap();
    assert!(longer.to_string().contains("too long"), "{longer}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn of_two_servers_that_start_at_once_one_listens() {
    let dir = std::env::temp_dir();
    let path = dir.join(format!("lguest-servers-{}", std::process::id()));
    for left in [false, true].repeat(50) {
        let _ = std::fs::remove_file(&path);
        if left {
            // Its process is gone.
            drop(open::listen_at(&path).unwrap());
            wait_until_nobody_listens(&path);
        }
        let barrier = std::sync::Barrier::new(2);
        let start = || {
            barrier.wait();
            open::listen_at(&path)
        };
        let both = std::thread::scope(|scope| {
            let threads = [scope.spawn(start), scope.spawn(start)];
            threads.map(|thread| thread.join().unwrap())
        });
        let listens = both.iter().filter(|one| one.is_ok()).count();
        assert_eq!(listens, 1, "{both:?}");
        drop(open::connected(&path).unwrap());
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_listener_whose_queue_is_full_is_not_waited_for() {
    let dir = std::env::temp_dir();
    let path = dir.join(format!("lguest-full-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = open::listen_at(&path).unwrap();
    let mut waiting = Vec::new();
    let full = loop {
        match open::connected(&path) {
            Ok(socket) => waiting.push(socket),
            Err(error) => break error.to_string(),
        }
    };
    assert!(full.contains("others wait for it"), "{full}");
    assert!(!waiting.is_empty());
    // The cure: a connection ends, and the next process is let in.
    drop(waiting);
    while accept_with(&listener, SocketFlags::CLOEXEC).is_ok() {}
    drop(open::connected(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
}

/// A socket that does not listen refuses as one does when the machine has no
/// descriptor left: it is readable, and nothing comes.
#[test]
fn a_peer_that_cannot_be_let_in_is_looked_for_after_a_pause() {
    struct NoBuffers;
    impl ReceiveBuffers for NoBuffers {
        fn fill(
            &mut self,
            _: &mut dyn FnMut(SectionsIn<'_>) -> io::Result<u32>,
        ) -> Result<Filled, Violation> {
            Ok(Filled::NoneFree)
        }

        fn are_any(&self) -> bool {
            true
        }
    }
    impl FrameBuffers for NoBuffers {}
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    );
    let report = Box::new(|_: &str| {});
    let stream = Stream::listening(listener.unwrap(), report).unwrap();
    assert!(is_readable(&stream));
    let mut nic = Nic::new(Box::new(stream), [2; 6]);
    let found = nic.handle_input(&mut NoBuffers).unwrap();
    assert_eq!(found, Readiness::Taken);
}
