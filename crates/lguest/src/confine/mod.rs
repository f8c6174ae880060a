//! The walls around the Launcher: rights that it gives up before a Guest runs.
//!
//! A Guest that exploits a mistake in a device controls the Launcher, which has
//! the rights of its user. So the Launcher gives them up before the Guest's
//! first instruction. While it still has one thread, it gives up what threads
//! inherit from each other: privileges, namespaces, files by name
//! ([`before_threads`]). When everything has been started, it gives up every
//! system call that a running Launcher does not make ([`when_ready`]). If a
//! machine lacks one of these walls, the others are still built, and
//! `--verbose` reports it.
//!
//! A program that uses the library has none of these walls unless it calls
//! these two functions as [`crate::machine::launch`] does:
//!
//! ```no_run
//! # let (memory, start): (
//! #     lguest::memory::GuestMemory,
//! #     lg_abi::request::Initialize,
//! # ) = unimplemented!();
//! use lguest::confine::{self, Plan};
//! use lguest::engine::{Engine, Native, Setup};
//! let guest = Native::new(memory);
//! let plan = Plan::default();
//! let mut walls = confine::before_threads(&plan);
//! guest.initialize(Setup::from(start))?;
//! walls.push(confine::when_ready(&plan));
//! # Ok::<(), lguest::engine::RequestError>(())
//! ```

pub mod calls;

mod walls;
pub use walls::{Plan, WallReport, WallState, wall};

mod program;
pub use program::program;

mod filter;
pub use filter::instructions;
pub use lg_seccomp::verdict;

mod rights;

mod stopped;

use crate::needs;
use std::time::Instant;

/// Builds a wall, if this machine has it.
type PutUp = fn(&Plan) -> WallState;

/// Gives up the rights that threads inherit. To be called before there are
/// other threads, and after all files are open. Children inherit it, too.
#[must_use]
pub fn before_threads(plan: &Plan) -> Vec<WallReport> {
    // Afterwards the Launcher can neither ask for limits nor open a file with
    // them.
    needs::look_around();
    let walls: [(u32, PutUp); 4] = [
        // This is first, because in a new namespace the Launcher has
        // capabilities again.
        (wall::NAMESPACES, rights::namespaces),
        (wall::PRIVILEGES, rights::privileges),
        (wall::DUMPABLE, rights::dumpable),
        (wall::LANDLOCK, rights::landlock),
    ];
    walls
        .into_iter()
        .map(|(bit, put_up)| report(plan, bit, put_up))
        .collect()
}

/// Gives up all system calls but those of a Launcher that runs a Guest, in all
/// threads that there are or will be. Another call ends the process, with the
/// terminal as it was and a sentence that says why.
#[must_use]
pub fn when_ready(plan: &Plan) -> WallReport {
    report(plan, wall::SECCOMP, filter::install)
}

/// From now on, a call at which the filter of a container or service stops us
/// ends with a sentence that names the call. A filter that kills leaves no time
/// for one.
pub(crate) fn report_filters() {
    // Without a handler, only the sentence is missing.
    let _ = stopped::listen();
}

/// Gives up capabilities, for a process beside the Launcher.
pub(crate) fn give_up_privileges() -> WallState {
    rights::privileges(&Plan::default())
}

/// Hides a process beside the Launcher from debuggers.
pub(crate) fn hide_from_debuggers() -> WallState {
    rights::dumpable(&Plan::default())
}

fn report(plan: &Plan, bit: u32, put_up: PutUp) -> WallReport {
    let start = Instant::now();
    let named = wall::ALL.iter().find(|(_, other)| *other == bit);
    let state = match plan.open & bit {
        0 => put_up(plan),
        _ => WallState::NotWanted,
    };
    WallReport {
        name: named.map_or("?", |(name, _)| name),
        state,
        took: start.elapsed(),
    }
}
