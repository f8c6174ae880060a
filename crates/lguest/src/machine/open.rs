//! Opens all files and networks, before anything else happens.
//!
//! After this the Launcher opens nothing more, and it reads the files only when
//! it is confined.

use super::attach::OpenDevice;
use super::autopsy::Autopsy;
use super::beginning::Beginning;
use super::config::{
    Config, DebuggerAt, DeviceConfig, Kernel, LinkConfig, NetConfig,
    ShareConfig, Stats,
};
use super::error::{LaunchError, lacks, named};
use super::stats::{OpenFile, Sink};
use super::{captures, default_guest, disks, metrics, terminal, tracing};
use crate::debugger::Listener;
use crate::devices::block::Limit;
use crate::devices::console::{self, Console, Log, Remote, Screen};
use crate::devices::net::{Nic, Tap, given, nothing, stream, user};
use crate::devices::port::Channel;
use crate::devices::share::Share;
use crate::exec::multiplexer::Streams;
use crate::loader::{Image, InitrdError, KernelError};
use crate::needs;
use crate::snapshot::{Folder, Interface, Network, Placed, Saved};
use crate::transport::keys::lan::Lan;
use lg_wire::fast_path;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// All files and networks of a run, open.
pub(super) struct Opened {
    pub(super) beginning: Beginning,
    pub(super) devices: Vec<OpenDevice>,
    /// What a snapshot has of the devices.
    pub(super) kept: Kept,
    pub(super) screen: Arc<Screen>,
    /// An event for `--exit-on-eof`: the Guest has all of its input.
    pub(super) input_end: Option<OwnedFd>,
    pub(super) stats: Option<Sink>,
    /// What happens if the Guest dies.
    pub(super) autopsy: Autopsy,
    /// The file with names for places in the kernel, if it is not the kernel's.
    pub(super) symbols: Option<Image>,
    /// Where the trace goes.
    pub(super) trace: Option<OpenFile>,
    /// Where GDB comes from.
    pub(super) debugger: Option<Listener>,
    /// Where programs ask for counters.
    pub(super) metrics: Option<OwnedFd>,
    /// Streams to the agent.
    pub(super) streams: Option<Streams>,
    /// The client with which the machine ends.
    pub(super) owner: Option<OwnedFd>,
}

/// What a snapshot has of the devices.
pub(super) struct Kept {
    /// The devices, in their order.
    pub(super) order: Vec<Placed>,
    /// The files of all disks, in their order.
    pub(super) disk_files: Vec<OwnedFd>,
}

/// The devices for a snapshot.
fn placed(configs: &[DeviceConfig], open: &[OpenDevice]) -> Vec<Placed> {
    let one = |(config, open): (&DeviceConfig, &OpenDevice)| {
        let network = Network::of(config);
        let (mac, far, mtu) = match open {
            OpenDevice::Disk(_) => return Some(Placed::Disk),
            OpenDevice::Nic(nic) => (nic.mac(), Some(nic.far()), nic.mtu()),
            OpenDevice::Lan(lan) => (lan.mac(), None, None),
            OpenDevice::Share(share) => {
                return Some(Placed::Share(Folder {
                    tag: share.tag().to_owned(),
                    read_only: share.is_read_only(),
                }));
            }
            OpenDevice::Port(_) | OpenDevice::Console(_) => return None,
        };
        Some(Placed::Net(Interface {
            network: network?,
            mac,
            far,
            mtu,
            slot: match open {
                OpenDevice::Lan(lan) => Some(lan.slot()),
                _ => None,
            },
        }))
    };
    configs.iter().zip(open).filter_map(one).collect()
}

/// Opens what a Guest of `config` begins with.
fn open_kernel(config: &Config) -> Result<Beginning, LaunchError> {
    let kernel = match &config.kernel {
        Kernel::Embedded => Image::Embedded(default_guest::IMAGE),
        Kernel::File(path) => {
            let file = open_file(path).map_err(|error| {
                named(config, KernelError::from(error).into())
            })?;
            Image::File(file)
        }
    };
    let initrd = config.initrd.as_ref().map(|path| open_file(path));
    let initrd = initrd
        .transpose()
        .map_err(|e| named(config, InitrdError::from(e).into()))?;
    Ok(Beginning::Kernel(kernel, initrd))
}

impl Opened {
    /// Opens them. `saved` is the snapshot of a Guest that goes on, and
    /// `remote` is what a machine with a name adds to its console.
    pub(super) fn open(
        config: &Config,
        saved: Option<Saved>,
        remote: Option<Remote>,
    ) -> Result<Self, LaunchError> {
        let mut devices = Vec::with_capacity(config.devices.len() + 1);
        let limit = config.limits.disks.map(Limit::new);
        let limit = limit.as_ref();
        for (n, device) in config.devices.iter().enumerate() {
            let earlier = &config.devices[..n];
            let before = saved.as_ref().and_then(|saved| saved.placed(n));
            let slot = saved.as_ref().and_then(|saved| saved.slot(n));
            let mut open = match device {
                DeviceConfig::ShareNet(path) => {
                    open_network(path, config.slow_paths, slot)?
                }
                _ => open_device(config, device, earlier, limit)?,
            };
            if let (OpenDevice::Lan(lan), Some(Placed::Net(before))) =
                (&mut open, before)
            {
                lan.keep_mac(before.mac);
            }
            devices.push(open);
        }
        let beginning = match saved {
            Some(saved) => Beginning::Saved(Box::new(saved)),
            None => open_kernel(config)?,
        };
        let disk_files = devices.iter_mut().flat_map(|device| match device {
            OpenDevice::Disk(block) => block.take_files(),
            OpenDevice::Nic(_)
            | OpenDevice::Lan(_)
            | OpenDevice::Share(_)
            | OpenDevice::Port(_)
            | OpenDevice::Console(_) => Vec::new(),
        });
        let kept = Kept {
            disk_files: disk_files.collect(),
            order: placed(&config.devices, &devices),
        };
        let (console, input_end) = open_console(config, remote)?;
        let screen = console.screen();
        // It comes before the port, because a kernel that knows no ports takes
        // the first console.
        devices.push(OpenDevice::Console(console));
        let streams = config.agent.map(|_| {
            let channel = Channel::new().map(Arc::new);
            let channel = channel.map_err(lacks("reach an agent"))?;
            devices.push(OpenDevice::Port(Arc::clone(&channel)));
            Ok::<_, LaunchError>(Streams::new(channel))
        });
        let streams = streams.transpose()?;
        let owner = config.agent.and_then(|agent| agent.owner);
        let owner = owner.map(given::take).transpose()?;
        let debugger = config.debugger.as_ref().map(Listener::open);
        let debugger = debugger.transpose()?;
        let metrics = config.metrics.map(|address| {
            metrics::listen(address)
                .map_err(|error| LaunchError::Metrics(address, error))
        });
        let metrics = metrics.transpose()?;
        let symbols = config.symbols.as_ref().map(|path| {
            let file = open_file(path).map_err(|error| {
                let path = path.clone();
                LaunchError::Symbols { path, error }
            });
            file.map(Image::File)
        });
        let symbols = symbols.transpose()?;
        // These are last, because statistics may make a file and a capture
        // empties one.
        let captures = captures::open(config)?;
        let stats = open_stats(config)?;
        let autopsy = Autopsy::prepare(config).map_err(|error| {
            let path = config.core.clone().unwrap_or_default();
            LaunchError::Core { path, error }
        })?;
        let trace = tracing::prepare(config).map_err(|error| {
            let path = config.trace.clone().unwrap_or_default();
            LaunchError::Trace { path, error }
        })?;
        captures::begin(captures, &mut devices)?;
        Ok(Self {
            beginning,
            devices,
            kept,
            screen,
            input_end,
            stats,
            autopsy,
            symbols,
            trace,
            debugger,
            metrics,
            streams,
            owner,
        })
    }
}

/// Opens `device` of `config`, which comes after the `earlier` devices.
fn open_device(
    config: &Config,
    device: &DeviceConfig,
    earlier: &[DeviceConfig],
    limit: Option<&Arc<Limit>>,
) -> Result<OpenDevice, LaunchError> {
    let slow_paths = config.slow_paths;
    match device {
        DeviceConfig::Disk(disk) => {
            let mut block = disks::open(disk, earlier, slow_paths)?;
            if let Some(limit) = limit {
                block.set_limit(limit.clone());
            }
            Ok(OpenDevice::Disk(block))
        }
        DeviceConfig::ShareNet(path) => open_network(path, slow_paths, None),
        DeviceConfig::Net(net) => {
            Ok(OpenDevice::Nic(open_nic(net, config.limits.net)?))
        }
        DeviceConfig::Share(share) => {
            Ok(OpenDevice::Share(open_share(config, share)?))
        }
    }
}

fn open_share(
    config: &Config,
    share: &ShareConfig,
) -> Result<Share, LaunchError> {
    let started = Share::start(share, config.open_walls);
    let mut started = started.map_err(|error| LaunchError::Share {
        path: share.path.clone(),
        error,
    })?;
    if config.slow_paths & fast_path::SHARE_AT_ONCE != 0 {
        started.never_at_once();
    }
    if config.verbose {
        for wall in started.walls() {
            terminal::tell(&format!("share {}: {wall}", share.tag));
        }
    }
    Ok(started)
}

fn open_nic(
    config: &NetConfig,
    limit: Option<NonZeroU64>,
) -> Result<Nic, LaunchError> {
    let no_network = lacks("leave a network interface unconnected");
    let mut nic = match &config.link {
        LinkConfig::Nothing => nothing::connect().map_err(no_network)?,
        LinkConfig::Tap(tap) => Tap::open(tap, config.mtu, config.far)?,
        LinkConfig::Stream(stream) => stream::open(stream)?,
        LinkConfig::User(user) => user::start(user, config.mtu)?,
    };
    if let Some(mtu) = config.mtu {
        nic = nic.with_mtu(mtu);
    }
    if let Some(mac) = config.mac {
        nic = nic.with_mac(mac);
    }
    match limit {
        Some(rate) => nic
            .with_limit(rate)
            .map_err(lacks("limit a network interface")),
        None => Ok(nic),
    }
}

fn open_network(
    path: &Path,
    slow_paths: u32,
    slot: Option<u32>,
) -> Result<OpenDevice, LaunchError> {
    needs::refused_on_a_network().map_or(Ok(()), Err)?;
    match Lan::join_at(path, slot) {
        Ok(mut lan) => {
            if slow_paths & fast_path::BATCHES != 0 {
                lan.never_in_batches();
            }
            if slow_paths & fast_path::OUTBOX != 0 {
                lan.never_by_outbox();
            }
            Ok(OpenDevice::Lan(lan))
        }
        Err(error) => Err(LaunchError::ShareNet {
            path: path.to_owned(),
            error,
        }),
    }
}

/// The console, and the event that it raises at the end of its input.
fn open_console(
    config: &Config,
    remote: Option<Remote>,
) -> Result<(Console, Option<OwnedFd>), LaunchError> {
    let keep = lacks("keep standard input and output");
    let log = config.log.as_ref().map(|path| {
        Log::open(path, config.limits.log).map_err(|error| LaunchError::Log {
            path: path.clone(),
            error,
        })
    });
    let event = || {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok((rustix::io::dup(&event)?, event))
    };
    let ends = config.exit_on_eof.then(event).transpose();
    let (at_end, input_end) = ends.map_err(|e: Errno| keep(e.into()))?.unzip();
    let (input, output) = if config.debugger == Some(DebuggerAt::Stdio) {
        // Standard input and output are GDB's.
        let nothing = File::open("/dev/null").map(OwnedFd::from);
        (nothing, rustix::io::dup(rustix::stdio::stderr()))
    } else {
        let input = rustix::io::dup(rustix::stdio::stdin());
        (
            input.map_err(io::Error::from),
            rustix::io::dup(rustix::stdio::stdout()),
        )
    };
    let config = console::Config {
        input: input.map_err(&keep)?,
        output: output.map_err(|error| keep(error.into()))?,
        log: log.transpose()?,
        at_end,
    };
    let console = match remote {
        None => Console::new(config),
        Some(remote) => Console::with_remote(config, remote).map_err(&keep)?,
    };
    Ok((console, input_end))
}

fn open_stats(config: &Config) -> Result<Option<Sink>, LaunchError> {
    let Some(stats) = &config.stats else {
        return Ok(None);
    };
    match (Sink::open(stats), stats) {
        (Ok(sink), _) => Ok(Some(sink)),
        (Err(error), Stats::File(path)) => Err(LaunchError::Stats {
            path: path.clone(),
            error,
        }),
        (Err(error), Stats::Stdout) => {
            Err(LaunchError::Failed("write to standard output", error))
        }
    }
}

/// Opens a regular file. Refuses others, because opening or reading them may
/// block.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}
