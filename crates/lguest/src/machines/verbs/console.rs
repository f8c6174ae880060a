//! `lguest console`: the console of a machine, on this terminal.
//!
//! The last output comes first, then what the Guest prints next. One client at
//! a time types; the others look. `^]` leaves, and the machine runs on. The
//! terminal is as before on every way out.

use super::end::after_the_launcher;
use super::found::{DONE, find};
use crate::cli::exit::Outcome;
use crate::machine::{crash, signals, terminal};
use crate::machines::error::MachineError;
use crate::machines::folder::Folder;
use crate::machines::link::{Heard, Link, PATIENCE};
use crate::machines::name::Name;
use crate::machines::protocol::{Attached, BYTES_MOST, Bytes, Call, Received};
use crate::machines::record::End;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::low_level::emulate_default_handler;
use std::io::{self, IsTerminal};
use std::time::Instant;

/// The key that leaves: `^]`.
const LEAVE: u8 = 0x1d;

/// The most that is kept for a Guest that takes no input. A terminal is read
/// all the same: the key that leaves must come through.
const WAITING_MOST: usize = 64 << 10;

/// A console on this terminal.
struct Session {
    link: Link,
    /// Standard input is a terminal.
    keys: bool,
    /// Whether this client may type.
    types: bool,
    /// What was typed and is not sent yet.
    waiting: Vec<u8>,
    /// The call by which something is typed, if it is not answered yet.
    typing: Option<u64>,
    input_ended: bool,
    /// The position of the next byte of output.
    at: u64,
}

/// Why a session has ended.
enum Left {
    ByKey,
    Machine(Option<End>),
}

pub(super) fn console(
    name: &Name,
    look: bool,
) -> Result<Outcome, MachineError> {
    let (_, folder) = find(name)?;
    let mut link = Link::to(&folder)?;
    let number = link.call(&Call::Attach {
        from: None,
        since: None,
        types: !look,
    })?;
    let deadline = Some(Instant::now() + PATIENCE);
    let attached: Attached = link.answer(number, deadline)?;
    let keys = io::stdin().is_terminal();
    greet(name, &attached, look, keys);
    let what = "catch signals";
    catch_signals().map_err(|error| MachineError::Own(what, error))?;
    terminal::enter();
    let mut session = Session {
        link,
        keys,
        types: attached.types,
        waiting: Vec::new(),
        typing: None,
        input_ended: false,
        at: attached.from,
    };
    let left = session.until_left();
    terminal::leave();
    terminal::end_line();
    match left? {
        Left::ByKey => {
            terminal::tell(&format!("left '{name}', which runs on"));
            Ok(DONE)
        }
        Left::Machine(end) => ended(&folder, end),
    }
}

/// Says what this client may do.
fn greet(name: &Name, attached: &Attached, look: bool, keys: bool) {
    let leave = if keys { "; ^] leaves" } else { "" };
    match attached.other {
        Some(pid) if !look => terminal::tell(&format!(
            "process {pid} types on '{name}', so this only looks{leave}"
        )),
        _ if keys => terminal::tell(&format!("console of '{name}'{leave}")),
        _ => {}
    }
}

/// Says how the machine has ended, and ends with its exit code.
fn ended(folder: &Folder, end: Option<End>) -> Result<Outcome, MachineError> {
    let name = &folder.name;
    let end = end.map_or_else(|| after_the_launcher(folder), Ok)?;
    terminal::tell(&format!("machine '{name}' has ended: {}", end.reason));
    Ok(Outcome::OfMachine(end.exit_code))
}

/// A thread puts the terminal back at signals that end or stop this process.
pub(super) fn catch_signals() -> io::Result<()> {
    let caught = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGCONT];
    crash::listen(signals::ignored())?;
    let mut caught = signal_hook::iterator::Signals::new(caught)?;
    crate::thread::start("signals", 128 << 10, move || {
        for signal in caught.forever() {
            match signal {
                SIGTSTP => {
                    terminal::lend();
                    let _ = emulate_default_handler(SIGTSTP);
                    terminal::resume();
                }
                SIGCONT => terminal::resume(),
                _ => {
                    terminal::leave_for_good();
                    let number = u8::try_from(signal).unwrap_or(u8::MAX);
                    let code = Outcome::Signal(number).code();
                    std::process::exit(code.into());
                }
            }
        }
    })?;
    Ok(())
}

impl Session {
    fn until_left(&mut self) -> Result<Left, MachineError> {
        loop {
            loop {
                match self.link.arrived()? {
                    Heard::Message(Received::Ended(end)) => {
                        return Ok(Left::Machine(Some(end)));
                    }
                    Heard::Message(message) => self.handle(message)?,
                    Heard::Nothing => break,
                    Heard::Closed => return Ok(Left::Machine(None)),
                }
            }
            self.send_typed()?;
            if self.wait()? && self.read_keys() {
                return Ok(Left::ByKey);
            }
        }
    }

    fn handle(&mut self, message: Received) -> Result<(), MachineError> {
        match message {
            Received::Output(read) => {
                let missing = read.from.saturating_sub(self.at);
                if missing > 0 {
                    let text = format!(
                        "\r\n[lguest: {missing} bytes of output are missing]\r\n"
                    );
                    show(text.as_bytes())?;
                }
                self.at = read.from + read.data.0.len() as u64;
                show(&read.data.0)
            }
            Received::Answer(number, _) if Some(number) == self.typing => {
                self.typing = None;
                Ok(())
            }
            Received::Answer(..) | Received::Ended(_) => Ok(()),
        }
    }

    fn send_typed(&mut self) -> Result<(), MachineError> {
        if self.typing.is_none() && !self.waiting.is_empty() {
            let n = self.waiting.len().min(BYTES_MOST);
            let data = Bytes(self.waiting.drain(..n).collect());
            self.typing = Some(self.link.call(&Call::Write { data })?);
        }
        Ok(())
    }

    /// Waits for output or input. Returns whether there is input.
    fn wait(&self) -> Result<bool, MachineError> {
        let stdin = rustix::stdio::stdin();
        // Without keys nothing may be lost, so the sender has to wait.
        let reads = !self.input_ended && (self.keys || self.waiting.is_empty());
        let mut fds = vec![PollFd::new(&self.link, PollFlags::IN)];
        if reads {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                return Err(MachineError::Own("wait for input", error.into()));
            }
        }
        Ok(fds.get(1).is_some_and(|fd| !fd.revents().is_empty()))
    }

    /// Reads what was typed. Returns whether the key that leaves was among it.
    fn read_keys(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let n = match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Err(Errno::INTR | Errno::AGAIN) => return false,
            Ok(0) | Err(_) => {
                self.input_ended = true;
                // Nobody can leave any more, nor look.
                return self.keys;
            }
            Ok(n) => n,
        };
        let read = &bytes[..n];
        let leave = read.iter().position(|&byte| byte == LEAVE);
        let leave = leave.filter(|_| self.keys);
        let typed = &read[..leave.unwrap_or(n)];
        if self.types {
            let room = WAITING_MOST.saturating_sub(self.waiting.len());
            self.waiting.extend(&typed[..typed.len().min(room)]);
        }
        if leave.is_some() {
            // If the machine is gone, that does not matter any more.
            let _ = self.send_typed();
        }
        leave.is_some()
    }
}

/// Writes output to standard output.
fn show(bytes: &[u8]) -> Result<(), MachineError> {
    terminal::written(bytes);
    terminal::write_all(rustix::stdio::stdout(), bytes)
        .map_err(|error| MachineError::Own("write to standard output", error))
}
