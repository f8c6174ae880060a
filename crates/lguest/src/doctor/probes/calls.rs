//! The system calls of the kernel, and filters for them.
//!
//! A call is made instead of asked about. A container may kill for a call, so
//! each is made in a copy of this process.

use super::super::attempt::{self, Failure, SharedWord};
use super::super::finding::Finding;
use crate::needs::{self, Cause, Lack};

pub(super) fn kernel() -> Finding {
    const OLDEST: (u32, u32) = (5, 11);
    let Some([release, machine]) = attempt::kernel() else {
        return Finding::ok("unknown: the call uname is refused");
    };
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next()?.parse::<u32>().ok();
    let seen = format!("Linux {release}, {machine}");
    match (part(), part()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => {
            Finding::ok(seen)
        }
        _ => Finding::lacks(
            seen,
            "it lacks system calls that views need",
            "take Linux 5.11 or later",
        ),
    }
}

/// Tries all system calls of a start in a copy of this process, which may be
/// killed for one.
pub(super) fn calls() -> Finding {
    let ok = || Finding::ok("no call that a start needs is refused");
    let lacks = |lack: &Lack| Finding {
        deadly: matches!(lack.cause, Cause::Killed { .. }),
        ..Finding::of_lack(lack, "no guest starts")
    };
    let in_here = || needs::refused(|_| ());
    let Ok(word) = SharedWord::new() else {
        return in_here().map_or_else(ok, |lack| lacks(&lack));
    };
    let tried =
        attempt::in_a_copy(|| match needs::refused(|index| word.set(index)) {
            None => Ok(()),
            Some(lack) => Err(lack.cause.errno()),
        });
    let lack = match tried {
        Ok(()) => None,
        Err(Failure::Error(_)) => in_here(),
        Err(Failure::NoCopy(lack)) => in_here().or(Some(lack)),
        Err(Failure::Killed(_)) => needs::killed_for(word.get()),
    };
    lack.map_or_else(ok, |lack| lacks(&lack))
}

pub(super) fn seccomp() -> Finding {
    const ALL_THREADS: usize = 1;
    const NEW_LISTENER: usize = 8;
    // `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
    const WAIT_KILLABLE: usize = 1 << 5;
    let installed = attempt::in_a_copy(|| attempt::install_filter(ALL_THREADS));
    if let Err(failure) = installed {
        let call = "seccomp";
        let cause = match failure {
            Failure::Error(error) => Cause::Refused { call, error },
            Failure::Killed(_) => Cause::Killed { call },
            Failure::NoCopy(lack) => lack.cause,
        };
        let lack = Lack::new("install a filter", cause);
        return Finding::of_lack(&lack, "a guest could make any system call");
    }
    let asks = |flags| attempt::in_a_copy(|| attempt::install_filter(flags));
    let seen = "filters, for all threads at once";
    if asks(NEW_LISTENER | WAIT_KILLABLE).is_ok() {
        return Finding::ok(format!(
            "{seen}, and a process can be held while its call is answered"
        ));
    }
    let limit = match asks(NEW_LISTENER) {
        Ok(()) => {
            "cannot hold a process against signals while its call is \
             answered"
        }
        Err(_) => "cannot forward a call to another process",
    };
    Finding::degraded(
        format!("{seen}, which {limit}"),
        "no --isolation=user",
        "take Linux 5.19 or later; a container must allow seccomp",
    )
}

pub(super) fn io_uring() -> Finding {
    match attempt::in_a_copy(attempt::make_ring) {
        Ok(()) => Finding::ok("offered, and not used"),
        Err(failure) => Finding::lacks(
            failure.to_string(),
            "nothing: it is not used",
            failure.cure("set kernel.io_uring_disabled to 0"),
        ),
    }
}
