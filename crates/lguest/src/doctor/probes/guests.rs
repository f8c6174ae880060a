//! Whether the built-in guest runs, and how many processes it may have.
//!
//! The two runs are the surest probes, and the slowest. Limits are those that
//! stop larger guests.

use super::super::finding::Finding;
use super::super::guest::{self, Refusal};
use crate::engine::Isolation;
use crate::needs::{self, Cause};
use rustix::process::Resource;

pub(super) fn descriptors() -> Finding {
    /// The least for a Guest that has only a console.
    const NEEDED: u64 = 19;
    const PLENTY: u64 = 256;
    let limit = needs::limit(Resource::Nofile);
    let cure = "raise it (`ulimit -n 1024`)";
    match limit {
        Some(limit) if limit < NEEDED => Finding::lacks(
            format!("{limit} descriptors"),
            "a guest's processes cannot be started",
            cure,
        ),
        Some(limit) if limit < PLENTY => Finding::degraded(
            format!("{limit} descriptors"),
            "a network of many guests, or a guest with many page \
             directories, may not find enough",
            cure,
        ),
        Some(limit) => Finding::ok(format!("{limit} descriptors")),
        None => Finding::ok("no limit"),
    }
}

pub(super) fn guest() -> Finding {
    match guest::run(Isolation::Guest) {
        Ok(()) => Finding::ok("the built-in guest runs"),
        Err(Refusal { said, cure }) => Finding::lacks(
            format!("the built-in guest does not run: {said}"),
            "no guest will run",
            cure,
        ),
    }
}

/// Runs the built-in guest with its programs in processes of their own.
pub(super) fn user_processes() -> Finding {
    match guest::run(Isolation::User) {
        Ok(()) => Finding::ok("each program can have a process of its own"),
        Err(Refusal { said, cure }) => Finding::lacks(
            format!("the built-in guest does not run with it: {said}"),
            "no --isolation=user",
            cure,
        ),
    }
}

pub(super) fn processes() -> Finding {
    /// Views and their user processes, and a few threads.
    const PLENTY: u64 = 128;
    if let Some(limit) = needs::processes_of_group().filter(|&n| n < PLENTY) {
        return Finding::degraded(
            format!("{limit} processes and threads for this control group"),
            "a guest has one for each of its page directories, up to a \
             bound, and is slower with fewer",
            Cause::ProcessesOfGroup(limit).cure(),
        );
    }
    match needs::limit(Resource::Nproc) {
        Some(limit) if limit < PLENTY => Finding::degraded(
            format!("{limit} processes and threads for this user"),
            "a guest has one for each of its page directories, up to a \
             bound, and is slower with fewer",
            "raise it (`ulimit -u`)",
        ),
        Some(limit) => Finding::ok(format!("{limit} processes")),
        None => Finding::ok("no limit"),
    }
}
