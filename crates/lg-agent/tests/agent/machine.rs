//! An agent as an ordinary process, and its clients.
//!
//! The agent's port is a socket, as its standard input. A run's client is that
//! of `lg-exec`, which checks all that the agent says. Reads have a limit of
//! time, so that a test fails instead of waiting for ever.

use lg_exec::MACHINE;
use lg_exec::client::{Client, Event};
use lg_exec::command::{Command, Flow, Get, Put, Start};
use lg_exec::frame::{self, Decoder};
use lg_exec::report::{Exited, Failure, FileFacts, Report, Status};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// How long a test waits for the next bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// `ENOEXEC`: what a kernel without 32-bit programs says of the agent.
const NOT_A_PROGRAM_HERE: i32 = 8;

/// How a stream has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(Exited),
    Failed(Failure, String),
    Done(u64),
}

/// A client, and what it has received.
pub(crate) struct Run {
    pub(crate) client: Client,
    pub(crate) pid: u32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
    pub(crate) file: Option<FileFacts>,
    pub(crate) end: Option<End>,
    /// It gives no credit back.
    pub(crate) slow: bool,
}

/// An agent.
pub(crate) struct Machine {
    child: Child,
    pub(crate) socket: UnixStream,
    decoder: Decoder,
    pub(crate) runs: BTreeMap<u32, Run>,
    last: u32,
    pub(crate) greetings: Vec<String>,
}

/// The programs to test: the one for this machine, and the one for guests if
/// this machine can run it.
pub(crate) fn programs() -> &'static [PathBuf] {
    static PROGRAMS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let own = PathBuf::from(env!("CARGO_BIN_EXE_lg-agent"));
        let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../guests/built/lg-agent");
        match std::process::Command::new(&kept).arg("--help").output() {
            Ok(_) => vec![own, kept],
            Err(error) if error.raw_os_error() == Some(NOT_A_PROGRAM_HERE) => {
                println!("SKIPPED the agent for guests: {error}");
                vec![own]
            }
            Err(error) => panic!("{}: {error}", kept.display()),
        }
    })
}

impl Machine {
    pub(crate) fn start(program: &PathBuf) -> Self {
        let (socket, port) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = std::process::Command::new(program)
            .args(["--fd", "0"])
            .stdin(Stdio::from(OwnedFd::from(port)))
            .spawn()
            .unwrap();
        let mut machine = Self {
            child,
            socket,
            decoder: Decoder::new(),
            runs: BTreeMap::new(),
            last: 0,
            greetings: Vec::new(),
        };
        while machine.greetings.len() < 2 {
            machine.step();
        }
        machine
    }

    /// Starts a run of a shell's script.
    pub(crate) fn shell(&mut self, script: &str) -> u32 {
        self.run(start(&["/bin/sh", "-c", script]))
    }

    pub(crate) fn run(&mut self, start: Start) -> u32 {
        let mut bytes = Vec::new();
        let client = Client::start(start, &mut bytes).unwrap();
        self.open(client, &bytes)
    }

    pub(crate) fn put(&mut self, put: Put) -> u32 {
        let mut bytes = Vec::new();
        let client = Client::put(put, &mut bytes).unwrap();
        self.open(client, &bytes)
    }

    pub(crate) fn get(&mut self, get: Get) -> u32 {
        let mut bytes = Vec::new();
        let client = Client::get(get, &mut bytes).unwrap();
        self.open(client, &bytes)
    }

    /// Opens a stream by these bytes.
    pub(crate) fn open(&mut self, client: Client, bytes: &[u8]) -> u32 {
        self.last += 1;
        let run = Run {
            client,
            pid: 0,
            out: Vec::new(),
            err: Vec::new(),
            file: None,
            end: None,
            slow: false,
        };
        self.runs.insert(self.last, run);
        self.send(self.last, bytes);
        self.last
    }

    /// Does something with a client, and sends what it says.
    pub(crate) fn with<T>(
        &mut self,
        number: u32,
        what: impl FnOnce(&mut Run, &mut Vec<u8>) -> T,
    ) -> T {
        let mut bytes = Vec::new();
        let run = self.runs.get_mut(&number).unwrap();
        let result = what(run, &mut bytes);
        self.send(number, &bytes);
        result
    }

    /// Sends all of these bytes as a client's input, as it gets credit.
    pub(crate) fn stdin(&mut self, number: u32, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += self
                .with(number, |run, out| run.client.stdin(&bytes[at..], out));
            if at < bytes.len() {
                self.step();
            }
        }
    }

    /// Sends frames with the number of a stream, as a Launcher does.
    pub(crate) fn send(&mut self, number: u32, mut bytes: &[u8]) {
        let mut stamped = Vec::new();
        let mut decoder = Decoder::new();
        while let Some(frame) = decoder.next(&mut bytes).unwrap() {
            frame::put(&mut stamped, number, frame.kind, frame.payload)
                .unwrap();
        }
        self.socket.write_all(&stamped).unwrap();
    }

    pub(crate) fn tell(&mut self, command: &Command<'_>) {
        let mut bytes = Vec::new();
        command.put(MACHINE, &mut bytes).unwrap();
        self.socket.write_all(&bytes).unwrap();
    }

    /// Receives what is there, or waits for it.
    pub(crate) fn step(&mut self) {
        let mut bytes = [0; 65536];
        let n = self
            .socket
            .read(&mut bytes)
            .expect("the agent says something");
        assert!(n > 0, "the agent has ended");
        let mut rest = &bytes[..n];
        let mut answers = Vec::new();
        while let Some(frame) = self.decoder.next(&mut rest).unwrap() {
            if frame.stream == MACHINE {
                let report = Report::read(&frame).unwrap().unwrap();
                self.greetings.push(format!("{report:?}"));
                continue;
            }
            let mut one = Vec::new();
            frame::put(&mut one, 0, frame.kind, frame.payload).unwrap();
            let run = self.runs.get_mut(&frame.stream).expect("a known stream");
            let mut answer = Vec::new();
            receive(run, &one, &mut answer);
            answers.push((frame.stream, answer));
        }
        for (number, answer) in answers {
            self.send(number, &answer);
        }
    }

    /// Waits for something that a run has received.
    pub(crate) fn until(
        &mut self,
        number: u32,
        mut is: impl FnMut(&Run) -> bool,
    ) {
        while !is(&self.runs[&number]) {
            self.step();
        }
    }

    /// Waits for the end of a run.
    pub(crate) fn end(&mut self, number: u32) -> End {
        self.until(number, |run| run.end.is_some());
        self.runs[&number].end.clone().unwrap()
    }

    /// Waits for the end of a run, which is that of a program.
    pub(crate) fn exited(&mut self, number: u32) -> Exited {
        match self.end(number) {
            End::Exited(exited) => exited,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of a stream, which is a failure.
    pub(crate) fn failure(&mut self, number: u32) -> Failure {
        match self.end(number) {
            End::Failed(failure, text) => {
                assert!(!text.is_empty());
                failure
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn status(&mut self, number: u32) -> Status {
        self.exited(number).status
    }

    /// What it has printed, up to now.
    pub(crate) fn text(&self, number: u32) -> String {
        String::from_utf8_lossy(&self.runs[&number].out).into_owned()
    }

    /// Closes the port, and returns the agent's exit code.
    pub(crate) fn close(mut self) -> Option<i32> {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

fn receive(run: &mut Run, mut bytes: &[u8], answer: &mut Vec<u8>) {
    loop {
        let (flow, taken) = match run.client.receive(&mut bytes).unwrap() {
            None => return,
            Some(Event::Started(it)) => {
                run.pid = it.pid;
                continue;
            }
            Some(Event::File(it)) => {
                run.file = Some(it);
                continue;
            }
            Some(Event::Stdout(bytes)) => {
                run.out.extend_from_slice(bytes);
                (Flow::Stdout, bytes.len())
            }
            Some(Event::Stderr(bytes)) => {
                run.err.extend_from_slice(bytes);
                (Flow::Stderr, bytes.len())
            }
            Some(Event::StdinRoom) => continue,
            Some(Event::Exited(it)) => {
                run.end = Some(End::Exited(it));
                continue;
            }
            Some(Event::Done(it)) => {
                run.end = Some(End::Done(it.bytes));
                continue;
            }
            Some(Event::Failed(failure, text)) => {
                run.end = Some(End::Failed(failure, text));
                continue;
            }
        };
        if !run.slow {
            run.client.taken(flow, taken, answer);
        }
    }
}

/// A program with its arguments, in `/`.
pub(crate) fn start(argv: &[&str]) -> Start {
    Start {
        version: lg_exec::VERSION,
        argv: argv.iter().map(|a| a.as_bytes().to_vec()).collect(),
        cwd: Some(b"/".to_vec()),
        ..Start::default()
    }
}

/// Whether there is a process that has not ended.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|s| s.trim().chars().next());
        !matches!(state, Some('Z' | 'X'))
    })
}
