//! The control socket, whose clients are hostile.
//!
//! Clients connect, send any bytes in any pieces, read or do not, and hang up.
//! The Guest prints meanwhile. Nothing waits for a client; what a client
//! receives are lines of JSON; and the output in them is what the Guest has
//! printed, in order.

use crate::input::Input;
use lguest::devices::console::backlog::Backlog;
use lguest::machines::protocol::{Counts, Frozen, Received, Traced, received};
use lguest::machines::record::{End, Facts};
use lguest::machines::server::{
    CLIENTS_MOST, Controlled, Ended, Parts, Server,
};
use lguest::machines::settings::Settings;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
    socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Calls, whole or in pieces. A fuzzer hardly finds them by chance.
const LINES: [&str; 13] = [
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"inspect\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"attach\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"attach\",\
     \"params\":{\"types\":true,\"from\":7}}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"wait\"}\n",
    "{\"jsonrpc\":\"2.0\",\"method\":\"write\",\"params\":{\"data\":\"eHl6\"}}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"read\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":6,\"method\":\"pause\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"stop\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":8,\"method\":\"kill\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"freeze\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":10,\"method\":\"thaw\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":11,\"method\":\"exec\"}\n",
    "{\"jsonrpc\":\"2.0\",\"id\":12,\"method\":\"trace\"}\n",
];

/// A machine that does nothing.
struct Machine {
    facts: Facts,
    backlog: Arc<Backlog>,
    paused: bool,
    borrowed: Arc<Borrowed>,
}

/// What a client has until it goes.
#[derive(Default)]
struct Borrowed {
    frozen: AtomicBool,
    traced: AtomicBool,
}

impl Controlled for Machine {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    fn is_paused(&self) -> bool {
        self.paused
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn pause(&mut self) -> Result<(), String> {
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self) {
        self.paused = false;
    }

    fn freeze(&mut self) -> Result<(Frozen, Vec<OwnedFd>), String> {
        let was = self.borrowed.frozen.swap(true, Ordering::Relaxed);
        assert!(!was, "frozen twice");
        let file = || {
            let file = memfd_create("frozen", MemfdFlags::CLOEXEC);
            file.expect("there is room")
        };
        let machine = serde_json::Value::Null;
        Ok((Frozen { machine }, vec![file(), file(), file()]))
    }

    fn thaw(&mut self) {
        self.borrowed.frozen.store(false, Ordering::Relaxed);
    }

    fn trace(
        &mut self,
        _groups: u32,
        _sample_every: Duration,
    ) -> Result<(Traced, OwnedFd), String> {
        self.borrowed.traced.store(true, Ordering::Relaxed);
        let file = memfd_create("trace", MemfdFlags::CLOEXEC);
        let before = Vec::new();
        Ok((Traced { before }, file.expect("there is room")))
    }

    fn end_trace(&mut self) {
        self.borrowed.traced.store(false, Ordering::Relaxed);
    }

    fn stop_keys(&self) -> Option<String> {
        Some("poweroff\r".into())
    }

    fn kill(&mut self) {}

    fn ready(&mut self) {}
}

/// The other end of a connection.
struct Client {
    socket: OwnedFd,
    incoming: Vec<u8>,
    /// The position after the last output that it has received.
    at: u64,
}

impl Client {
    /// Receives what is there, and checks it. `printed` is all output.
    fn read(&mut self, printed: &[u8]) {
        let mut bytes = [0; 9000];
        let flags = RecvFlags::DONTWAIT;
        if let Ok((n, _)) = recv(&self.socket, &mut bytes, flags) {
            self.incoming.extend_from_slice(&bytes[..n]);
        }
        while let Some(end) = self.incoming.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.incoming.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            let Some(message) = received(&line) else {
                panic!("no message: {text}");
            };
            if let Received::Answer(..) = message {
                // It may have attached again.
                self.at = 0;
            }
            if let Received::Output(read) = message {
                assert!(read.from >= self.at, "output comes twice");
                let from = usize::try_from(read.from).expect("it is short");
                let of_guest = &printed[from..][..read.data.0.len()];
                assert_eq!(read.data.0, of_guest);
                self.at = read.from + read.data.0.len() as u64;
            }
        }
        assert!(self.incoming.len() < 1 << 20, "a line has no end");
    }
}

fn server(borrowed: &Arc<Borrowed>) -> (Server, Arc<Backlog>, OwnedFd, Ended) {
    let name = "web".parse().expect("it is a name");
    let facts = Facts {
        name,
        pid: 1,
        started: 0,
        version: String::new(),
        kernel: None,
        settings: Settings::default(),
    };
    let news = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
    let news = news.expect("there is room");
    let file = memfd_create("backlog", MemfdFlags::CLOEXEC);
    let file = file.expect("there is room").into();
    let wakes = news.try_clone().expect("there is room");
    let backlog = Arc::new(Backlog::new(file, wakes, Some("!")));
    let (console, typed) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .expect("there is room");
    // Nobody connects by it.
    let (listener, _) = pair();
    let ended = Ended::default();
    let server = Server::new(Parts {
        machine: Box::new(Machine {
            facts,
            backlog: Arc::clone(&backlog),
            paused: false,
            borrowed: Arc::clone(borrowed),
        }),
        listener,
        typed,
        news,
        ended: ended.clone(),
    });
    (server, backlog, console, ended)
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .expect("there is room")
}

/// Clients come, act and go.
///
/// # Panics
///
/// If a client receives something that is no line, or wrong output.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let borrowed = Arc::<Borrowed>::default();
    let (mut server, backlog, console, ended) = server(&borrowed);
    let (mut clients, mut printed): (Vec<Client>, Vec<u8>) = Default::default();
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        let which = usize::from(input.byte());
        let client = which.checked_rem(clients.len());
        match (what % 8, client) {
            (0, _) if clients.len() < 8 => {
                let (ours, theirs) = pair();
                server.add(theirs, 7);
                clients.push(Client {
                    socket: ours,
                    incoming: Vec::new(),
                    at: 0,
                });
            }
            (1, Some(n)) => {
                let len = usize::from(input.byte());
                let bytes = input.bytes(len);
                let _ = send(&clients[n].socket, bytes, SendFlags::NOSIGNAL);
            }
            (2 | 3, Some(n)) => {
                let line = LINES[usize::from(what / 8) % LINES.len()];
                let (socket, bytes) = (&clients[n].socket, line.as_bytes());
                let _ = send(socket, bytes, SendFlags::NOSIGNAL);
            }
            (4, _) => {
                let bytes = vec![what; which * usize::from(input.byte())];
                backlog.append(&bytes);
                printed.extend(bytes);
            }
            (5, Some(n)) if what > 200 => drop(clients.swap_remove(n)),
            (5, Some(n)) => clients[n].read(&printed),
            (6, _) => {
                let _ = rustix::io::read(&console, &mut [0; 512]);
            }
            _ => {}
        }
        server.round(Some(Duration::ZERO)).expect("poll works");
    }
    ended.set(End {
        exit_code: 0,
        reason: "powered off".into(),
        at: 0,
    });
    for _ in 0..9 {
        server.round(Some(Duration::ZERO)).expect("poll works");
        for client in &mut clients {
            client.read(&printed);
        }
    }
    assert!(clients.len() < CLIENTS_MOST);
    drop(clients);
    for _ in 0..3 {
        server.round(Some(Duration::ZERO)).expect("poll works");
    }
    let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
    assert!(!is(&borrowed.frozen), "it stands for a client that is gone");
    assert!(!is(&borrowed.traced), "it is traced for one that is gone");
}
