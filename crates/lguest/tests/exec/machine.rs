//! A machine without a Guest: its folder, its control socket, and an agent that
//! this process plays.
//!
//! Server, multiplexer and channel are those of a Launcher. Behind the channel
//! a thread does what the agent does, or what a hostile one does: the command
//! says which.

use crate::support::Scratch;
use lg_exec::command::{Command, Flow, Given, Start};
use lg_exec::frame::Decoder;
use lg_exec::report::{
    Exited, Failed, Failure, Hello, Reason, Report, Started, Status, Usage,
};
use lguest::devices::console::backlog::Backlog;
use lguest::devices::port::Channel;
use lguest::exec::multiplexer::Streams;
use lguest::machines::protocol::{Begun, Counts, Frozen, Traced};
use lguest::machines::record::Facts;
use lguest::machines::server::{Controlled, Ended, Parts, Server};
use lguest::machines::settings::Settings;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What the agent has seen.
#[derive(Default)]
pub(crate) struct Seen {
    words: Mutex<Vec<String>>,
    more: Condvar,
}

impl Seen {
    fn add(&self, word: impl Into<String>) {
        self.words.lock().unwrap().push(word.into());
        self.more.notify_all();
    }

    /// Waits until the agent has seen this.
    pub(crate) fn wait_for(&self, word: &str) {
        self.wait_for_nth(word, 1);
    }

    /// Waits until the agent has seen this so many times.
    pub(crate) fn wait_for_nth(&self, word: &str, times: usize) {
        let words = self.words.lock().unwrap();
        let patience = crate::support::PATIENCE;
        let missing = |words: &mut Vec<String>| {
            words.iter().filter(|w| *w == word).count() < times
        };
        let (words, wait) = self
            .more
            .wait_timeout_while(words, patience, missing)
            .unwrap();
        assert!(!wait.timed_out(), "{word}: {words:?}");
    }
}

/// A machine `web` in a place of its own.
pub(crate) struct Machine {
    place: Scratch,
    pub(crate) seen: Arc<Seen>,
    _lock: File,
}

impl Machine {
    /// The machine, and an agent if there is one.
    pub(crate) fn new(name: &str, has_agent: bool) -> Self {
        let place = Scratch::new(name);
        let folder = place.path("lguest/web");
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder).unwrap();
        let lock = File::create(folder.join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let facts = Facts {
            name: "web".parse().unwrap(),
            pid: std::process::id(),
            started: 1,
            version: "0".into(),
            kernel: None,
            settings: Settings::default(),
        };
        let mut file = File::create(folder.join("facts")).unwrap();
        let text = serde_json::to_vec(&facts).unwrap();
        file.write_all(&text).unwrap();
        File::create(folder.join("end")).unwrap();
        let console = File::create(folder.join("console")).unwrap();
        let listener = UnixListener::bind(folder.join("control")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let seen = Arc::<Seen>::default();
        let streams = has_agent.then(|| {
            let channel = Arc::new(Channel::new().unwrap());
            let streams = Streams::new(channel.clone());
            streams.start(false).unwrap();
            let seen = seen.clone();
            std::thread::spawn(move || Agent::new(channel, seen).work());
            streams
        });
        let news = || eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let fake = Fake {
            facts,
            backlog: Backlog::new(console, news(), None),
            streams,
        };
        let (_, typed) = rustix::pipe::pipe().unwrap();
        let mut server = Server::new(Parts {
            machine: Box::new(fake),
            listener: listener.into(),
            typed,
            news: news(),
            ended: Ended::default(),
        });
        std::thread::spawn(move || server.serve());
        Self {
            place,
            seen,
            _lock: lock,
        }
    }

    /// Its control socket.
    pub(crate) fn control(&self) -> std::path::PathBuf {
        self.place.path("lguest/web/control")
    }

    /// `lguest exec web` with these options and this command.
    pub(crate) fn exec(
        &self,
        options: &str,
        command: &[&str],
    ) -> std::process::Command {
        let mut exec = crate::support::lguest();
        exec.env("XDG_RUNTIME_DIR", self.place.path(""));
        exec.args(["exec", "web"]).args(options.split_whitespace());
        exec.arg("--").args(command);
        exec
    }
}

struct Fake {
    facts: Facts,
    backlog: Backlog,
    streams: Option<Streams>,
}

impl Controlled for Fake {
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
        Err("it has no guest".into())
    }

    fn thaw(&mut self) {}

    fn trace(
        &mut self,
        _: u32,
        _: Duration,
    ) -> Result<(Traced, OwnedFd), String> {
        Err("it has no guest".into())
    }

    fn end_trace(&mut self) {}

    fn stop_keys(&self) -> Option<String> {
        None
    }

    fn kill(&mut self) {}

    fn ready(&mut self) {}

    fn has_agent(&self) -> bool {
        self.streams.is_some()
    }

    fn exec(&mut self, socket: OwnedFd) -> Result<Begun, String> {
        let streams = self.streams.as_ref().ok_or("no agent")?;
        let stream = streams.add(socket).map_err(|e| e.to_string())?;
        let open = streams.is_open();
        Ok(Begun { stream, open })
    }
}

/// The other end of the channel.
struct Agent {
    channel: Arc<Channel>,
    seen: Arc<Seen>,
    decoder: Decoder,
    /// The commands that run, by stream.
    runs: BTreeMap<u32, Start>,
    /// It reads nothing any more.
    is_deaf: bool,
}

const fn exited(status: Status, reason: Reason) -> Report<'static> {
    Report::Exited(Exited {
        status,
        reason,
        usage: Usage {
            wall_us: 1_500_000,
            user_us: 0,
            system_us: 0,
            max_rss_kib: 4096,
            minor_faults: 0,
            major_faults: 0,
            blocks_in: 0,
            blocks_out: 0,
            switches: 0,
        },
    })
}

impl Agent {
    fn new(channel: Arc<Channel>, seen: Arc<Seen>) -> Self {
        Self {
            channel,
            seen,
            decoder: Decoder::new(),
            runs: BTreeMap::new(),
            is_deaf: false,
        }
    }

    fn work(mut self) {
        self.channel.set_open(true);
        self.say(0, &Report::Hello(Hello::default()));
        self.say(0, &Report::Ready);
        while !self.is_deaf {
            let event = self.channel.device_event();
            let mut fds = [PollFd::from_borrowed_fd(event, PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            let _ = rustix::io::read(event, &mut [0; 8]);
            let mut bytes = Vec::new();
            let take = |given: &[u8]| {
                bytes.extend_from_slice(given);
                Ok::<_, ()>(given.len())
            };
            self.channel.give_to_guest(take).unwrap();
            self.hear(&bytes);
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            self.decoder.advance(&mut rest).unwrap();
            let Some(frame) = self.decoder.frame() else {
                return;
            };
            let (stream, kind, payload) =
                (frame.stream, frame.kind, frame.payload.to_vec());
            let frame = lg_exec::frame::Frame {
                stream,
                kind,
                payload: &payload,
            };
            if let Some(command) = Command::read(&frame).unwrap() {
                self.obey(stream, command);
            }
        }
    }

    fn say(&self, stream: u32, report: &Report<'_>) {
        let mut bytes = Vec::new();
        report.put(stream, &mut bytes).unwrap();
        self.channel.put_from_guest(&bytes);
    }

    fn exit(&self, stream: u32, code: u8) {
        self.say(stream, &exited(Status::Code(code), Reason::None));
    }

    fn obey(&mut self, stream: u32, command: Command<'_>) {
        match command {
            Command::Start(start) => {
                self.start(stream, &start);
                self.runs.insert(stream, start);
            }
            Command::Stdin(bytes) => {
                self.say(stream, &Report::Stdout(bytes));
            }
            // What the client has taken, it may send.
            Command::Credit(Given { bytes, .. }) => {
                let flow = Flow::Stdin;
                let given = Given { flow, bytes };
                self.say(stream, &Report::Credit(given));
            }
            Command::StdinEnd if self.is(stream, "cat") => {
                self.exit(stream, 0);
            }
            Command::Signal(number) => {
                self.seen.add(format!("signal {number}"));
                if self.is(stream, "sleep") {
                    let status = Status::Signal(number);
                    self.say(stream, &exited(status, Reason::None));
                }
            }
            Command::Resize(size) => {
                let size = format!("{} x {}", size.cols, size.rows);
                self.say(stream, &Report::Stdout(size.as_bytes()));
                self.seen.add(size);
                self.exit(stream, 0);
            }
            Command::HangUp => {
                let run = self.runs.get(&stream);
                let name = run.map(|run| run.argv[0].clone());
                let name = name.unwrap_or_default();
                let name = String::from_utf8_lossy(&name).into_owned();
                self.seen.add(format!("hung up {name}"));
            }
            _ => {}
        }
    }

    fn is(&self, stream: u32, name: &str) -> bool {
        let run = self.runs.get(&stream);
        run.is_some_and(|run| run.argv[0] == name.as_bytes())
    }

    /// Does what the command says.
    fn start(&mut self, stream: u32, start: &Start) {
        let words: Vec<&str> = start
            .argv
            .iter()
            .map(|word| std::str::from_utf8(word).unwrap())
            .collect();
        let number = |n: usize| words[n].parse::<u8>().unwrap();
        let started = Report::Started(Started { pid: 7 });
        if !matches!(words[0], "missing" | "silent" | "unstarted") {
            self.say(stream, &started);
        }
        let bytes = vec![b'x'; 60_000];
        match words[0] {
            "echo" => {
                let text = words[1..].join(" ") + "\n";
                self.say(stream, &Report::Stdout(text.as_bytes()));
                self.say(stream, &Report::Stderr(b"done\n"));
                self.exit(stream, 0);
            }
            "exit" => self.exit(stream, number(1)),
            "kill" => {
                let status = Status::Signal(number(1));
                self.say(stream, &exited(status, Reason::None));
            }
            "late" => {
                let status = Status::Signal(9);
                self.say(stream, &exited(status, Reason::Time));
            }
            "show" => self.show(stream, start),
            "bytes" => {
                self.say(stream, &Report::Stdout(&[0xff, 0]));
                self.exit(stream, 0);
            }
            "missing" => {
                let failure = Failure::NotFound;
                let text = "there is no \u{1b}[2J'missing'".into();
                self.say(stream, &Report::Failed(Failed { failure, text }));
            }
            // What a hostile agent does.
            "unstarted" => self.say(stream, &Report::Stdout(b"early")),
            "flood" => {
                for _ in 0..20 {
                    while !self.channel.has_room_from_guest() {
                        std::thread::yield_now();
                    }
                    self.say(stream, &Report::Stdout(&bytes));
                }
            }
            "other" => {
                for other in [0, stream + 1, stream - 1, u32::MAX] {
                    self.say(other, &Report::Stdout(b"for another"));
                    self.exit(other, 99);
                }
                self.exit(stream, 0);
            }
            "garbage" => self.channel.put_from_guest(&[255; 64]),
            "close" => self.channel.set_open(false),
            "sleep" | "ignore" => {
                self.say(stream, &Report::Stdout(b"it runs\n"));
                self.seen.add(words[0]);
            }
            "deaf" => {
                self.is_deaf = true;
                self.seen.add("deaf");
            }
            "boast" => {
                let most = Report::Exited(Exited {
                    status: Status::Code(3),
                    reason: Reason::None,
                    usage: Usage {
                        wall_us: u64::MAX,
                        user_us: u64::MAX,
                        system_us: u64::MAX,
                        max_rss_kib: u64::MAX,
                        minor_faults: u64::MAX,
                        major_faults: u64::MAX,
                        blocks_in: u64::MAX,
                        blocks_out: u64::MAX,
                        switches: u64::MAX,
                    },
                });
                self.say(stream, &most);
                self.say(stream, &Report::Stdout(b"late"));
                self.exit(stream, 99);
            }
            "lend" => {
                let flow = Flow::Stdin;
                for bytes in [u32::MAX, u32::MAX] {
                    let given = Given { flow, bytes };
                    self.say(stream, &Report::Credit(given));
                }
            }
            "shout" => {
                let failure = Failure::NotFound;
                let text = "\u{1b}]0;title\u{7}\r\n\u{9b}2J".repeat(2000);
                self.say(stream, &Report::Failed(Failed { failure, text }));
            }
            "silent" | "cat" => self.seen.add(words[0]),
            _ => {}
        }
    }

    /// Prints how the command was started.
    fn show(&self, stream: u32, start: &Start) {
        let text =
            |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let env: Vec<String> = start.env.iter().map(text).collect();
        let text = format!(
            "env {} cwd {} user {} terminal {} limits {:?} {:?} {:?} {:?} {:?}\n",
            env.join(" "),
            start.cwd.as_ref().map(text).unwrap_or_default(),
            start.user,
            start.terminal.is_some(),
            start.limits.time_ms,
            start.limits.memory,
            start.limits.processes,
            start.limits.file_size,
            start.limits.output,
        );
        self.say(stream, &Report::Stdout(text.as_bytes()));
        self.exit(stream, 0);
    }
}
