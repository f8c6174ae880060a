//! The machine of a command: one that runs, or a new one.
//!
//! A new machine is a Launcher of its own, which has the other end of our
//! socket and ends with it. So nothing is left, whatever ends this process.

use super::asked::{Asked, Target};
use super::error::{ExecError, own};
use crate::engine::printable;
use crate::images::Stored;
use crate::machine::terminal;
use crate::machines::link::Link;
use crate::machines::verbs::find;
use crate::machines::{MachineError, Name};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The most that is kept of what a Launcher says.
const SAID_MOST: usize = 16 << 10;

/// How long a Launcher that has closed our socket may take to say why.
const LAST_WORDS: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// A connection to the agent of a machine.
pub(super) struct Connection {
    /// Frames go through it.
    pub(super) socket: OwnedFd,
    machine: Machine,
}

enum Machine {
    /// One that runs on.
    Running(Name),
    /// One that ends with us.
    Own(Own),
}

/// The Launcher of a machine that ends with us.
struct Own {
    launcher: Child,
    /// What it says.
    messages: OwnedFd,
    said: Vec<u8>,
}

impl Connection {
    /// Connects to the machine that is `asked` for, or starts it.
    pub(super) fn to(asked: &Asked) -> Result<Self, ExecError> {
        match &asked.target {
            Target::Machine(name) => {
                let (socket, theirs) = pair(SocketFlags::CLOEXEC)?;
                let (_, folder) = find(name)?;
                Link::to(&folder)?.exec(&theirs)?;
                let machine = Machine::Running(name.clone());
                Ok(Self { socket, machine })
            }
            Target::Snapshot(folder) => start(asked, restore(folder)),
            Target::Image(image) => start(asked, machine_of(image, asked)),
        }
    }

    /// Whether the machine ends with us.
    pub(super) fn is_own(&self) -> bool {
        matches!(self.machine, Machine::Own(_))
    }

    /// A file that can be read when the Launcher says something.
    pub(super) fn messages(&self) -> Option<BorrowedFd<'_>> {
        match &self.machine {
            Machine::Own(own) if own.said.len() < SAID_MOST => {
                Some(own.messages.as_fd())
            }
            _ => None,
        }
    }

    /// Keeps what the Launcher says. Does not block.
    pub(super) fn hear(&mut self) {
        if let Machine::Own(own) = &mut self.machine {
            own.hear();
        }
    }

    /// Why the socket was closed.
    pub(super) fn why_closed(&mut self) -> ExecError {
        match &mut self.machine {
            Machine::Running(name) => {
                let ended = find(name).ok().and_then(|(_, f)| f.ended());
                lost(ended)
            }
            Machine::Own(own) => own.why(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Machine::Own(own) = &mut self.machine {
            // All of the machine goes with its Launcher.
            let _ = own.launcher.kill();
            let _ = own.launcher.wait();
        }
    }
}

impl Own {
    fn hear(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = rustix::io::read(&self.messages, &mut bytes) {
            let room = SAID_MOST.saturating_sub(self.said.len());
            self.said.extend_from_slice(&bytes[..n.min(room)]);
        }
    }

    /// Waits for the end of the Launcher, and says why it has ended.
    fn why(&mut self) -> ExecError {
        // It closes our socket before it says why, and this last.
        loop {
            let mut fds = [PollFd::new(&self.messages, PollFlags::IN)];
            match poll(&mut fds, Some(&LAST_WORDS)) {
                Ok(1..) => {}
                Err(Errno::INTR) => continue,
                Ok(0) | Err(_) => break,
            }
            let ends = fds[0].revents().contains(PollFlags::HUP);
            self.hear();
            if ends {
                break;
            }
        }
        let _ = self.launcher.kill();
        let status = self.launcher.wait().ok();
        let code = status.and_then(|status| status.code());
        let code = code.and_then(|code| u8::try_from(code).ok());
        let said = String::from_utf8_lossy(&self.said);
        let lines = said.lines().map(|line| {
            let line = line.strip_prefix("lguest: ").unwrap_or(line);
            printable(line.as_bytes())
        });
        let said = lines.collect::<Vec<_>>().join("; ");
        match code {
            // A guest that powers off, restarts or dies has begun.
            Some(code @ (2 | 120..=127 | 129..)) => {
                ExecError::Launcher(code, said)
            }
            _ if said.is_empty() => {
                ExecError::Lost("it has powered off".into())
            }
            _ => ExecError::Lost(said),
        }
    }
}

/// The error of a command whose machine has ended.
fn lost(ended: Option<MachineError>) -> ExecError {
    match ended {
        Some(MachineError::Ended(name, why)) => ExecError::Lost(format!(
            "{why}: 'lguest logs {name}' shows its last output"
        )),
        Some(error) => error.into(),
        None => ExecError::Lost("its launcher is gone".into()),
    }
}

/// Two ends of a socket.
fn pair(flags: SocketFlags) -> Result<(OwnedFd, OwnedFd), ExecError> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(own("make a socket"))
}

/// The words for a machine that goes on from the snapshot in `folder`.
fn restore(folder: &Path) -> Vec<OsString> {
    vec!["restore".into(), folder.into()]
}

/// The words for a machine of an image: from its snapshot, or it boots.
fn machine_of(image: &Stored, asked: &Asked) -> Vec<OsString> {
    if asked.words.iter().any(adds_a_device) {
        return image.boot_words();
    }
    let warm = image.warm();
    if warm.is_dir() {
        let mut words = restore(&warm);
        words.extend(["--base".into(), image.disk().into()]);
        return words;
    }
    if io::stderr().is_terminal() {
        terminal::tell(&format!(
            "image '{0}' has no snapshot, and boots: 'lguest image warm {0}' \
             makes one",
            image.name
        ));
    }
    image.boot_words()
}

/// Whether an option gives a machine a device that none in the snapshot of an
/// image has. A guest that runs gets no new one.
fn adds_a_device(word: &OsString) -> bool {
    let word = word.as_bytes();
    word.starts_with(b"--net=") || word.starts_with(b"--share=")
}

/// Starts a machine by these words.
fn start(asked: &Asked, words: Vec<OsString>) -> Result<Connection, ExecError> {
    // The Launcher inherits its end.
    let (socket, theirs) = pair(SocketFlags::empty())?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC).map_err(own("make a socket"))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(words).args(&asked.words);
    command.arg(format!("--agent-owner={}", theirs.as_raw_fd()));
    let own = launch(command, asked.verbose)?;
    // Our copy of its end is closed, so that we notice when it closes its own.
    drop(theirs);
    Ok(Connection {
        socket,
        machine: Machine::Own(own),
    })
}

/// Starts a Launcher. Its console is not ours.
fn launch(mut command: Command, verbose: bool) -> Result<Own, ExecError> {
    let doing = "start a launcher";
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (messages, theirs) = pipe_with(flags).map_err(own(doing))?;
    // It writes to the other end as to any standard error.
    rustix::io::ioctl_fionbio(&theirs, false).map_err(own(doing))?;
    command.env_remove("LGUEST_LOG").stdin(Stdio::null());
    match verbose {
        true => command.stdout(io::stderr()).arg("--verbose"),
        false => command.stdout(Stdio::null()),
    };
    // ^C is for the command, which this process passes on.
    command.stderr(theirs).process_group(0);
    let launcher = command.spawn().map_err(own(doing))?;
    Ok(Own {
        launcher,
        messages,
        said: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_lost_with_a_machine_that_ends() {
        let name: Name = "web".parse().unwrap();
        let ended = MachineError::Ended(name, "powered off".into());
        let error = lost(Some(ended));
        assert_eq!(error.outcome().code(), 122);
        assert_eq!(
            error.to_string(),
            "the machine has ended before the command: powered off: 'lguest \
             logs web' shows its last output"
        );
        assert_eq!(lost(None).outcome().code(), 122);
    }
}
