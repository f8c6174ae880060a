//! Tests: foreign processes send files that block their receiver.

use super::super::messages::Hello;
use super::super::rendezvous::{Rendezvous, send as say};
use super::super::tests::Scratch;
use super::*;
use crate::memory::sealed_file;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Two ends of a connection, one of them a Launcher's.
fn connection(porter: &Arc<Porter>) -> (Connection, OwnedFd) {
    let (ours, theirs) = pair().unwrap();
    (Connection::new(ours, porter), theirs)
}

/// The next answer of `porter`.
fn wait_for(porter: &Porter) -> (u64, Received) {
    loop {
        let mut fds =
            [PollFd::from_borrowed_fd(porter.answers(), PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        if let Some(answer) = porter.answer().unwrap() {
            return answer;
        }
    }
}

fn porter() -> Arc<Porter> {
    Arc::new(Porter::start().unwrap())
}

/// What a helper answers to a hello with these files.
fn files_that_come(porter: &Arc<Porter>, files: &[BorrowedFd<'_>]) -> usize {
    let (ours, theirs) = connection(porter);
    let hello = Hello::new((1, 2), 3, true);
    say(theirs.as_fd(), &hello, files).unwrap();
    porter.ask(7, &ours).unwrap();
    let (id, received) = wait_for(porter);
    assert_eq!(id, 7);
    match received.parse::<Hello>() {
        Some((came, files)) => {
            assert_eq!(came, hello);
            files.len()
        }
        None => usize::MAX,
    }
}

#[test]
fn only_sealed_memory_is_passed_on() {
    const NOT: usize = usize::MAX;
    let porter = porter();
    let good = sealed_file("good", 4096).unwrap();
    let plain = File::open("/proc/self/status").unwrap();
    let (socket, _other) = pair().unwrap();
    let loose = rustix::fs::memfd_create("loose", MemfdFlags::ALLOW_SEALING);
    let loose = loose.unwrap();
    let (g, p) = (good.as_fd(), plain.as_fd());
    for (files, come) in [
        (&[][..], 0),
        (&[g], 1),
        (&[g, g], 2),
        (&[p], NOT),
        (&[g, p], NOT),
        (&[p, g], NOT),
        (&[socket.as_fd()], NOT),
        (&[loose.as_fd()], NOT),
    ] {
        assert_eq!(files_that_come(&porter, files), come);
    }
}

#[test]
fn no_message_a_bad_one_and_an_end_differ() {
    let porter = porter();
    let (ours, theirs) = connection(&porter);
    porter.ask(1, &ours).unwrap();
    assert!(matches!(wait_for(&porter), (1, Received::Nothing)));
    for len in [1, 31, 33, 1000] {
        let bytes = vec![9; len];
        rustix::net::send(&theirs, &bytes, SendFlags::empty()).unwrap();
        porter.ask(2, &ours).unwrap();
        let (id, received) = wait_for(&porter);
        assert_eq!(id, 2);
        assert!(received.parse::<Hello>().is_none(), "{len}");
    }
    drop(theirs);
    // For a moment, a child that another test has just forked has a copy of
    // that end. The porter finds no message then, and no end.
    let deadline = Instant::now() + Duration::from_secs(60);
    let end = loop {
        porter.ask(3, &ours).unwrap();
        match wait_for(&porter) {
            (3, Received::Nothing) => assert!(Instant::now() < deadline),
            other => break other,
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(matches!(end, (3, Received::Bad)));
}

/// A TCP connection whose `close` waits for hours, because its other end does
/// not read.
fn lingers() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let linger = Some(std::time::Duration::from_secs(10_000));
    rustix::net::sockopt::set_socket_linger(&ours, linger).unwrap();
    ours.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &ours, &[0; 1 << 16]).is_ok() {}
    (ours, theirs)
}

/// Whether `porter` still works.
fn is_well(porter: &Arc<Porter>) {
    let good = sealed_file("good", 4096).unwrap();
    assert_eq!(files_that_come(porter, &[good.as_fd()]), 1);
}

#[test]
fn a_socket_that_lingers_blocks_no_launcher() {
    let porter = porter();
    let mut others = Vec::new();
    for _ in 0..4 {
        let (lingering, other) = lingers();
        others.push(other);
        // A helper has the last one, ...
        let (ours, theirs) = connection(&porter);
        let hello = Hello::new((1, 2), 3, true);
        say(theirs.as_fd(), &hello, &[lingering.as_fd()]).unwrap();
        drop(lingering);
        porter.ask(7, &ours).unwrap();
        assert!(matches!(wait_for(&porter), (7, Received::Bad)));
        // ... or it is in a message that was not received.
        let (lingering, other) = lingers();
        others.push(other);
        let (ours, theirs) = connection(&porter);
        say(theirs.as_fd(), &hello, &[lingering.as_fd()]).unwrap();
        drop((lingering, theirs));
        drop(ours);
        is_well(&porter);
    }
    drop(porter);
    drop(others);
}

#[test]
fn a_listener_with_waiting_connections_is_closed_at_once() {
    let dir = Scratch::new();
    let meet = Rendezvous::beside(&dir.page("lan")).unwrap();
    let porter = porter();
    let listener = meet.listen(0, &porter).unwrap();
    let (lingering, _other) = lingers();
    let guest = meet.connect(0, &porter).unwrap();
    let hello = Hello::new((1, 2), 3, true);
    say(guest.as_fd(), &hello, &[lingering.as_fd()]).unwrap();
    drop(lingering);
    drop(listener);
    is_well(&porter);
}

#[test]
fn a_porter_ends_with_its_launcher() {
    let porter = porter();
    let process = porter.process.try_clone().unwrap();
    drop(porter);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    // It has been reaped, so there is no child to wait for.
    let gone = waitid(WaitId::PidFd(process.as_fd()), options);
    assert_eq!(gone.err(), Some(Errno::CHILD));
}

#[test]
fn without_its_porter_a_launcher_goes_on() {
    let porter = porter();
    porter.killer.as_ref().unwrap().kill();
    let mut fds = [PollFd::from_borrowed_fd(porter.answers(), PollFlags::IN)];
    poll(&mut fds, None).unwrap();
    assert!(porter.answer().is_err());
    // Its sockets are closed one after the other, and for a moment children
    // that other tests fork have copies of them.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (ours, _theirs) = connection(&porter);
        match porter.ask(1, &ours) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => break,
            _ => assert!(Instant::now() < deadline, "there is still a reader"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
