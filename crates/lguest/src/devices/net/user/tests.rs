//! A network without its passt, for a Guest that has no buffer.

use super::*;
use crate::devices::net::FrameBuffers;
use crate::devices::{Filled, Readiness, ReceiveBuffers, Violation};
use crate::memory::{GuestMemory, SectionsIn};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Buffers of a Guest, all of which are full.
struct Full;

impl FrameBuffers for Full {}

impl ReceiveBuffers for Full {
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

/// A buffer that is free as often as one is wanted.
struct Free(GuestMemory);

impl FrameBuffers for Free {}

impl ReceiveBuffers for Free {
    fn fill(
        &mut self,
        fill: &mut dyn FnMut(SectionsIn<'_>) -> io::Result<u32>,
    ) -> Result<Filled, Violation> {
        let whole = [self.0.section(0, 0x1000).unwrap()];
        let (region, list) = (self.0.region(), &whole[..]);
        let filled = fill(SectionsIn { region, list });
        Ok(filled.map_or_else(Filled::Failed, Filled::Bytes))
    }

    fn are_any(&self) -> bool {
        true
    }
}

/// A network with a name server, and what is in the place of passt.
fn user() -> (User, UnixStream) {
    let (ours, other) = UnixStream::pair().unwrap();
    let stream = Stream::connected(ours.into(), Box::new(|_| {})).unwrap();
    #[expect(
        clippy::zombie_processes,
        reason = "`wait_for_the_end` collects it"
    )]
    let child = Command::new("true").spawn().unwrap();
    let (messages, _) = process::messages().unwrap();
    let passt = Passt::new(&child, messages).unwrap();
    passt.wait_for_the_end();
    let known = [("known.example".to_owned(), Vec::new())];
    let user = User::new(stream, passt.into(), None, Some(known.into()));
    (user.unwrap(), other)
}

/// Whether something wakes the thread that watches `nic` within `time`.
fn is_woken(nic: &Nic, time: Duration) -> bool {
    let time = Timespec::try_from(time).unwrap();
    let mut watched = [PollFd::from_borrowed_fd(nic.input(), PollFlags::IN)];
    poll(&mut watched, Some(&time)).unwrap() > 0
}

/// Has the Guest, which has no buffer, look. Nothing wakes the thread then, but
/// the timer may run out in between.
fn starve(nic: &mut Nic) {
    let is_quiet = (0..3).any(|_| {
        let found = nic.handle_input(&mut Full).unwrap();
        let Readiness::NoBuffer { watch, .. } = found else {
            panic!("{found:?}");
        };
        assert!(watch, "frames are read ahead");
        !is_woken(nic, Duration::ZERO)
    });
    assert!(is_quiet, "the thread would spin");
}

/// A frame that passt sends, with its length.
fn sent(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).unwrap();
    [&length.to_be_bytes(), frame].concat()
}

#[test]
fn answers_for_a_guest_without_a_buffer_wake_no_thread() {
    let (mut user, _other) = user();
    for _ in 0..3 {
        let question = names::tests::question_of_the_guest();
        user.send(&question, Offload::default()).unwrap();
    }
    let mut nic = Nic::new(Box::new(user), [2; 6]);
    assert!(is_woken(&nic, Duration::ZERO), "there are answers");
    starve(&mut nic);
    starve(&mut nic);
    // It has buffers again, and gets all of them.
    let mut free = Free(GuestMemory::new(0x1000, 0).unwrap());
    let found = nic.handle_input(&mut free).unwrap();
    assert_eq!(found, Readiness::Wait);
    let counters = nic.counters();
    assert!(counters.contains(&("frames_received", 3)), "{counters:?}");
}

#[test]
fn an_acknowledgement_of_a_guest_without_a_buffer_wakes_no_thread_twice() {
    let (mut user, mut other) = user();
    for number in [1, 3, 5] {
        user.acks.saw(&acks::tests::byte(number));
    }
    let ack = acks::tests::ack(2);
    for _ in 0..3 {
        user.send(&ack, Offload::default()).unwrap();
    }
    user.flush();
    assert!(user.acks.due().is_some(), "it has asked, and repeats that");
    let mut nic = Nic::new(Box::new(user), [2; 6]);
    other.write_all(&sent(&[1; 60])).unwrap();
    // One that says something, two that ask, and two that were held back.
    let expected = sent(&ack).repeat(5);
    let mut all = Vec::new();
    other.set_nonblocking(true).unwrap();
    loop {
        starve(&mut nic);
        let _ = other.read_to_end(&mut all); // "try again" is the end
        if all.len() == expected.len() {
            break;
        }
        let minute = Duration::from_secs(60);
        assert!(is_woken(&nic, minute), "the timer runs out");
    }
    assert_eq!(all, expected);
}

/// The same with this port at its `end`: 0 is the one from, 1 the one to.
fn by_port(mut frame: Vec<u8>, end: usize, port: u8) -> Vec<u8> {
    frame[14 + 20 + 2 * end + 1] = port;
    frame
}

#[test]
fn an_acknowledgement_waits_no_longer_because_another_one_does() {
    let (mut user, _other) = user();
    let now = Instant::now();
    let pause = acks::PAUSE;
    for (port, at) in [(98, now), (97, now + pause / 2)] {
        for number in [1, 3] {
            user.acks.saw(&by_port(acks::tests::byte(number), 0, port));
        }
        for _ in 0..3 {
            let ack = by_port(acks::tests::ack(2), 1, port);
            user.acks.copies(&ack, at);
        }
    }
    user.set_timer();
    let mut timer = [PollFd::new(&user.timer, PollFlags::IN)];
    poll(&mut timer, None).unwrap();
    user.release();
    let left = rustix::time::timerfd_gettime(&user.timer).unwrap().it_value;
    let left = Duration::try_from(left).unwrap();
    assert!(left <= pause / 2, "the other one waits for {left:?} more");
}
