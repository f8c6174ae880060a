//! Builds a Guest from open files.
//!
//! A Guest has memory with its kernel, devices on a bus, and an engine.

use super::attach::{Attached, OpenDevice, for_host};
use super::beginning::Beginning;
use super::config::{Config, DebuggerAt, DeviceConfig, Stats};
use super::error::{LaunchError, lacks, named};
use crate::confine::Plan;
use crate::devices::RestoreError;
use crate::devices::console::Screen;
use crate::engine::{Engine, Native, Setup};
use crate::loader;
use crate::memory::GuestMemory;
use crate::needs::Lack;
use crate::snapshot::Saved;
use crate::transport::Transport;
use lg_abi::known::Known;
use lg_abi::page::Format;
use lg_abi::request::Initialize;
use lg_wire::moved::Moved;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A Guest that is ready to run.
pub(super) struct Built {
    pub(super) guest: Arc<dyn Engine>,
    pub(super) bus: Arc<dyn Transport>,
    /// Where it starts.
    pub(super) start: Initialize,
    /// Its interface.
    pub(super) interface: Known,
    /// The format of its page tables.
    pub(super) paging: Format,
    /// It goes on from a snapshot.
    pub(super) goes_on: bool,
    /// How its clocks differ from those here.
    pub(super) moved: Moved,
}

/// The parts that a Guest is built from.
pub(super) struct Parts<'a> {
    pub(super) beginning: &'a mut Beginning,
    pub(super) devices: Vec<OpenDevice>,
    /// The output of the console.
    pub(super) screen: Arc<Screen>,
    /// The value of the time-stamp counter when the Launcher started.
    pub(super) started: u64,
}

/// Builds the Guest of `config`, and lets the engine initialize it.
pub(super) fn build(
    config: &Config,
    parts: Parts<'_>,
) -> Result<Built, LaunchError> {
    let Parts {
        beginning,
        devices,
        screen,
        started,
    } = parts;
    let (kernel, initrd) = match beginning {
        Beginning::Kernel(kernel, initrd) => (kernel, initrd),
        Beginning::Saved(saved) => {
            return go_on(config, saved, devices, screen);
        }
    };
    let line = config.kernel.command_line(&config.command_line, started);
    // The kernel decides which devices it has, and so how many pages are above
    // RAM. Most kernels are of 2007: each device has a page, except the
    // console.
    let usual = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    let memory =
        GuestMemory::growing(config.memory, usual).map_err(lack(config))?;
    let loaded = loader::load(&memory, kernel, initrd.as_ref(), &line)
        .map_err(|error| named(config, error))?;
    let mut devices = devices;
    let disks = for_host(loaded.interface, &mut devices);
    let devices = Attached::to(loaded.interface, devices)?;
    // Memory does not shrink. Devices on a PCI bus have no pages above RAM, and
    // those that are there are not used.
    let pages = devices.pages_above_ram().max(usual);
    let memory = memory.with_pages(pages).map_err(lack(config))?;
    let start = Initialize {
        pfn_limit: memory.pfn_limit(),
        ..loaded.request
    };
    let guest: Arc<dyn Engine> = Native::new(memory);
    let guest_id = devices.guest_id();
    let pci = devices.on_pci();
    let bus = devices.on_bus(&guest, screen)?;
    let shared_pages = bus
        .shared_pages()
        .map_err(lacks("keep the networks' files open"))?;
    let interface = loaded.interface;
    let loaded = Setup::from(loaded);
    let paging = loaded.paging;
    guest.initialize(Setup {
        guest_id,
        slow_paths: config.slow_paths,
        isolation: config.isolation,
        trace: config.tracing,
        shared_pages,
        disks,
        pci,
        request: start,
        ..loaded
    })?;
    Ok(Built {
        guest,
        bus,
        start,
        interface,
        paging,
        goes_on: false,
        moved: Moved::default(),
    })
}

/// Builds the Guest of a snapshot, which goes on where it stood.
fn go_on(
    config: &Config,
    saved: &mut Saved,
    devices: Vec<OpenDevice>,
    screen: Arc<Screen>,
) -> Result<Built, LaunchError> {
    let machine = &saved.manifest.machine;
    let interface = machine.interface().unwrap_or_default();
    let mut devices = devices;
    let disks = for_host(interface, &mut devices);
    let devices = Attached::to(interface, devices)?;
    let pages = machine.pages_above_ram();
    if devices.pages_above_ram() > pages {
        let text = "it has other devices than its guest has used".to_owned();
        return Err(saved.does_not_fit(RestoreError::Other(text)).into());
    }
    let memory = GuestMemory::new(machine.ram, pages).map_err(lack(config))?;
    let start = Initialize {
        pfn_limit: memory.pfn_limit(),
        pgdir: 0,
        start: 0,
        page_offset: 0,
    };
    let state = machine.devices.clone();
    let guest: Arc<dyn Engine> = Native::new(memory);
    let pci = devices.on_pci();
    let bus = devices.on_bus(&guest, screen)?;
    // Devices describe themselves in memory when they get their place.
    saved.fill(guest.memory())?;
    let shared_pages = bus
        .shared_pages()
        .map_err(lacks("keep the networks' files open"))?;
    let moved = saved.moved();
    let restored = bus.restore(&state);
    restored.map_err(|error| saved.does_not_fit(error))?;
    guest.initialize(Setup {
        slow_paths: config.slow_paths,
        isolation: config.isolation,
        interface,
        disks,
        pci,
        resumed: Some(saved.resumed()?),
        moved,
        shared_pages,
        ..Setup::from(start)
    })?;
    // Its buffers were not known before.
    bus.buffers_changed();
    bus.links_changed();
    Ok(Built {
        guest,
        bus,
        start,
        interface,
        // The Host knows it.
        paging: Format::default(),
        goes_on: true,
        moved,
    })
}

/// There is no memory for the Guest.
fn lack(config: &Config) -> impl Fn(io::Error) -> Lack {
    let mb = config.memory >> 20;
    move |error| {
        Lack::when(format!("have {mb} MB of memory for the guest"), error)
    }
}

/// Paths that the Launcher still uses after it is confined.
pub(super) fn plan(config: &Config) -> Plan {
    let folder = |path: &Path| path.parent().map(Path::to_owned);
    let networks = config.devices.iter().filter_map(|device| match device {
        DeviceConfig::ShareNet(path) => folder(&path.canonicalize().ok()?),
        DeviceConfig::Disk(_)
        | DeviceConfig::Net(_)
        | DeviceConfig::Share(_) => None,
    });
    let stats = match &config.stats {
        Some(Stats::File(path)) => folder(path),
        Some(Stats::Stdout) | None => None,
    };
    let log = config.log.as_deref().and_then(folder);
    let core = config.core.as_deref().and_then(folder);
    let listens = config.devices.iter().any(|device| match device {
        DeviceConfig::Net(net) => net.listens(),
        DeviceConfig::Disk(_)
        | DeviceConfig::ShareNet(_)
        | DeviceConfig::Share(_) => false,
    });
    let debugged = match config.debugger {
        Some(DebuggerAt::Port(_) | DebuggerAt::Path(_)) => true,
        Some(DebuggerAt::Stdio) | None => false,
    };
    Plan {
        open: config.open_walls,
        listens: listens || debugged || config.metrics.is_some(),
        control: config.named.is_some(),
        agent: config.agent.is_some(),
        networks: networks.collect(),
        removals: stats.into_iter().chain(log).chain(core).collect(),
    }
}
