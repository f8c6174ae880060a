//! The multiplexer without a thread: the test is the Guest and the clients.

use super::*;
use lg_exec::command::kind;
use lg_exec::frame::Decoder;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair,
};

type Owned = (u32, u8, Vec<u8>);

struct Machine {
    channel: Arc<Channel>,
    streams: Streams,
    multiplexer: Multiplexer,
    /// What the agent reads.
    agent: Decoder,
}

fn machine() -> Machine {
    let channel = Arc::new(Channel::new().unwrap());
    channel.set_open(true);
    of(channel, false)
}

fn of(channel: Arc<Channel>, goes_on: bool) -> Machine {
    let streams = Streams::new(channel.clone());
    Machine {
        multiplexer: Multiplexer::new(&streams, goes_on).unwrap(),
        channel,
        streams,
        agent: Decoder::new(),
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

/// Closes an end. A process that another test has just forked may have it for a
/// moment.
fn leave(end: OwnedFd) {
    shutdown(&end, Shutdown::Both).unwrap();
}

impl Machine {
    fn client(&mut self) -> (u32, Far) {
        let (socket, theirs) = pair();
        let number = self.streams.add(theirs).unwrap();
        self.multiplexer.step();
        let decoder = Decoder::new();
        (number, Far { socket, decoder })
    }

    /// The frames that the agent gets.
    fn agent_gets(&mut self) -> Vec<Owned> {
        let mut found = Vec::new();
        loop {
            self.multiplexer.step();
            let mut all = Vec::new();
            let take = |bytes: &[u8]| {
                all.extend_from_slice(bytes);
                Ok::<_, ()>(bytes.len())
            };
            self.channel.give_to_guest(take).unwrap();
            if all.is_empty() {
                return found;
            }
            let mut rest = all.as_slice();
            while let Some(frame) = self.agent.next(&mut rest).unwrap() {
                found.push((frame.stream, frame.kind, frame.payload.to_vec()));
            }
        }
    }

    fn agent_sends(&mut self, stream: u32, kind: u8, payload: &[u8]) {
        self.channel.put_from_guest(&frame(stream, kind, payload));
        self.multiplexer.step();
    }
}

/// A client.
struct Far {
    socket: OwnedFd,
    decoder: Decoder,
}

impl Far {
    fn sends(&self, bytes: &[u8]) {
        let sent = send(&self.socket, bytes, SendFlags::DONTWAIT).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// The frames that it gets, and whether its socket is closed then.
    fn gets(&mut self) -> (Vec<Owned>, bool) {
        let mut found = Vec::new();
        let mut bytes = vec![0; 1 << 20];
        loop {
            match recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return (found, true),
                Ok((n, _)) => {
                    let mut rest = &bytes[..n];
                    while let Some(frame) =
                        self.decoder.next(&mut rest).unwrap()
                    {
                        let payload = frame.payload.to_vec();
                        found.push((frame.stream, frame.kind, payload));
                    }
                }
                Err(Errno::AGAIN) => return (found, false),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The text by which its stream was closed.
    fn why(&mut self) -> String {
        let (frames, closed) = self.gets();
        assert!(closed);
        let (stream, kind, payload) = frames.last().unwrap();
        let frame = lg_exec::frame::Frame {
            stream: *stream,
            kind: *kind,
            payload,
        };
        match Report::read(&frame) {
            Ok(Some(Report::Failed(failed))) => failed.text,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn streams_have_the_number_that_the_launcher_gives() {
    let mut machine = machine();
    let (one, mut first) = machine.client();
    let (two, mut second) = machine.client();
    assert_ne!(one, two);
    // A client that says it is the other, and one that says it is the machine.
    first.sends(&frame(two, kind::START, b"a"));
    second.sends(&frame(0, kind::START, b"b"));
    let mut frames = machine.agent_gets();
    frames.sort();
    let expected = [
        (one, kind::START, b"a".to_vec()),
        (two, kind::START, b"b".to_vec()),
    ];
    assert_eq!(frames, expected);
    machine.agent_sends(two, 33, b"for two");
    machine.agent_sends(one, 33, b"for one");
    assert_eq!(first.gets().0, [(one, 33, b"for one".to_vec())]);
    assert_eq!(second.gets().0, [(two, 33, b"for two".to_vec())]);
}

#[test]
fn frames_without_a_client_are_dropped_and_counted() {
    let mut machine = machine();
    let (one, mut client) = machine.client();
    machine.agent_sends(77, 33, b"whose?");
    machine.agent_sends(u32::MAX, 33, b"whose?");
    machine.agent_sends(lg_exec::MACHINE, 1, b"hello");
    machine.agent_sends(one, 33, b"mine");
    assert_eq!(client.gets().0, [(one, 33, b"mine".to_vec())]);
    assert_eq!(machine.streams.dropped(), 2);
}

#[test]
fn the_agent_is_told_of_a_client_that_has_gone() {
    let mut machine = machine();
    let (one, client) = machine.client();
    let (_, mut other) = machine.client();
    leave(client.socket);
    let expected = [(one, kind::HANG_UP, Vec::new())];
    assert_eq!(machine.agent_gets(), expected);
    assert!(!machine.channel.streams().contains(&one));
    machine.agent_sends(one, 37, b"late");
    assert_eq!(machine.streams.dropped(), 1);
    assert_eq!(other.gets(), (Vec::new(), false));
}

#[test]
fn a_client_that_does_not_read_loses_its_stream_and_no_other() {
    let mut machine = machine();
    let (slow, mut client) = machine.client();
    let (fine, mut other) = machine.client();
    // What an honest agent sends at most arrives all the same.
    let piece = vec![b'x'; 30_000];
    let honest = 2 * lg_exec::credit::WINDOW as usize / (HEADER + piece.len());
    for _ in 0..honest {
        machine.agent_sends(slow, 33, &piece);
    }
    let (frames, closed) = client.gets();
    assert!(!frames.is_empty() && !closed);
    machine.multiplexer.step();
    assert!(!client.gets().1);
    // Then it floods.
    for _ in 0..100 {
        machine.agent_sends(slow, 33, &piece);
        machine.agent_sends(fine, 33, b"y");
    }
    assert_eq!(other.gets().0.len(), 100);
    let mut text = String::new();
    while text.is_empty() {
        machine.multiplexer.step();
        let (frames, closed) = client.gets();
        if closed {
            let (_, kind, payload) = frames.last().unwrap();
            assert_eq!(*kind, lg_exec::report::kind::FAILED);
            text = String::from_utf8_lossy(payload).into_owned();
        }
    }
    assert!(text.contains("more than it was allowed"), "{text}");
    machine.agent_sends(fine, 33, b"z");
    assert_eq!(other.gets(), (vec![(fine, 33, b"z".to_vec())], false));
}

#[test]
fn a_frame_that_is_too_long_closes_all_streams() {
    let mut machine = machine();
    let (_, first) = machine.client();
    let (_, second) = machine.client();
    machine.channel.put_from_guest(&[255; HEADER]);
    machine.multiplexer.step();
    for mut client in [first, second] {
        let why = client.why();
        assert!(why.contains("a frame of 4294967295 bytes"), "{why}");
    }
    let (_, theirs) = pair();
    let refused = machine.streams.add(theirs).unwrap_err().to_string();
    assert!(refused.contains("broken or hostile"), "{refused}");
}

#[test]
fn the_end_of_an_agent_closes_its_streams() {
    let mut machine = machine();
    let (one, mut client) = machine.client();
    machine.channel.put_from_guest(&frame(one, 33, b"last"));
    machine.channel.set_open(false);
    machine.multiplexer.step();
    machine.multiplexer.step();
    let (frames, closed) = client.gets();
    assert!(closed);
    assert_eq!(frames[0], (one, 33, b"last".to_vec()));
    assert_eq!(frames[1].1, lg_exec::report::kind::FAILED);
    // Another agent begins, and another client.
    machine.channel.set_open(true);
    let (two, client) = machine.client();
    client.sends(&frame(0, kind::START, b"again"));
    let frames = machine.agent_gets();
    assert!(frames.contains(&(two, kind::START, b"again".to_vec())));
}

#[test]
fn a_client_with_a_frame_that_is_too_long_loses_its_own_stream() {
    let mut machine = machine();
    let (_, mut client) = machine.client();
    let (two, other) = machine.client();
    client.sends(&[255; HEADER]);
    other.sends(&frame(0, kind::START, b"good"));
    let frames = machine.agent_gets();
    assert!(frames.contains(&(two, kind::START, b"good".to_vec())));
    assert!(client.why().contains("this client"));
}

#[test]
fn clients_take_turns_while_the_guest_is_slow() {
    let mut machine = machine();
    let (one, first) = machine.client();
    let (two, second) = machine.client();
    let piece = vec![0; 10_000];
    // The first has sent much before the second comes.
    for _ in 0..10 {
        first.sends(&frame(0, kind::STDIN, &piece));
    }
    for _ in 0..5 {
        second.sends(&frame(0, kind::STDIN, &piece));
    }
    let frames = machine.agent_gets();
    let streams: Vec<u32> = frames.iter().map(|frame| frame.0).collect();
    assert_eq!(streams.iter().filter(|s| **s == one).count(), 10);
    let seconds: Vec<usize> =
        (0..streams.len()).filter(|&n| streams[n] == two).collect();
    assert_eq!(seconds.len(), 5);
    assert!(seconds[4] <= 10, "{streams:?}");
}

#[test]
fn a_guest_that_reads_nothing_holds_its_clients_and_no_memory() {
    let mut machine = machine();
    let (_, client) = machine.client();
    let piece = frame(0, kind::STDIN, &vec![0; 50_000]);
    let mut sent = 0_usize;
    loop {
        machine.multiplexer.step();
        match send(&client.socket, &piece, SendFlags::DONTWAIT) {
            Ok(n) => sent += n,
            Err(Errno::AGAIN) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent < 4 << 20, "{sent}");
    // It goes all the same, and the agent is told when it reads.
    leave(client.socket);
    machine.multiplexer.wait().unwrap();
    let frames = machine.agent_gets();
    assert_eq!(frames.last().unwrap().1, kind::HANG_UP);
}

#[test]
fn the_machine_ends_with_its_owner() {
    let mut machine = machine();
    let (ours, theirs) = pair();
    let ended = Arc::new(AtomicU64::new(0));
    let ends = Arc::clone(&ended);
    let owner = Box::new(move || {
        ends.fetch_add(1, Ordering::SeqCst);
    });
    machine.streams.add_owner(theirs, owner).unwrap();
    machine.multiplexer.step();
    assert_eq!(ended.load(Ordering::SeqCst), 0);
    leave(ours);
    machine.multiplexer.step();
    machine.multiplexer.step();
    assert_eq!(ended.load(Ordering::SeqCst), 1);
}

#[test]
fn a_restored_agent_is_told_the_time_and_loses_old_runs() {
    let channel = Arc::new(Channel::new().unwrap());
    channel.set_open(true);
    let old = channel.begin_stream().unwrap();
    let mut machine = of(channel, true);
    let (new, client) = machine.client();
    assert_ne!(new, old);
    client.sends(&frame(0, kind::START, b"go"));
    let frames = machine.agent_gets();
    assert_eq!(frames[0], (old, kind::HANG_UP, Vec::new()));
    assert_eq!(frames[2], (new, kind::START, b"go".to_vec()));
    let restored = restored_in(&frames[1]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = now.as_secs().cast_signed();
    assert!((now - 60..=now).contains(&restored.seconds));
    assert_eq!(restored.random.len(), RANDOM);
    assert!(restored.random.iter().any(|byte| *byte != 0));
}

/// What an agent is told in this frame.
fn restored_in((stream, kind, payload): &Owned) -> Restored {
    let frame = lg_exec::frame::Frame {
        stream: *stream,
        kind: *kind,
        payload,
    };
    assert_eq!(*stream, lg_exec::MACHINE);
    match Command::read(&frame) {
        Ok(Some(Command::Restored(restored))) => restored,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_agent_of_a_restored_machine_is_told_before_a_command() {
    let channel = Arc::new(Channel::new().unwrap());
    channel.set_open(true);
    let mut machine = of(channel, true);
    machine.multiplexer.step();
    // The first agent ends without reading anything.
    machine.channel.set_open(false);
    machine.multiplexer.step();
    machine.channel.set_open(true);
    let (new, client) = machine.client();
    client.sends(&frame(0, kind::START, b"go"));
    let frames = machine.agent_gets();
    let first = restored_in(&frames[0]);
    assert_eq!(frames[1..], [(new, kind::START, b"go".to_vec())]);
    // The second one has read it. The third one cannot know that.
    machine.channel.set_open(false);
    machine.multiplexer.step();
    machine.channel.set_open(true);
    let frames = machine.agent_gets();
    let again = frames.iter().find(|frame| frame.1 == kind::RESTORED);
    let second = restored_in(again.unwrap());
    assert_ne!(first.random, second.random);
}

#[test]
fn agents_of_a_machine_that_has_booted_are_told_nothing() {
    let mut machine = machine();
    machine.channel.set_open(false);
    machine.multiplexer.step();
    machine.channel.set_open(true);
    assert_eq!(machine.agent_gets(), []);
}
