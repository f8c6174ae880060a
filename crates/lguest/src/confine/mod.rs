//! The wall around the Launcher: what it gives up once it has what it needs.
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

mod filter;
pub use filter::{instructions, program};
pub use lg_seccomp::verdict;

mod rights;

mod stopped;

use crate::needs;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The walls, by name. Each can be left out, to find out whether it is the
/// reason for a failure.
pub mod wall {
    /// User and IPC namespaces of the Guest's own.
    pub const NAMESPACES: u32 = 1 << 0;
    /// No new privileges, no capabilities.
    pub const PRIVILEGES: u32 = 1 << 1;
    /// Other processes of the same user may not look into the Launcher.
    pub const DUMPABLE: u32 = 1 << 2;
    /// No file by its name, no TCP, no signals to others.
    pub const LANDLOCK: u32 = 1 << 3;
    /// No system calls but those of a running Launcher.
    pub const SECCOMP: u32 = 1 << 4;

    /// All of them, in the order in which they are put up.
    pub const ALL: [(&str, u32); 5] = [
        ("namespaces", NAMESPACES),
        ("privileges", PRIVILEGES),
        ("dumpable", DUMPABLE),
        ("landlock", LANDLOCK),
        ("seccomp", SECCOMP),
    ];
}

/// What a Launcher still does when it is confined.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Walls that are not wanted: bits of [`wall`].
    pub open: u32,
    /// Folders of networks between Guests, where peers come and go: sockets
    /// there are connected to, and those of dead peers removed.
    pub networks: Vec<PathBuf>,
    /// Folders in which a file may have to be removed again before
    /// [`when_ready`].
    pub removals: Vec<PathBuf>,
}

/// A wall, and what became of it.
#[derive(Debug)]
pub struct WallReport {
    /// Its name in [`wall::ALL`].
    pub name: &'static str,
    /// Whether it stands.
    pub state: WallState,
    /// What it took to put it up.
    pub took: Duration,
}

/// Whether a wall stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WallState {
    /// It does, and consists of this here.
    Up(String),
    /// It was not wanted.
    NotWanted,
    /// This machine does not have it, for this reason.
    Lacking(String),
}

impl fmt::Display for WallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.state {
            WallState::Up(what) => {
                let micros = self.took.as_micros();
                write!(f, "wall {name}: {what} ({micros} us)")
            }
            WallState::NotWanted => write!(f, "wall {name}: left open"),
            WallState::Lacking(why) => write!(f, "wall {name}: none: {why}"),
        }
    }
}

/// Builds a wall, if this machine has it.
type PutUp = fn(&Plan) -> WallState;

/// Gives up what threads inherit: to be called before there are any, and when
/// everything that has a name is open. Children inherit it, too.
#[must_use]
pub fn before_threads(plan: &Plan) -> Vec<WallReport> {
    // Afterwards the Launcher cannot ask for limits, nor open a file with them.
    needs::look_around();
    let walls: [(u32, PutUp); 4] = [
        // First, because in a namespace of our own we have capabilities again.
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
