//! The server without a Launcher: its clients are called by the test.

use super::*;
use crate::machines::protocol::{Bytes, call};
use crate::machines::settings::Settings;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, Shutdown, SocketType, shutdown, socketpair};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// A machine that does nothing.
struct Machine {
    facts: Facts,
    backlog: Arc<Backlog>,
    traced: Arc<Mutex<u32>>,
}

impl Controlled for Machine {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    fn is_paused(&self) -> bool {
        false
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn pause(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn resume(&mut self) {}

    fn freeze(&mut self) -> Result<(Frozen, Vec<OwnedFd>), String> {
        Err("it does nothing".into())
    }

    fn thaw(&mut self) {}

    fn trace(
        &mut self,
        groups: u32,
        _sample_every: Duration,
    ) -> Result<(Traced, OwnedFd), String> {
        *lock(&self.traced) = groups;
        let before = Vec::new();
        Ok((Traced { before }, pair().0))
    }

    fn end_trace(&mut self) {
        *lock(&self.traced) = 0;
    }

    fn stop_keys(&self) -> Option<String> {
        None
    }

    fn kill(&mut self) {}

    fn ready(&mut self) {}
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

/// A server, and the pipe to the console, which holds one page.
fn server() -> (Server, OwnedFd) {
    server_of(&Arc::default())
}

/// The same; `traced` is what the machine traces for a client.
fn server_of(traced: &Arc<Mutex<u32>>) -> (Server, OwnedFd) {
    let facts = Facts {
        name: "web".parse().unwrap(),
        pid: 1,
        started: 0,
        version: String::new(),
        kernel: None,
        settings: Settings::default(),
    };
    let news = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let file = memfd_create("backlog", MemfdFlags::CLOEXEC).unwrap();
    let wakes = news.try_clone().unwrap();
    let backlog = Arc::new(Backlog::new(file.into(), wakes, None));
    let (console, typed) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    fcntl_setpipe_size(&typed, 4096).unwrap();
    let server = Server::new(Parts {
        machine: Box::new(Machine {
            facts,
            backlog,
            traced: Arc::clone(traced),
        }),
        listener: pair().0,
        typed,
        news,
        ended: Ended::default(),
    });
    (server, console)
}

#[test]
fn what_one_client_types_is_not_mixed_with_what_another_types() {
    let (mut server, console) = server();
    let [first, second] = [1, 2].map(|pid| {
        let (ours, theirs) = pair();
        server.add(theirs, pid);
        ours
    });
    let types = |socket: &OwnedFd, data: Vec<u8>| {
        let line = call(1, &Call::Write { data: Bytes(data) });
        let sent = send(socket, &line, SendFlags::empty()).unwrap();
        assert_eq!(sent, line.len());
    };
    let mut some_rounds = || {
        for _ in 0..10 {
            server.round(Some(Duration::ZERO)).unwrap();
        }
    };
    // More than the pipe holds.
    types(&second, vec![b'2'; 6000]);
    some_rounds();
    types(&first, vec![b'1'; 10]);
    let mut typed = Vec::new();
    loop {
        some_rounds();
        let mut bytes = [0; 4096];
        match rustix::io::read(&console, &mut bytes) {
            Ok(n) => typed.extend_from_slice(&bytes[..n]),
            Err(_) => break,
        }
    }
    assert_eq!(typed, [vec![b'2'; 6000], vec![b'1'; 10]].concat());
}

#[test]
fn what_a_client_traces_ends_with_its_connection() {
    let traced = Arc::default();
    let (mut server, _console) = server_of(&traced);
    let (ours, theirs) = pair();
    let (other, theirs_too) = pair();
    server.add(theirs, 1);
    server.add(theirs_too, 2);
    let mut say = |socket: Option<&OwnedFd>, groups: &[&str]| {
        if let Some(socket) = socket {
            let groups = groups.iter().map(|&name| name.into()).collect();
            let samples_us = 0;
            let line = call(1, &Call::Trace { groups, samples_us });
            send(socket, &line, SendFlags::empty()).unwrap();
        }
        for _ in 0..3 {
            server.round(Some(Duration::ZERO)).unwrap();
        }
        *lock(&traced)
    };
    let answer = |socket: &OwnedFd| {
        let mut bytes = [0; 1000];
        let n = rustix::io::read(socket, &mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    assert_eq!(say(Some(&ours), &["traps", "sleep"]), 4 | 1 << 8);
    assert!(answer(&ours).contains("before"));
    assert_eq!(say(Some(&other), &["exits"]), 4 | 1 << 8);
    assert!(answer(&other).contains("another client traces it"));
    assert_eq!(say(Some(&ours), &["calls"]), 4 | 1 << 8);
    assert!(answer(&ours).contains("there is no group 'calls'"));
    // A process that another test has just forked may have it for a moment.
    shutdown(&ours, Shutdown::Both).unwrap();
    drop(ours);
    assert_eq!(say(None, &[]), 0);
    assert_eq!(say(Some(&other), &["exits"]), 1);
}
