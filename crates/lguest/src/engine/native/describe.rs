//! How a process of the Guest ended: as text, or as a lack of the machine.
//!
//! None of this reaps a process.

use super::child::START;
use crate::needs::{self, Cause, Lack};
use lg_wire::spawn::SETUP_FAILED;
use lg_wire::spawn::Step;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The meaning of `error`, with which the view spawner or a view has failed at
/// a step, or in its fork (0).
pub(super) fn no_process(error: i32, step: i32, detail: i32) -> Lack {
    match Step::from_number(step) {
        Some(step) => Lack::of_step(step, error, detail),
        None => Lack::when(START, io::Error::from_raw_os_error(error)),
    }
}

/// A step that is not known.
pub(super) const NOT_KNOWN: [i32; 2] = [0, 0];

/// Why a process has ended before it was ready. If it was killed, it was at
/// this step and call. Blocks until it has ended.
pub(super) fn lack_of(process: &OwnedFd, [step, detail]: [i32; 2]) -> Lack {
    let other = |why| Lack::new(START, Cause::Other(why));
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let Ok(Some(status)) = waitid(WaitId::PidFd(process.as_fd()), options)
    else {
        return other("a process of the guest has ended".into());
    };
    match (status.terminating_signal(), status.exit_status()) {
        (Some(libc::SIGSYS), _) => {
            Lack::of_filter(Step::from_number(step), detail)
        }
        (Some(libc::SIGKILL), _) => Lack::of_kill(START),
        (Some(signal), _) => {
            let end = describe_signal(signal);
            other(format!("a process of the guest {end}"))
        }
        (None, status) => {
            let status = status.unwrap_or(0);
            other(format!("a process of the guest ended with {status}"))
        }
    }
}

/// How a process ended, as text for a message.
pub(super) fn end_of(process: &OwnedFd) -> String {
    how_it_ended(process, |status| format!("ended with status {status}"))
}

/// The same for a view. The Guest may have chosen its status, so the status
/// says nothing about this machine.
pub(super) fn end_of_view(process: &OwnedFd) -> String {
    const FILTER: i32 = SETUP_FAILED + Step::Filter.number();
    how_it_ended(process, |status| match status {
        FILTER => format!("says that it cannot confine itself ({status})"),
        status => format!("ended with status {status}"),
    })
}

fn how_it_ended(
    process: &OwnedFd,
    describe: impl FnOnce(i32) -> String,
) -> String {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::PidFd(process.as_fd()), options);
    match status.ok().flatten() {
        Some(status) => {
            if let Some(signal) = status.terminating_signal() {
                describe_signal(signal)
            } else {
                describe(status.exit_status().unwrap_or(0))
            }
        }
        None => "is gone".into(),
    }
}

fn describe_signal(signal: i32) -> String {
    match signal {
        libc::SIGSYS => {
            "tried a forbidden system call and was stopped (SIGSYS)".into()
        }
        libc::SIGKILL | libc::SIGXCPU => match needs::killed() {
            Cause::KilledFromOutside => {
                "was killed from outside (SIGKILL)".into()
            }
            cause => {
                format!("was killed (SIGKILL): {cause}; {}", cause.cure())
            }
        },
        libc::SIGSEGV => "lost its stack (SIGSEGV)".into(),
        other => format!("was killed by signal {other}"),
    }
}
