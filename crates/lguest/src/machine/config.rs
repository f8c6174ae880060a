//! The configuration of a Guest, as a command line describes it.
//!
//! Both forms of command line are converted into this, that of 2007 and
//! today's. A program that embeds the Launcher fills it in itself.

use crate::devices::block::DiskRate;
use crate::engine::{Isolation, Tracing};
use crate::machines::Name;
use crate::machines::settings::Settings;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

/// A Guest to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of RAM, a whole number of pages.
    pub memory: u32,
    /// The kernel.
    pub kernel: Kernel,
    /// A file to put at the top of RAM.
    pub initrd: Option<PathBuf>,
    /// The devices on the bus, in this order. The console comes after them.
    pub devices: Vec<DeviceConfig>,
    /// The kernel's command line.
    pub command_line: Vec<u8>,
    /// A file to append the console's output to.
    pub log: Option<PathBuf>,
    /// How long the Guest may run.
    pub timeout: Option<Duration>,
    /// Whether the end of standard input ends the Guest.
    pub exit_on_eof: bool,
    /// The process whose end ends the Guest.
    pub die_with: Option<Parent>,
    /// Where to write the counters at the end.
    pub stats: Option<Stats>,
    /// Whether its end is explained.
    pub explain: bool,
    /// The file with the names of its kernel's functions, if it is not the
    /// kernel's.
    pub symbols: Option<PathBuf>,
    /// The file for a core, if it dies.
    pub core: Option<PathBuf>,
    /// The file for the trace, at the end.
    pub trace: Option<PathBuf>,
    /// What is traced, if there is such a file.
    pub tracing: Tracing,
    /// Where programs ask for the counters while the Guest runs.
    pub metrics: Option<SocketAddr>,
    /// Where GDB comes from, if it may.
    pub debugger: Option<DebuggerAt>,
    /// Whether the Guest waits for it before its first instruction.
    pub wait_for_debugger: bool,
    /// Fast paths that are switched off: bits of [`lg_wire::fast_path`].
    pub slow_paths: u32,
    /// Walls around the Launcher that are switched off: bits of
    /// [`crate::confine::wall`].
    pub open_walls: u32,
    /// What protects the kernel from user code.
    pub isolation: Isolation,
    /// Whether to report each step on standard error.
    pub verbose: bool,
    /// What the machine may use.
    pub limits: Limits,
    /// What a machine with a name has more.
    pub named: Option<Named>,
    /// How the agent in the Guest is reached, if it has one.
    pub agent: Option<Agent>,
}

/// A port to an agent in the Guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The number of a descriptor whose other end is a client. The machine ends
    /// with this client.
    pub owner: Option<RawFd>,
}

/// What a machine may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hundredths of a processor.
    pub cpu_share: Option<u8>,
    /// The numbers of the processors that it runs on. Empty: all.
    pub cpus: Vec<usize>,
    /// Bytes that the Launcher and the views may take from the machine.
    pub memory: Option<NonZeroU64>,
    /// What its disks may do in a second.
    pub disks: Option<DiskRate>,
    /// Bytes a second in each direction of each network interface.
    pub net: Option<NonZeroU64>,
    /// Bytes of its log.
    pub log: Option<NonZeroU64>,
}

/// A machine that others can find by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: Name,
    /// Whether it takes the place of one that has ended.
    pub replace: bool,
    /// Whether the command ends while the machine runs.
    pub detach: bool,
    /// The text that it prints when it is ready.
    pub until: Option<String>,
    /// What is typed to ask it to power off.
    pub stop_with: Option<String>,
    /// What it was started with.
    pub settings: Settings,
}

impl Named {
    /// What is typed to ask the Guest to power off, if that is known.
    #[must_use]
    pub fn stop_keys(&self, built_in: bool) -> Option<String> {
        let own = built_in.then(|| "poweroff".to_owned());
        let line = self.stop_with.clone().or(own)?;
        Some(line + "\r")
    }
}

/// The kernel of a Guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The built-in guest's.
    Embedded,
    /// A file: `vmlinux` or `bzImage`.
    File(PathBuf),
}

impl Kernel {
    /// The path of its file from the root folder on, if it has a file and the
    /// path is text.
    #[must_use]
    pub fn whole_path(&self) -> Option<String> {
        match self {
            Self::File(path) => {
                let path = std::path::absolute(path).ok()?;
                Some(path.to_str()?.to_owned())
            }
            Self::Embedded => None,
        }
    }

    /// The most bytes that [`Self::command_line`] adds to the kernel's command
    /// line.
    #[must_use]
    pub fn words_of_ours(&self) -> usize {
        match self {
            Self::Embedded => " started_tsc=0x0123456789abcdef".len(),
            Self::File(_) => 0,
        }
    }

    /// The command line of a kernel that was given `words`. The built-in guest
    /// also gets `started`, the value of the time-stamp counter when the
    /// Launcher started.
    #[must_use]
    pub fn command_line(&self, words: &[u8], started: u64) -> Vec<u8> {
        let mut line = words.to_vec();
        if *self == Self::Embedded {
            if !line.is_empty() {
                line.push(b' ');
            }
            let word = format!("started_tsc={started:#x}");
            line.extend_from_slice(word.as_bytes());
        }
        line
    }
}

/// A process whose end ends the Guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The Launcher's parent at the time when it looks.
    Whoever,
    /// The process with this number, which must be the Launcher's parent.
    Number(NonZeroU32),
}

/// A device on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceConfig {
    /// A disk.
    Disk(DiskConfig),
    /// A network between Guests that name the same file.
    ShareNet(PathBuf),
    /// A network interface that is connected to something outside.
    Net(NetConfig),
    /// A folder of this machine.
    Share(ShareConfig),
}

/// A folder of this machine that the Guest mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareConfig {
    /// Its name.
    pub path: PathBuf,
    /// The name by which the Guest mounts it.
    pub tag: String,
    /// Whether the Guest may only read it.
    pub read_only: bool,
}

/// The file behind a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// Its name.
    pub path: PathBuf,
    /// qcow2 images above it, each above the one before. They are only read.
    pub layers: Vec<PathBuf>,
    /// Whether the Guest may only read it.
    pub read_only: bool,
    /// Where the Guest's changes go.
    pub changes: Changes,
    /// Whether it is a raw image even if it begins like another format.
    pub raw: bool,
    /// One request in this many is made to fail.
    pub fail: Option<u32>,
}

/// Where the changes of a disk go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Changes {
    /// Into the file itself.
    #[default]
    Kept,
    /// Into this qcow2 image above it, which is made if it does not exist.
    Overlay(PathBuf),
    /// They end with the Guest.
    ThrownAway,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// What it is connected to.
    pub link: LinkConfig,
    /// The Guest's Ethernet address, if it takes one from the Launcher.
    pub mac: Option<[u8; 6]>,
    /// The Ethernet address of the other end that the Guest knows already.
    pub far: Option<[u8; 6]>,
    /// The most bytes of a packet, if that was said.
    pub mtu: Option<u16>,
    /// A file for all frames.
    pub capture: Option<PathBuf>,
}

impl NetConfig {
    /// An interface with nothing else said about it.
    #[must_use]
    pub fn new(link: LinkConfig) -> Self {
        Self {
            link,
            mac: None,
            far: None,
            mtu: None,
            capture: None,
        }
    }

    /// Whether other processes connect to it while the Guest runs.
    #[must_use]
    pub fn listens(&self) -> bool {
        match &self.link {
            LinkConfig::Stream(stream) => stream.server,
            LinkConfig::Tap(_) | LinkConfig::User(_) | LinkConfig::Nothing => {
                false
            }
        }
    }
}

/// What a network interface is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkConfig {
    /// The machine that the Launcher runs on.
    Tap(TapConfig),
    /// Another process.
    Stream(StreamConfig),
    /// What the user of the Launcher may reach, by way of passt.
    User(UserConfig),
    /// Nothing: the link is down.
    Nothing,
}

/// A network that passt makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserConfig {
    /// Ports of this machine that lead to the Guest.
    pub publish: Vec<Published>,
    /// Whether the Guest reaches nothing but `allow`, and to answer.
    pub restrict: bool,
    /// What it reaches all the same.
    pub allow: Vec<Allowed>,
}

/// A port that a restricted Guest reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The machine.
    pub host: Host,
    /// The port there.
    pub port: u16,
    /// Whether it takes UDP instead of TCP.
    pub udp: bool,
}

/// A machine of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// This address.
    Address(IpAddr),
    /// All addresses of this name, in small letters.
    Name(String),
}

/// A port of this machine that leads to the Guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The address of this machine.
    pub address: IpAddr,
    /// The port of this machine.
    pub host: u16,
    /// The port of the Guest.
    pub guest: u16,
    /// Whether it takes UDP instead of TCP.
    pub udp: bool,
}

/// A stream of frames to another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// Where the other process is.
    pub at: StreamAt,
    /// Whether the other process connects to us.
    pub server: bool,
}

/// The place of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAt {
    /// A local socket with this path.
    Path(PathBuf),
    /// A descriptor that the Launcher was given.
    Given(RawFd),
}

/// The machine's end of a network with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapConfig {
    /// It has this address, and a netmask of so many bits.
    Address(Ipv4Addr, u8),
    /// It is a port of this bridge.
    Bridge(String),
    /// A descriptor that the Launcher was given.
    Given(RawFd),
}

/// Where GDB comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DebuggerAt {
    /// It connects to a port of this machine.
    Port(SocketAddr),
    /// It connects to a local socket with this path.
    Path(PathBuf),
    /// It is at standard input and output.
    Stdio,
}

/// Where the counters are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stats {
    /// To standard output, after the Guest's output.
    Stdout,
    /// To a file.
    File(PathBuf),
}
