//! A child process: its number, its descriptor, and its end.
//!
//! All processes of a Guest are children of the Launcher, and only the Launcher
//! reaps them. So a number stays with its process until we have waited for it.

use crate::needs::Lack;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open,
    pidfd_send_signal, waitid,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What the Launcher was doing, for errors of a Guest's processes.
pub(super) const START: &str = "start the guest's processes";
pub(super) const WATCH: &str = "watch the guest's processes";

/// Makes errors that say what failed.
pub(super) fn lack<E: Into<io::Error>>(
    doing: &'static str,
) -> impl Fn(E) -> Lack {
    move |error| Lack::when(doing, error)
}

/// A child of ours that has not been reaped.
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) descriptor: OwnedFd,
}

impl Child {
    /// The child with number `pid`, which another process has reported. A
    /// process that is not our child must not be watched or killed.
    pub(super) fn of_ours(pid: i32) -> Result<Self, Lack> {
        let pid = (pid > 0).then(|| Pid::from_raw(pid)).flatten();
        let pid = pid
            .ok_or(io::ErrorKind::InvalidInput)
            .map_err(lack(START))?;
        let descriptor =
            pidfd_open(pid, PidfdFlags::empty()).map_err(lack(WATCH))?;
        let look = WaitIdOptions::EXITED
            | WaitIdOptions::NOHANG
            | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(descriptor.as_fd()), look).map_err(lack(WATCH))?;
        Ok(Self { pid, descriptor })
    }

    /// Kills it. Blocks until it has ended.
    pub(super) fn end(self) {
        let _ = pidfd_send_signal(&self.descriptor, Signal::KILL);
        bury(&self.descriptor);
    }
}

/// Whether a process has ended.
pub(super) fn has_ended(process: &&OwnedFd) -> bool {
    let options =
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::PidFd(process.as_fd()), options), Ok(None))
}

/// Reaps a process of ours. Blocks until it has ended.
pub(super) fn bury(process: &OwnedFd) {
    let options = WaitIdOptions::EXITED;
    let wait = || waitid(WaitId::PidFd(process.as_fd()), options);
    while matches!(wait(), Err(rustix::io::Errno::INTR)) {}
}
