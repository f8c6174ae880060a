//! The console: lines go to standard output, and typed bytes come in.
//!
//! Output is written before the Guest goes on, so that the last lines of a
//! dying Guest are there when it is dead. Input waits here until the Guest has
//! a free buffer for it, so that no byte is lost however fast they come. While
//! many bytes wait, no more are read, and their sender has to wait, too. The
//! two directions are independent: output that blocks must not keep ^C^C^C from
//! coming in.

pub mod backlog;

mod keys;
use keys::Typed;

mod log;
pub use log::Log;

mod screen;
pub use screen::{Kind, Screen};

mod exit_keys;
use exit_keys::ExitKeys;

use backlog::Backlog;

use super::{AT_ONCE, Counter, Filled, NamedCounts, Readiness};
use super::{ReceiveBuffers, RestoreError, Saved, Versioned, Violation};
use crate::memory::scatter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// What a console is connected to.
pub struct Config {
    /// Where typed bytes come from.
    pub input: OwnedFd,
    /// Where the Guest's lines go.
    pub output: OwnedFd,
    /// A file that they are copied to.
    pub log: Option<Log>,
    /// An event to raise when the input has ended and the Guest has all of it.
    pub at_end: Option<OwnedFd>,
}

/// What the control socket of a machine adds to its console.
pub struct Remote {
    /// A pipe with bytes that clients type. Reads of it do not block.
    pub typed: OwnedFd,
    /// The output for clients.
    pub backlog: Arc<Backlog>,
}

/// The console of a Guest.
pub struct Console {
    input: OwnedFd,
    typed: Option<Typed>,
    at_end: Option<OwnedFd>,
    screen: Arc<Screen>,
    /// Bytes that were read and that the Guest has not taken yet.
    waiting: Vec<u8>,
    /// Looks for ^C^C^C, where the input is a terminal.
    exit_keys: Option<ExitKeys>,
    /// There is no more input.
    ended: bool,
    counters: ConsoleCounters,
}

/// What a console has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ConsoleCounters {
    bytes_in: Counter,
    bytes_dropped: Counter,
    writes: Counter,
    buffers_filled: Counter,
    no_buffer: Counter,
}

/// The state of a console. Output has been shown before the Guest goes on, so
/// none waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    /// Bytes that were read and that the Guest has not taken yet.
    waiting: Vec<u8>,
    counters: ConsoleCounters,
}

impl Saved for ConsoleState {
    const DEVICE: &'static str = "console";
    const VERSION: u32 = 1;
}

/// The most that is read at a time: as much as a terminal keeps.
const READ_MAX: usize = 4096;

/// The most that is kept for a Guest that takes no input. A terminal is read
/// all the same: ^C^C^C must come through to end such a Guest.
const WAITING_MAX: usize = 1 << 16;

impl Console {
    /// A console between these two.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with(config, None, None)
    }

    /// A console that clients of the machine's control socket use, too.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
    pub fn with_remote(config: Config, remote: Remote) -> io::Result<Self> {
        let typed = Typed::beside(&config.input, remote.typed)?;
        Ok(Self::with(config, Some(typed), Some(remote.backlog)))
    }

    fn with(
        config: Config,
        typed: Option<Typed>,
        backlog: Option<Arc<Backlog>>,
    ) -> Self {
        let is_terminal = rustix::termios::isatty(&config.input);
        let screen = Screen::new(config.output, config.log, backlog);
        Self {
            input: config.input,
            typed,
            at_end: config.at_end,
            screen: Arc::new(screen),
            waiting: Vec::new(),
            exit_keys: is_terminal.then(ExitKeys::default),
            ended: false,
            counters: ConsoleCounters::default(),
        }
    }

    /// What shows the Guest's output.
    #[must_use]
    pub fn screen(&self) -> Arc<Screen> {
        Arc::clone(&self.screen)
    }

    /// The Guest prints `bytes`. The function that is returned shows them. It
    /// blocks while the output does, as with a slow serial line, and must be
    /// called before the Guest goes on. The console can be used meanwhile.
    pub fn print(&mut self, bytes: Vec<u8>) -> impl FnOnce() + Send + 'static {
        self.counters.writes.add(1);
        let screen = Arc::clone(&self.screen);
        move || screen.show(&bytes)
    }

    /// Columns and rows of the terminal that is its input; zeroes if it is no
    /// terminal.
    #[must_use]
    pub fn size(&self) -> [u16; 2] {
        match rustix::termios::tcgetwinsize(&self.input) {
            Ok(size) => [size.ws_col, size.ws_row],
            Err(_) => [0; 2],
        }
    }

    /// The file to watch for input.
    #[must_use]
    pub fn input(&self) -> BorrowedFd<'_> {
        match &self.typed {
            Some(typed) => typed.watch(),
            None => self.input.as_fd(),
        }
    }

    /// There may be input. Returns when it would have to wait, and when it has
    /// filled [`AT_ONCE`] buffers.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub fn handle_input(
        &mut self,
        buffers: &mut dyn ReceiveBuffers,
    ) -> Result<Readiness, Violation> {
        let found = self.look_for_input(buffers);
        let nothing_waits = self.waiting.is_empty();
        if let Some(typed) = &mut self.typed {
            typed.listen(nothing_waits);
        }
        found
    }

    fn look_for_input(
        &mut self,
        buffers: &mut dyn ReceiveBuffers,
    ) -> Result<Readiness, Violation> {
        let mut filled = self.deliver(buffers, AT_ONCE)?;
        if self.waiting.is_empty()
            && let Some(typed) = &self.typed
        {
            let mut bytes = [0; READ_MAX];
            let n = typed.read(&mut bytes);
            self.keep(&bytes[..n]);
            filled += self.deliver(buffers, AT_ONCE - filled)?;
        }
        let reads = self.waiting.is_empty() || self.is_terminal();
        if !self.ended && reads {
            if let Some(settled) = self.read() {
                return Ok(settled);
            }
            filled += self.deliver(buffers, AT_ONCE - filled)?;
        }
        if self.ended && self.waiting.is_empty() {
            self.tell_end();
        }
        Ok(self.readiness(filled))
    }

    /// Gives waiting bytes to the Guest, buffer by buffer, `most` at most.
    /// Bytes without a buffer stay. Returns how many buffers it has filled.
    fn deliver(
        &mut self,
        buffers: &mut dyn ReceiveBuffers,
        most: usize,
    ) -> Result<usize, Violation> {
        let mut rest = self.waiting.as_slice();
        let mut filled = 0;
        while !rest.is_empty() && filled < most {
            let mut put = |into: crate::memory::SectionsIn<'_>| {
                let taken = scatter(into.region, into.list, rest);
                let taken = taken.map_err(io::Error::other)?;
                u32::try_from(taken).map_err(io::Error::other)
            };
            // A buffer without room for a byte stays free.
            let Filled::Bytes(taken @ 1..) = buffers.fill(&mut put)? else {
                break;
            };
            rest = &rest[taken as usize..];
            self.counters.bytes_in.add(taken.into());
            self.counters.buffers_filled.add(1);
            filled += 1;
        }
        let done = self.waiting.len() - rest.len();
        self.waiting.drain(..done);
        if !self.waiting.is_empty() && filled < most {
            self.counters.no_buffer.add(1);
        }
        Ok(filled)
    }

    fn is_terminal(&self) -> bool {
        self.exit_keys.is_some()
    }

    /// Keeps `read` for the Guest, as far as there is room. A terminal does the
    /// same when no program reads from it.
    fn keep(&mut self, read: &[u8]) {
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        let kept = read.len().min(room);
        self.waiting.extend_from_slice(&read[..kept]);
        self.counters.bytes_dropped.add((read.len() - kept) as u64);
    }

    /// Whether a read would block, or stop this process: a job in the
    /// background must not touch its terminal.
    fn may_read(&self) -> MayRead {
        let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match poll(&mut fds, Some(&now)) {
            // A signal can interrupt even a poll that does not wait, if the
            // poll finds nothing. The input goes on.
            Ok(0) | Err(Errno::INTR) => return MayRead::WouldBlock,
            Ok(_) => {}
            Err(_) => return MayRead::Never,
        }
        if self.is_terminal() && !crate::machine::terminal::is_ours(&self.input)
        {
            return MayRead::InBackground;
        }
        if self.is_terminal() {
            crate::machine::terminal::keep();
        }
        MayRead::Yes
    }

    /// Reads available input. Returns the result where that is settled here.
    fn read(&mut self) -> Option<Readiness> {
        match self.may_read() {
            MayRead::Yes => {}
            MayRead::WouldBlock => return None,
            MayRead::InBackground => return Some(Readiness::Taken),
            MayRead::Never => {
                self.end_input();
                return None;
            }
        }
        let mut bytes = [0; READ_MAX];
        let n = match rustix::io::read(&self.input, &mut bytes) {
            Err(Errno::INTR | Errno::AGAIN) => return None,
            Ok(0) | Err(_) => {
                self.end_input();
                return None;
            }
            Ok(n) => n,
        };
        let read = &bytes[..n];
        if let Some(keys) = &mut self.exit_keys
            && keys.are_typed(read, Instant::now())
        {
            return Some(Readiness::Quit);
        }
        self.keep(read);
        None
    }

    /// There is no more input but that of clients.
    fn end_input(&mut self) {
        self.ended = true;
        if let Some(typed) = &self.typed {
            typed.forget(&self.input);
        }
    }

    /// What to do next about input, after so many buffers were filled.
    fn readiness(&self, buffers: usize) -> Readiness {
        match (self.waiting.is_empty(), self.ended) {
            (true, true) if self.typed.is_none() => Readiness::Closed,
            (true, _) => Readiness::Wait,
            (false, _) if buffers >= AT_ONCE => Readiness::More,
            // A terminal is read even then: ^C^C^C has to end a Guest that
            // takes no more input.
            (false, ended) => Readiness::NoBuffer {
                took: buffers > 0,
                watch: self.is_terminal() && !ended,
            },
        }
    }

    /// The input has ended, and the Guest has all of it.
    fn tell_end(&self) {
        if let Some(event) = &self.at_end {
            // It is raised a few times at most, so it cannot be full.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }

    /// The Guest is dead: its log stays, though it may be empty.
    pub fn finish(&self) {
        self.screen.finish();
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> Versioned<ConsoleState> {
        ConsoleState {
            waiting: self.waiting.clone(),
            counters: self.counters.clone(),
        }
        .versioned()
    }

    /// Goes on with `state`. Input that waited there comes before new input.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    pub fn restore(
        &mut self,
        state: &Versioned<ConsoleState>,
    ) -> Result<(), RestoreError> {
        let state = state.known()?;
        self.waiting.clone_from(&state.waiting);
        self.waiting.truncate(WAITING_MAX);
        self.counters = state.counters.clone();
        Ok(())
    }

    /// What the console has done so far, for the statistics.
    #[must_use]
    pub fn counters(&self) -> NamedCounts {
        let [out, discarded] = self.screen.counters();
        let c = &self.counters;
        vec![
            ("bytes_in", c.bytes_in.get()),
            out,
            discarded,
            ("bytes_dropped", c.bytes_dropped.get()),
            ("writes", c.writes.get()),
            ("buffers_filled", c.buffers_filled.get()),
            ("no_buffer", c.no_buffer.get()),
        ]
    }
}

/// Whether the input may be read.
enum MayRead {
    Yes,
    WouldBlock,
    InBackground,
    Never,
}

#[cfg(test)]
mod tests;
