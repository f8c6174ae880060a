//! A session: passes everything through until the command has ended.
//!
//! It waits for the agent, for standard input and output, for signals, for the
//! end of the parent, and for the clock, and never for one of them alone. The
//! terminal is as before on every way out.

use super::asked::Asked;
use super::error::{ExecError, own};
use super::output::Output;
use super::result::Finished;
use super::signals;
use super::target::Connection;
use crate::machine::config::Parent;
use crate::machine::{owner, terminal};
use lg_exec::client::{Client, Event};
use lg_exec::command::{Flow, Size};
use lg_exec::report::Exited;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH};
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How much later than the agent the time limit ends a command here.
const GRACE: Duration = Duration::from_millis(200);

/// The most that waits to be sent before standard input is read.
const SEND_MOST: usize = 64 << 10;

/// How much is read at a time.
const READ_MOST: usize = 32 << 10;

/// A signal that comes so often ends the session, whatever the command does.
const INSISTS: u32 = 3;

/// What is watched, in this order.
#[derive(Clone, Copy, Default)]
struct Ready {
    socket: bool,
    signals: bool,
    parent: bool,
    messages: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

struct Session<'a> {
    asked: &'a Asked,
    connection: Connection,
    client: Client,
    /// What is not sent yet.
    out: Vec<u8>,
    stdout: Output,
    stderr: Output,
    stdin_ended: bool,
    terminal: bool,
    signals: OwnedFd,
    parent: Option<OwnedFd>,
    /// When it has to end.
    deadline: Option<Instant>,
    /// When the agent has to have answered, until it has.
    answers: Option<Instant>,
    /// How many signals were passed on that ask for the end.
    asked_to_end: u32,
    exited: Option<Exited>,
}

/// Runs the command that is `asked` for.
pub(super) fn run(asked: &Asked) -> Finished {
    let start = Instant::now();
    let begun = Session::begin(asked, start);
    let (ended, outputs) = match begun {
        Err(error) => (Err(error), [Vec::new(), Vec::new()]),
        Ok(mut session) => {
            if session.terminal {
                terminal::enter();
            }
            let ended = session.until_over();
            terminal::leave_for_good();
            let outputs = [session.stdout, session.stderr];
            (ended, outputs.map(|output| output.bytes.into()))
        }
    };
    Finished {
        ended,
        outputs,
        time: start.elapsed(),
        timeout: asked.bounds.timeout,
    }
}

impl<'a> Session<'a> {
    fn begin(asked: &'a Asked, start: Instant) -> Result<Self, ExecError> {
        let signals = signals::catch()?;
        // A parent outside of this container cannot be watched.
        let parent = (!asked.outlives)
            .then(|| owner::find(Parent::Whoever).ok())
            .flatten();
        let both =
            std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let terminal = both && !asked.json;
        let mut out = Vec::new();
        let size = terminal.then(size);
        let client = Client::start(asked.start(size), &mut out);
        let client = client.map_err(|_| ExecError::TooLong)?;
        let connection = Connection::to(asked)?;
        let timeout = asked.bounds.timeout;
        Ok(Self {
            asked,
            connection,
            client,
            out,
            stdout: Output::new(Flow::Stdout, asked.json),
            stderr: Output::new(Flow::Stderr, asked.json),
            stdin_ended: false,
            terminal,
            signals,
            parent,
            deadline: timeout.and_then(|t| start.checked_add(t + GRACE)),
            answers: Instant::now().checked_add(asked.patience),
            asked_to_end: 0,
            exited: None,
        })
    }

    fn until_over(&mut self) -> Result<Exited, ExecError> {
        loop {
            self.send()?;
            let written = self.stdout.waits_for().is_none()
                && self.stderr.waits_for().is_none();
            if let Some(exited) = self.exited
                && written
            {
                return Ok(exited);
            }
            self.look_at_the_clock()?;
            let ready = self.wait()?;
            self.handle(ready)?;
        }
    }

    fn look_at_the_clock(&self) -> Result<(), ExecError> {
        let now = Instant::now();
        if let Some(timeout) = self.asked.bounds.timeout
            && self.deadline.is_some_and(|end| end <= now)
        {
            return Err(ExecError::TimedOut(timeout));
        }
        if self.answers.is_some_and(|end| end <= now) {
            return Err(ExecError::NoAgent(self.asked.patience));
        }
        Ok(())
    }

    /// Sleeps until something may have happened.
    fn wait(&self) -> Result<Ready, ExecError> {
        let ends = self.deadline.into_iter().chain(self.answers).min();
        let pause = ends.and_then(|end| {
            let pause = end.saturating_duration_since(Instant::now());
            Timespec::try_from(pause).ok()
        });
        let mut socket = PollFlags::IN;
        if !self.out.is_empty() {
            socket |= PollFlags::OUT;
        }
        let stdin = rustix::stdio::stdin();
        let reads = !self.stdin_ended
            && self.exited.is_none()
            && self.out.len() < SEND_MOST
            && self.client.stdin_room() > 0;
        let open = self.exited.is_none();
        let watched = [
            (open.then(|| self.connection.socket.as_fd()), socket),
            (Some(self.signals.as_fd()), PollFlags::IN),
            (self.parent.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (self.connection.messages(), PollFlags::IN),
            (reads.then_some(stdin), PollFlags::IN),
            (self.stdout.waits_for(), PollFlags::OUT),
            (self.stderr.waits_for(), PollFlags::OUT),
        ];
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .filter_map(|&(fd, flags)| {
                Some(PollFd::from_borrowed_fd(fd?, flags))
            })
            .collect();
        match poll(&mut fds, pause.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(own("wait")(error)),
        }
        let mut happened = fds.iter().map(|fd| !fd.revents().is_empty());
        let [socket, signals, parent, messages, stdin, stdout, stderr] =
            watched
                .map(|(fd, _)| fd.is_some() && happened.next() == Some(true));
        Ok(Ready {
            socket,
            signals,
            parent,
            messages,
            stdin,
            stdout,
            stderr,
        })
    }

    fn handle(&mut self, ready: Ready) -> Result<(), ExecError> {
        if ready.messages {
            self.connection.hear();
        }
        if ready.parent {
            return Err(ExecError::Orphan);
        }
        if ready.signals {
            self.pass_signals_on()?;
        }
        if ready.socket {
            self.receive()?;
        }
        if ready.stdin {
            self.read_input();
        }
        if ready.stdout {
            let written = self.stdout.write();
            let done = written.map_err(own("write to standard output"))?;
            if self.stdout.closed {
                return Err(ExecError::NoReader);
            }
            self.client.taken(Flow::Stdout, done, &mut self.out);
        }
        if ready.stderr {
            // Errors without a reader are lost.
            let done = self.stderr.write().unwrap_or(0);
            self.client.taken(Flow::Stderr, done, &mut self.out);
        }
        Ok(())
    }

    /// Sends what the socket takes at once.
    fn send(&mut self) -> Result<(), ExecError> {
        while !self.out.is_empty() && self.exited.is_none() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&self.connection.socket, &self.out, flags) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // There may be something to receive before the end.
                Err(Errno::PIPE | Errno::CONNRESET) => self.out.clear(),
                Err(error) => return Err(own("reach the agent")(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), ExecError> {
        let mut bytes = [0; READ_MOST];
        let flags = RecvFlags::DONTWAIT;
        match recv(&self.connection.socket, &mut bytes, flags) {
            Ok((0, _)) | Err(Errno::CONNRESET) => {
                Err(self.connection.why_closed())
            }
            Ok((n, _)) => self.hear(&bytes[..n]),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(own("reach the agent")(error)),
        }
    }

    /// Handles bytes that came from the agent, or from another program of the
    /// guest in its place.
    fn hear(&mut self, bytes: &[u8]) -> Result<(), ExecError> {
        let mut rest = bytes;
        while let Some(event) = self.client.receive(&mut rest)? {
            self.answers = None;
            let (flow, done) = match event {
                Event::Stdout(bytes) => (Flow::Stdout, self.stdout.put(bytes)),
                Event::Stderr(bytes) => (Flow::Stderr, self.stderr.put(bytes)),
                Event::Exited(exited) => {
                    self.exited = Some(exited);
                    return Ok(());
                }
                Event::Failed(failure, text) => {
                    return Err(match self.asked.lacks_share(failure) {
                        true => ExecError::NotMounted(text),
                        false => ExecError::Failed(failure, text),
                    });
                }
                Event::Started(_)
                | Event::StdinRoom
                | Event::File(_)
                | Event::Done(_) => continue,
            };
            self.client.taken(flow, done, &mut self.out);
            let total = self.stdout.total + self.stderr.total;
            if let Some(most) = self.asked.bounds.output
                && total > most
            {
                return Err(ExecError::TooMuchOutput(most));
            }
        }
        Ok(())
    }

    fn read_input(&mut self) {
        let mut bytes = [0; READ_MOST];
        let room = self.client.stdin_room().min(READ_MOST);
        match rustix::io::read(rustix::stdio::stdin(), &mut bytes[..room]) {
            Ok(n @ 1..) => {
                self.client.stdin(&bytes[..n], &mut self.out);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => {
                self.stdin_ended = true;
                self.client.stdin_end(&mut self.out);
            }
        }
    }

    fn pass_signals_on(&mut self) -> Result<(), ExecError> {
        let mut numbers = [0; 64];
        let n = rustix::io::read(&self.signals, &mut numbers).unwrap_or(0);
        for &number in &numbers[..n] {
            match i32::from(number) {
                SIGWINCH if self.terminal => {
                    self.client.resize(size(), &mut self.out);
                }
                SIGWINCH => {}
                SIGUSR1 | SIGUSR2 => {
                    self.client.signal(number, &mut self.out);
                }
                signal => {
                    self.asked_to_end += 1;
                    let leaves = signal == SIGHUP
                        || self.connection.is_own()
                        || self.answers.is_some()
                        || self.asked_to_end >= INSISTS;
                    if leaves {
                        return Err(ExecError::Signal(number));
                    }
                    self.client.signal(number, &mut self.out);
                }
            }
        }
        Ok(())
    }
}

/// The size of the terminal.
fn size() -> Size {
    let size = terminal::size();
    Size {
        rows: size.rows,
        cols: size.columns,
    }
}
