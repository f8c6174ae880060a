//! The walls: their names, the plan of a run, and the results.
//!
//! A machine may lack a wall, and a user may leave one out. Both are reported,
//! so that `--verbose` can say what a run is confined by.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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

/// What a confined Launcher may still do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Whether clients of the control socket send descriptors, for streams to
    /// an agent.
    pub agent: bool,
    /// Walls that are left out: bits of [`wall`].
    pub open: u32,
    /// Folders of networks between Guests, where peers come and go: sockets
    /// there are connected to, and those of dead peers removed.
    pub networks: Vec<PathBuf>,
    /// Whether other processes connect to a network while the Guest runs.
    pub listens: bool,
    /// Whether there is a control socket, to which processes of the same user
    /// connect.
    pub control: bool,
    /// Folders in which a file may have to be removed again before
    /// [`when_ready`](super::when_ready).
    pub removals: Vec<PathBuf>,
}

/// A wall, and whether it could be built.
#[derive(Debug)]
pub struct WallReport {
    /// Its name in [`wall::ALL`].
    pub name: &'static str,
    /// Whether it stands.
    pub state: WallState,
    /// The time that it took.
    pub took: Duration,
}

/// Whether a wall stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WallState {
    /// It does, and consists of this.
    Up(String),
    /// It was left out.
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
