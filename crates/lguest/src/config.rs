//! What a command line means, once nothing is left to be misunderstood.
//!
//! Two kinds of command line end here: the one of 2007 and today's. Whoever
//! embeds the Launcher fills this in by hand.

use std::net::Ipv4Addr;
use std::path::PathBuf;

/// A Guest that is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of RAM, a whole number of pages.
    pub memory: u32,
    /// The kernel.
    pub kernel: Kernel,
    /// A file to put at the top of RAM.
    pub initrd: Option<PathBuf>,
    /// What hangs on the bus, in this order. The console comes after them.
    pub devices: Vec<DeviceConfig>,
    /// The kernel's command line.
    pub command_line: Vec<u8>,
    /// Where to write the counters at the end.
    pub stats: Option<Stats>,
    /// Short cuts of Host and Launcher that must not be taken: bits of
    /// [`lg_host::gates::path`].
    pub slow_paths: u32,
    /// Walls around the Launcher that are not wanted: bits of
    /// [`crate::confine::wall`].
    pub open_walls: u32,
    /// What keeps user code from its kernel.
    pub isolation: Isolation,
    /// Whether to tell what is being done.
    pub verbose: bool,
}

/// What keeps a Guest's user code from its kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Segment limits, which stop accidents: the Guest is one, towards all
    /// others.
    #[default]
    Guest,
    /// Processes of its own, which stop attacks.
    User,
}

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The one that the Launcher carries.
    Embedded,
    /// A file: `vmlinux` or `bzImage`.
    File(PathBuf),
}

/// A device on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceConfig {
    /// A disk.
    Disk {
        /// The file behind it.
        path: PathBuf,
        /// Whether the Guest may only read it.
        read_only: bool,
        /// One request in so many is made to fail.
        fail: Option<u32>,
    },
    /// A network between Guests that name the same file.
    ShareNet(PathBuf),
    /// A network with the machine we run on.
    Tap(TapConfig),
}

/// The machine's end of a network with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapConfig {
    /// It has this address.
    Address(Ipv4Addr),
    /// It is a port of this bridge.
    Bridge(String),
}

/// Where the counters go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stats {
    /// To standard output, behind what the Guest wrote.
    Stdout,
    /// To a file.
    File(PathBuf),
}
