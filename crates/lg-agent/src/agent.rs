//! The loop: frames from the port, output of programs, signals.
//!
//! One thread waits for everything. What goes out is collected and written
//! together. While much of it waits, no output is read from programs, and no
//! command from the port: so the agent's memory is bounded, too.

use crate::files::{self, Get, Put};
use crate::machine;
use crate::run::{Run, failed, failure, put, who};
use crate::sys::{self, Errno, Fd, flag, pollfd};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use lg_exec::command::{Command, Flow, Given, kind};
use lg_exec::frame::{Decoder, Frame};
use lg_exec::report::{Done, Failure, Reason, Report};
use lg_exec::{MACHINE, OLDEST, VERSION};

/// While more than this waits to be written, programs are not read.
const OUT_MOST: usize = 256 << 10;

/// While more than this waits, commands are not read.
const OUT_FULL: usize = 1 << 20;

/// The most runs and files at once.
const STREAMS_MOST: usize = 1000;

/// The most that is read from the port, or from a file, at once.
const PIECE: usize = 32 << 10;

/// The pause before a port is looked at again whose other side is closed, in
/// milliseconds.
const PAUSE: u32 = 100;

/// What a stream is about.
#[derive(Debug)]
enum Stream {
    Run(Run),
    Put(Put),
    Get(Get),
}

/// Which descriptor of the list is ready.
#[derive(Clone, Copy, Debug)]
enum Source {
    Port,
    Signals,
    Stdin(u32),
    Output(u32, usize),
}

/// The agent.
#[derive(Debug)]
pub struct Agent {
    port: Fd,
    signals: Fd,
    decoder: Decoder,
    streams: BTreeMap<u32, Stream>,
    /// Frames that are not written yet.
    out: Vec<u8>,
    is_init: bool,
    /// The port was closed, or the end was asked for.
    ending: bool,
}

impl Agent {
    /// An agent at a port.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn new(port: Fd, is_init: bool) -> sys::Result<Self> {
        sys::block_signals(true)?;
        sys::adopt_orphans();
        // Before all that it starts: a fork bomb must not keep it from killing.
        let _ = sys::set_priority(-10);
        close_in_programs();
        sys::set_nonblocking(&port)?;
        let signals = sys::signals(&[
            flag::SIGCHLD,
            flag::SIGTERM,
            flag::SIGINT,
            flag::SIGHUP,
        ])?;
        let mut agent = Self {
            port,
            signals,
            decoder: Decoder::new(),
            streams: BTreeMap::new(),
            out: Vec::new(),
            is_init,
            ending: false,
        };
        agent.greet();
        Ok(agent)
    }

    fn greet(&mut self) {
        let hello = Report::Hello(machine::hello(self.is_init));
        put(&mut self.out, MACHINE, &hello);
        put(&mut self.out, MACHINE, &Report::Ready);
    }

    /// Serves its clients until the port is closed, or the end is asked for.
    pub fn serve(&mut self) {
        while !self.ending {
            self.flush();
            let (mut fds, sources) = self.wants();
            let timeout = self.timeout();
            if sys::poll(&mut fds, timeout).is_err() {
                continue;
            }
            for (fd, source) in fds.iter().zip(sources) {
                if fd.revents != 0 {
                    let events = fd.revents as u16;
                    self.ready(source, events.into());
                }
            }
            self.tick();
            self.send_files();
            self.finish();
        }
        self.end_all(Reason::PowerOff);
        self.flush();
    }

    /// The descriptors to wait for, and what they are.
    fn wants(&self) -> (Vec<pollfd>, Vec<Source>) {
        let (mut fds, mut sources) = (Vec::new(), Vec::new());
        let mut want = |fd: &Fd, events: u32, source| {
            if events != 0 {
                fds.push(pollfd {
                    fd: fd.number(),
                    events: i16::try_from(events).unwrap_or(0),
                    revents: 0,
                });
                sources.push(source);
            }
        };
        let waiting = self.out.len();
        let read = if waiting < OUT_FULL { flag::POLLIN } else { 0 };
        let write = if waiting > 0 { flag::POLLOUT } else { 0 };
        want(&self.port, read | write, Source::Port);
        want(&self.signals, flag::POLLIN, Source::Signals);
        for (&number, stream) in &self.streams {
            let Stream::Run(run) = stream else {
                continue;
            };
            if let Some(fd) = run.wants_write() {
                want(fd, flag::POLLOUT, Source::Stdin(number));
            }
            if waiting < OUT_MOST {
                for (which, fd) in run.wants_read() {
                    let source = Source::Output(number, which);
                    want(fd, flag::POLLIN, source);
                }
            }
        }
        (fds, sources)
    }

    /// How long to wait at most, in milliseconds.
    fn timeout(&self) -> Option<u32> {
        let sends = self.out.len() < OUT_MOST;
        let now = sys::now_ms();
        let waits = self.streams.values().filter_map(|stream| match stream {
            Stream::Get(get) if sends && get.credit.room() > 0 => Some(0),
            Stream::Run(run) => {
                run.next_tick().map(|next| next.saturating_sub(now))
            }
            _ => None,
        });
        waits.min().map(|ms| u32::try_from(ms).unwrap_or(u32::MAX))
    }

    fn ready(&mut self, source: Source, events: u32) {
        match source {
            Source::Port if events & (flag::POLLIN | flag::POLLHUP) != 0 => {
                self.receive();
            }
            Source::Port => {}
            Source::Signals => self.signalled(),
            Source::Stdin(number) => {
                if let Some(run) = run_of(&mut self.streams, number) {
                    run.write(&mut self.out);
                }
            }
            Source::Output(number, which) => {
                if let Some(run) = run_of(&mut self.streams, number) {
                    run.read(which, &mut self.out);
                }
            }
        }
    }

    /// Writes what waits, as much as the port takes.
    fn flush(&mut self) {
        let mut written = 0;
        while let Some(rest) = self.out.get(written..).filter(|r| !r.is_empty())
        {
            match sys::write(&self.port, rest) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                // Reading says what to do about it.
                Err(_) => break,
            }
        }
        self.out.drain(..written.min(self.out.len()));
        if self.out.is_empty() && self.out.capacity() > OUT_FULL {
            self.out = Vec::new();
        }
    }

    /// Reads from the port, and does what it says.
    fn receive(&mut self) {
        let mut bytes = vec![0; PIECE];
        let n = match sys::read(&self.port, &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(0) | Err(_) => return self.closed(),
            Ok(n) => n,
        };
        let mut rest = bytes.get(..n).unwrap_or_default();
        let mut decoder = core::mem::take(&mut self.decoder);
        loop {
            match decoder.next(&mut rest) {
                Ok(Some(frame)) => self.frame(&frame),
                Ok(None) => break,
                Err(why) => {
                    crate::say(&format!("{why}: all runs end"));
                    decoder = Decoder::new();
                    self.end_all(Reason::HangUp);
                    break;
                }
            }
        }
        self.decoder = decoder;
    }

    /// The other side of the port is closed. A guest's first process waits for
    /// the next client.
    fn closed(&mut self) {
        self.end_all(Reason::HangUp);
        self.decoder = Decoder::new();
        self.out = Vec::new();
        if self.is_init {
            let _ = sys::poll(&mut [], Some(PAUSE));
            self.greet();
        } else {
            self.ending = true;
        }
    }

    fn frame(&mut self, frame: &Frame<'_>) {
        let stream = frame.stream;
        match Command::read(frame) {
            Ok(None) => {}
            Ok(Some(command)) if stream == MACHINE => self.machine(&command),
            Ok(Some(command)) => self.command(stream, command),
            Err(_) => {
                let first = [kind::START, kind::PUT, kind::GET];
                let known = self.streams.contains_key(&stream);
                // Others come late, for a stream that is over.
                if known || stream == MACHINE || first.contains(&frame.kind) {
                    self.broken(stream, "a message cannot be read");
                }
            }
        }
    }

    fn machine(&mut self, command: &Command<'_>) {
        match command {
            Command::Restored(it) => {
                machine::restored(it);
                self.greet();
            }
            Command::PowerOff => self.ending = true,
            _ => {}
        }
    }

    fn command(&mut self, number: u32, command: Command<'_>) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return self.open(number, command);
        };
        let out = &mut self.out;
        let done = match (command, stream) {
            (Command::Stdin(bytes), Stream::Run(run)) => run.stdin(bytes, out),
            (Command::StdinEnd, Stream::Run(run)) => {
                run.stdin_end(out);
                Ok(())
            }
            (Command::Credit(given), Stream::Run(run)) => run.credit(given),
            (Command::Credit(given), Stream::Get(get)) => {
                get.credit.refill(given.bytes)
            }
            (Command::Signal(signal), Stream::Run(run)) => {
                run.signal(signal);
                Ok(())
            }
            (Command::Resize(size), Stream::Run(run)) => {
                run.resize(size);
                Ok(())
            }
            (Command::HangUp, Stream::Run(run)) => {
                run.end(Reason::HangUp);
                Ok(())
            }
            (Command::HangUp, _) => {
                let text = "the client is gone".to_string();
                self.end(number, failed(Failure::HangUp, text));
                Ok(())
            }
            (Command::Stdin(bytes), Stream::Put(_)) => {
                self.put_bytes(number, bytes);
                Ok(())
            }
            (Command::StdinEnd, Stream::Put(_)) => {
                self.put_end(number);
                Ok(())
            }
            (Command::Start(_) | Command::Put(_) | Command::Get(_), _) => {
                Err(lg_exec::credit::Beyond)
            }
            // It has no meaning here, and does no harm.
            _ => Ok(()),
        };
        if done.is_err() {
            self.broken(number, "more was sent than was allowed");
        }
    }

    /// The first command of a stream.
    fn open(&mut self, number: u32, command: Command<'_>) {
        let version = match &command {
            Command::Start(start) => start.version,
            Command::Put(put) => put.version,
            Command::Get(get) => get.version,
            // It comes late, for a stream that is over.
            _ => return,
        };
        let opened = if !(OLDEST..=VERSION).contains(&version) {
            let text = format!(
                "the agent speaks versions {OLDEST} to {VERSION}, not {version}"
            );
            Err(failed(Failure::Version, text))
        } else if self.streams.len() >= STREAMS_MOST {
            let text = format!("there are {STREAMS_MOST} runs already");
            Err(failed(Failure::NoRoom, text))
        } else {
            self.opened(number, command)
        };
        match opened {
            Ok(stream) => {
                self.streams.insert(number, stream);
            }
            Err(report) => put(&mut self.out, number, &report),
        }
    }

    fn opened(
        &mut self,
        number: u32,
        command: Command<'_>,
    ) -> Result<Stream, Report<'static>> {
        match command {
            Command::Put(it) => {
                let who = who(&it.user)?;
                let made = Put::new(&it, who, number);
                made.map(Stream::Put).map_err(|e| file_failed(e, "made"))
            }
            Command::Get(it) => {
                let who = who(&it.user)?;
                let (get, facts) = Get::new(&it, who.as_ref())
                    .map_err(|e| file_failed(e, "read"))?;
                put(&mut self.out, number, &Report::File(facts));
                Ok(Stream::Get(get))
            }
            Command::Start(it) => Run::start(number, it).map(Stream::Run),
            _ => Err(failed(Failure::Protocol, "no first message".into())),
        }
    }

    /// A client has broken the protocol: its stream ends.
    fn broken(&mut self, number: u32, text: &str) {
        match self.streams.get_mut(&number) {
            Some(Stream::Run(run)) => run.end(Reason::HangUp),
            _ if number == MACHINE => crate::say(text),
            _ => {
                self.end(number, failed(Failure::Protocol, text.to_string()));
            }
        }
    }

    /// Ends a stream with its last report. A part of a file is removed.
    fn end(&mut self, number: u32, report: Report<'_>) {
        self.streams.remove(&number);
        put(&mut self.out, number, &report);
    }

    fn put_bytes(&mut self, number: u32, bytes: &[u8]) {
        let Some(Stream::Put(file)) = self.streams.get_mut(&number) else {
            return;
        };
        if file.credit.arrived(bytes.len()).is_err() {
            return self.broken(number, "more was sent than was allowed");
        }
        match file.write(bytes) {
            Ok(()) => {
                if let Some(bytes) = file.credit.taken(bytes.len()) {
                    let flow = Flow::Stdin;
                    let given = Report::Credit(Given { flow, bytes });
                    put(&mut self.out, number, &given);
                }
            }
            Err(error) => self.end(number, file_failed(error, "written")),
        }
    }

    fn put_end(&mut self, number: u32) {
        let Some(Stream::Put(file)) = self.streams.get_mut(&number) else {
            return;
        };
        let report = match file.finish() {
            Ok(()) => Report::Done(Done { bytes: file.bytes }),
            Err(error) => file_failed(error, "made"),
        };
        self.end(number, report);
    }

    /// Sends pieces of all files for which there is credit.
    fn send_files(&mut self) {
        let gets = self.streams.iter().filter_map(|(number, stream)| {
            matches!(stream, Stream::Get(_)).then_some(*number)
        });
        for number in gets.collect::<Vec<_>>() {
            if self.out.len() < OUT_MOST {
                self.send_file(number);
            }
        }
    }

    fn send_file(&mut self, number: u32) {
        let Some(Stream::Get(get)) = self.streams.get_mut(&number) else {
            return;
        };
        let room = get.credit.room().min(PIECE);
        if room == 0 {
            return;
        }
        let mut bytes = vec![0; room];
        match sys::read(&get.fd, &mut bytes) {
            Ok(0) => {
                let bytes = get.bytes;
                self.end(number, Report::Done(Done { bytes }));
            }
            Ok(n) => {
                let bytes = bytes.get(..n).unwrap_or_default();
                if get.credit.spend(n).is_ok() {
                    get.bytes += n as u64;
                    put(&mut self.out, number, &Report::Stdout(bytes));
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => self.end(number, file_failed(error, "read")),
        }
    }

    /// Children have ended, a run is at another stage, or the end was asked
    /// for.
    fn signalled(&mut self) {
        // The kernel's struct for a signal: its number comes first.
        const LENGTH: usize = 128;
        let mut bytes = [0; LENGTH * 8];
        while let Ok(n) = sys::read(&self.signals, &mut bytes) {
            for signal in bytes.get(..n).unwrap_or_default().chunks(LENGTH) {
                if u32::from(signal[0]) != flag::SIGCHLD && !self.is_init {
                    self.ending = true;
                }
            }
        }
        self.look();
        let mut usage = sys::no_usage();
        while let Ok(Some(waited)) = sys::wait(-1, false, &mut usage) {
            let pid = waited.pid;
            let run = self.streams.values_mut().find_map(|s| match s {
                Stream::Run(run) if run.has_warden(pid) => Some(run),
                _ => None,
            });
            // Others are orphans, which the first process has to wait for.
            if let Some(run) = run {
                run.look(&mut self.out);
                run.warden_is_gone();
            }
        }
    }

    fn look(&mut self) {
        for stream in self.streams.values_mut() {
            if let Stream::Run(run) = stream {
                run.look(&mut self.out);
            }
        }
    }

    fn tick(&mut self) {
        let now = sys::now_ms();
        for stream in self.streams.values_mut() {
            if let Stream::Run(run) = stream {
                run.tick(now);
            }
        }
    }

    /// Reports the end of runs that are over.
    fn finish(&mut self) {
        let out = &mut self.out;
        self.streams.retain(|_, stream| match stream {
            Stream::Run(run) => !run.finish(out, OUT_MOST),
            _ => true,
        });
    }

    /// Ends everything, and waits until it is gone.
    fn end_all(&mut self, reason: Reason) {
        self.streams.retain(|_, s| matches!(s, Stream::Run(_)));
        for stream in self.streams.values_mut() {
            if let Stream::Run(run) = stream {
                run.end(reason);
            }
        }
        while !self.streams.is_empty() {
            let mut fds = [pollfd {
                fd: self.signals.number(),
                events: i16::try_from(flag::POLLIN).unwrap_or(0),
                revents: 0,
            }];
            let _ = sys::poll(&mut fds, self.timeout());
            self.signalled();
            self.tick();
            self.finish();
        }
    }
}

/// Programs get no descriptors that the agent was started with.
fn close_in_programs() {
    for name in files::names(c"/proc/self/fd").unwrap_or_default() {
        let number = core::str::from_utf8(&name).ok();
        if let Some(fd @ 3..) = number.and_then(|n| n.parse().ok()) {
            let _ = sys::close_in_programs(fd);
        }
    }
}

fn run_of(
    streams: &mut BTreeMap<u32, Stream>,
    number: u32,
) -> Option<&mut Run> {
    match streams.get_mut(&number) {
        Some(Stream::Run(run)) => Some(run),
        _ => None,
    }
}

fn file_failed(error: Errno, what: &str) -> Report<'static> {
    let text = format!("the file cannot be {what}: {}", error.words());
    failed(failure(error), text)
}
