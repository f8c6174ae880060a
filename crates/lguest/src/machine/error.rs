//! Errors of a run: each has a message and an exit code.
//!
//! A message is one line, and names the cure. docs/faults.md lists them.

use super::config::{Config, Kernel};
use super::owner::ParentError;
use super::terminal;
use crate::cli::exit::Outcome;
use crate::debugger::DebuggerError;
use crate::devices::block::DiskError;
use crate::devices::net::TapError;
use crate::devices::net::given::GivenError;
use crate::devices::net::stream::StreamError;
use crate::devices::net::user::UserError;
use crate::devices::share::ShareError;
use crate::engine::RequestError;
use crate::loader::{BootError, InitrdError, KernelError, LoadError};
use crate::machines::MachineError;
use crate::needs::{Cause, Lack};
use crate::snapshot::SnapshotError;
use crate::transport::keys::BusError;
use crate::transport::keys::lan::LanError;
use crate::transport::virtio::{PciBusError, VirtioBusError};
use libc::{EMFILE, ENFILE};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a Guest was not started, or its results not written.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The kernel's file cannot be used.
    #[error("image {}: {error}", path.display())]
    Kernel {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        error: KernelError,
    },
    /// The initrd's file cannot be used.
    #[error("initrd {}: {error}", path.display())]
    Initrd {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        error: InitrdError,
    },
    /// Kernel, initrd and first page tables do not fit into memory.
    #[error(transparent)]
    Boot(BootError),
    /// A disk's file cannot be used.
    #[error("disk {}: {error}", path.display())]
    Disk {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        error: DiskError,
    },
    /// A network between Guests cannot be joined.
    #[error("network {}: {error}", path.display())]
    ShareNet {
        /// The file that they share.
        path: PathBuf,
        /// What is wrong with it.
        error: LanError,
    },
    /// A network with this machine cannot be made.
    #[error("network: {0}")]
    Tap(#[from] TapError),
    /// A stream to another process cannot be opened.
    #[error("network: {0}")]
    Stream(#[from] StreamError),
    /// passt makes no network.
    #[error("network: {0}")]
    User(#[from] UserError),
    /// Counters cannot be asked for.
    #[error("metrics {0}: {1}: give another address or port")]
    Metrics(SocketAddr, io::Error),
    /// GDB cannot connect.
    #[error("debugger: {0}")]
    Debugger(#[from] DebuggerError),
    /// A folder cannot be shared.
    #[error("share {}: {error}", path.display())]
    Share {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        error: ShareError,
    },
    /// The kernel has no shares.
    #[error(
        "share {0}: this kernel has no 9P, with which a folder is mounted: \
         leave --share out, or take a kernel since Linux 3.0"
    )]
    NoShares(String),
    /// The kernel has no ports.
    #[error(
        "this kernel has no ports, by which an agent in the guest is reached: \
         leave --agent out, or take a kernel since Linux 2.6.35"
    )]
    NoPorts,
    /// The kernel has no room for such packets.
    #[error(
        "network: packets of {0} bytes are too long for this kernel, whose \
         driver takes 1500: leave ',mtu=' out, or take a kernel since Linux \
         2.6.27"
    )]
    LongFrames(u16),
    /// The file for the counters cannot be written.
    #[error("statistics {}: it cannot be written: {error}", path.display())]
    Stats {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file with symbols cannot be read.
    #[error("symbols {}: it cannot be read: {error}", path.display())]
    Symbols {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file for the core cannot be written.
    #[error("core {}: it cannot be written: {error}", path.display())]
    Core {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file for the trace cannot be written.
    #[error("trace {}: it cannot be written: {error}", path.display())]
    Trace {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file for the frames of a network cannot be written.
    #[error("capture {}: it cannot be written: {error}", path.display())]
    Capture {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file for the console's output cannot be written.
    #[error("log {}: it cannot be written: {error}", path.display())]
    Log {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The parent has ended, or cannot be watched.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// The machine's name is taken, or its folder cannot be used.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The processors of `--cpus` cannot be used.
    #[error(
        "processors {0}: not all of them can be used ({1}): 'nproc --all' and \
         'taskset -p $$' say which there are"
    )]
    Processors(String, io::Error),
    /// A snapshot cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The machine of a snapshot has no port to an agent.
    #[error(
        "the machine in the snapshot has no port to an agent: take a snapshot \
         of one that was started with 'lguest run --agent', whose guest runs \
         'lg-agent'"
    )]
    NoAgent,
    /// The descriptor of a client cannot be taken.
    #[error("--agent-owner: {0}")]
    Owner(#[from] GivenError),
    /// The bus is full.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The bus of virtio is full.
    #[error(transparent)]
    VirtioBus(#[from] VirtioBusError),
    /// The PCI bus is full.
    #[error(transparent)]
    PciBus(#[from] PciBusError),
    /// The machine lacks something that every run needs.
    #[error(transparent)]
    Lacks(#[from] Lack),
    /// The engine does not start the Guest.
    #[error(transparent)]
    Engine(#[from] RequestError),
    /// A system call failed that should not fail.
    #[error("cannot {0}: {1}")]
    Failed(&'static str, io::Error),
}

/// The end of the parent counts as this signal.
const TERMINATED: u8 = 15;

impl LaunchError {
    /// Prints it, and returns the outcome.
    #[must_use]
    pub fn told(&self) -> Outcome {
        terminal::tell(&self.to_string());
        self.outcome()
    }

    /// If a file cannot be opened because too many files are open, the error is
    /// a lack of the machine.
    pub(super) fn or_lack(self) -> Self {
        let mut error: &(dyn Error + 'static) = match &self {
            Self::Kernel { error, .. } => error,
            Self::Initrd { error, .. } => error,
            Self::Disk { error, .. } => error,
            Self::ShareNet { error, .. } => error,
            Self::Tap(error) => error,
            Self::Stream(error) => error,
            Self::User(error) => error,
            Self::Debugger(error) => error,
            Self::Share { error, .. } => error,
            Self::Metrics(_, error)
            | Self::Stats { error, .. }
            | Self::Log { error, .. }
            | Self::Capture { error, .. } => error,
            _ => return self,
        };
        loop {
            let io = error.downcast_ref::<io::Error>();
            let number = io.and_then(io::Error::raw_os_error);
            if let Some(number @ (EMFILE | ENFILE)) = number {
                let error = io::Error::from_raw_os_error(number);
                return Lack::when("open what the guest is given", error)
                    .into();
            }
            let Some(source) = error.source() else {
                return self;
            };
            error = source;
        }
    }

    /// The outcome, which has the exit code.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Kernel {
                error: KernelError::TooLittleMemory { .. },
                ..
            }
            | Self::Initrd {
                error: InitrdError::TooLittleMemory { .. },
                ..
            }
            | Self::Boot(_)
            | Self::NoShares(_)
            | Self::NoPorts
            | Self::LongFrames(_)
            | Self::Bus(BusError::TooManyDevices(_))
            | Self::VirtioBus(VirtioBusError::TooManyQueues(_))
            | Self::PciBus(PciBusError::TooMany(_)) => Outcome::Usage,
            Self::Disk {
                error:
                    DiskError::Lock(Lack {
                        cause: Cause::Refused { .. },
                        ..
                    }),
                ..
            } => Outcome::BadMachine,
            Self::ShareNet {
                error: LanError::Porter(_),
                ..
            } => Outcome::BadMachine,
            Self::User(error) if error.is_of_machine() => Outcome::BadMachine,
            Self::Share { error, .. } if error.is_of_machine() => {
                Outcome::BadMachine
            }
            Self::Kernel { .. }
            | Self::Initrd { .. }
            | Self::Disk { .. }
            | Self::ShareNet { .. }
            | Self::Tap(_)
            | Self::Stream(_)
            | Self::User(_)
            | Self::Debugger(_)
            | Self::Metrics(..)
            | Self::Share { .. }
            | Self::Stats { .. }
            | Self::Symbols { .. }
            | Self::Core { .. }
            | Self::Trace { .. }
            | Self::Capture { .. }
            | Self::Snapshot(_)
            | Self::Owner(_)
            | Self::NoAgent
            | Self::Log { .. } => Outcome::BadFile,
            Self::Parent(ParentError::Gone) => Outcome::Signal(TERMINATED),
            Self::Parent(_)
            | Self::Processors(..)
            | Self::Lacks(_)
            | Self::Engine(RequestError::Start(_)) => Outcome::BadMachine,
            Self::Machine(error) => error.outcome(),
            Self::Bus(BusError::Place(..))
            | Self::Engine(_)
            | Self::VirtioBus(VirtioBusError::Device(_))
            | Self::PciBus(PciBusError::Device(_))
            | Self::Failed(..) => Outcome::Failed,
        }
    }
}

/// An error of the loader, with the name of its file.
pub(super) fn named(config: &Config, error: LoadError) -> LaunchError {
    match error {
        LoadError::Kernel(error) => LaunchError::Kernel {
            path: match &config.kernel {
                Kernel::Embedded => "(built in)".into(),
                Kernel::File(path) => path.clone(),
            },
            error,
        },
        LoadError::Initrd(error) => LaunchError::Initrd {
            path: config.initrd.clone().unwrap_or_default(),
            error,
        },
        LoadError::Boot(error) => LaunchError::Boot(error),
    }
}

/// Converts errors of `doing` something that every run needs.
pub(super) fn lacks(doing: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |error| Lack::no_thread(doing, error).into()
}
