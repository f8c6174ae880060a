//! `--detach`: the machine goes on in a process of its own.
//!
//! The command forks before it has opened anything but a snapshot. The child
//! becomes the Launcher, in a session of its own, so that no terminal ends it.
//! The command prints the messages of the child until the machine runs (or has
//! printed what it prints when it is ready), and ends with its exit code if
//! that never happens.

#![expect(unsafe_code, reason = "fork")]

use super::error::{LaunchError, lacks};
use super::terminal;
use crate::cli::exit::Outcome;
use crate::machines::MachineError;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use std::io;
use std::os::fd::OwnedFd;

/// Tells the command that the machine is ready.
pub(super) struct Ready(OwnedFd);

impl Ready {
    /// Tells it.
    pub(super) fn tell(self) {
        // The command may have been ended already.
        let _ = rustix::io::write(&self.0, b"!");
    }
}

/// Which of the two processes this is.
pub(super) enum Side {
    /// The Launcher.
    Launcher(Ready),
    /// The command.
    Command(Waiting),
}

/// The command while it waits.
pub(super) struct Waiting {
    launcher: Pid,
    messages: OwnedFd,
    ready: OwnedFd,
}

/// Divides this process in two. There must be no other thread.
pub(super) fn divide() -> Result<Side, LaunchError> {
    let keep = lacks("start a process of its own");
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let (messages, errors) = pipe().map_err(|e| keep(e.into()))?;
    let (ready, tells) = pipe().map_err(|e| keep(e.into()))?;
    // SAFETY: this process has one thread, so the child finds no lock held.
    match unsafe { libc::fork() } {
        -1 => Err(keep(io::Error::last_os_error())),
        0 => {
            drop((messages, ready));
            if let Err(error) = leave_the_terminal(&errors) {
                let outcome = keep(error.into()).told();
                // The caller goes on in the command's process only.
                std::process::exit(outcome.code().into());
            }
            Ok(Side::Launcher(Ready(tells)))
        }
        pid => {
            let launcher = Pid::from_raw(pid);
            let launcher = launcher.ok_or_else(|| keep(Errno::CHILD.into()))?;
            Ok(Side::Command(Waiting {
                launcher,
                messages,
                ready,
            }))
        }
    }
}

/// Gives the child a session and streams of its own.
fn leave_the_terminal(errors: &OwnedFd) -> rustix::io::Result<()> {
    rustix::process::setsid()?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(errors)
}

impl Waiting {
    /// Waits until the machine is ready, or has ended before. Blocks.
    pub(super) fn wait(
        self,
        not_ready: impl FnOnce() -> MachineError,
    ) -> Result<Outcome, LaunchError> {
        let ready = self.relay();
        if ready {
            return Ok(Outcome::PoweredOff(0));
        }
        let status = loop {
            match waitpid(Some(self.launcher), WaitOptions::empty()) {
                Ok(Some((_, status))) => break status,
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => {
                    let what = "wait for the launcher";
                    return Err(LaunchError::Failed(what, error.into()));
                }
            }
        };
        match Self::code(status) {
            // It has ended well, but too early.
            0 => Err(not_ready().into()),
            code => Ok(Outcome::OfMachine(code)),
        }
    }

    fn code(status: WaitStatus) -> u8 {
        let code = status.exit_status();
        let signal = || status.terminating_signal().map(|n| 128 | n);
        let code = code.or_else(signal).and_then(|n| u8::try_from(n).ok());
        code.unwrap_or(u8::MAX)
    }

    /// Prints what the Launcher says, until it is ready or has ended. Returns
    /// whether it is ready.
    fn relay(&self) -> bool {
        let mut may_be_ready = true;
        loop {
            let mut fds = vec![PollFd::new(&self.messages, PollFlags::IN)];
            if may_be_ready {
                fds.push(PollFd::new(&self.ready, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return false,
            }
            let happened = |n| {
                fds.get(n)
                    .is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty())
            };
            let mut bytes = [0; 4096];
            if happened(0) {
                let n = rustix::io::read(&self.messages, &mut bytes);
                let said = &bytes[..n.unwrap_or(0)];
                if said.is_empty() {
                    return false;
                }
                let _ = terminal::write_all(rustix::stdio::stderr(), said);
            } else if happened(1) {
                if rustix::io::read(&self.ready, &mut [0]) == Ok(1) {
                    return true;
                }
                // It fails, and is going to say why.
                may_be_ready = false;
            }
        }
    }
}
