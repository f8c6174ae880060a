//! A Guest's machine, from open files to a Guest that is ready to run.
//!
//! Memory, the kernel in it, devices on a bus, and an engine behind them.

use super::config::{Config, DeviceConfig, Stats};
use super::error::{LaunchError, lacks, named};
use crate::confine::Plan;
use crate::engine::{Engine, Native, Setup};
use crate::loader::{self, Image};
use crate::memory::GuestMemory;
use crate::needs::Lack;
use crate::transport::keys::{Bus, KeyedDevice, pages_above_ram};
use lg_abi::request::Initialize;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A Guest that is ready to run.
pub(super) struct Built {
    pub(super) guest: Arc<dyn Engine>,
    pub(super) bus: Arc<Bus>,
    /// Where it starts.
    pub(super) start: Initialize,
}

/// What a Guest is built of.
pub(super) struct Parts<'a> {
    pub(super) kernel: &'a Image,
    pub(super) initrd: Option<&'a File>,
    pub(super) devices: Vec<Box<dyn KeyedDevice>>,
    /// The time-stamp counter when the Launcher started.
    pub(super) started: u64,
}

/// Builds the Guest of `config`, and has the engine get it ready.
pub(super) fn build(
    config: &Config,
    parts: Parts<'_>,
) -> Result<Built, LaunchError> {
    let memory = memory(config, &parts.devices)?;
    let start = loader::load(
        &memory,
        parts.kernel,
        parts.initrd,
        &config
            .kernel
            .command_line(&config.command_line, parts.started),
    )
    .map_err(|error| named(config, error))?;
    let guest: Arc<dyn Engine> = Native::new(memory);
    let guest_id = parts.devices.iter().find_map(|d| d.guest_id());
    let bus = Arc::new(Bus::new(guest.clone(), parts.devices)?);
    let shared_pages = bus
        .shared_pages()
        .map_err(lacks("keep the networks' files open"))?;
    guest.initialize(Setup {
        guest_id,
        slow_paths: config.slow_paths,
        isolation: config.isolation,
        shared_pages,
        ..Setup::from(start)
    })?;
    Ok(Built { guest, bus, start })
}

fn memory(
    config: &Config,
    devices: &[Box<dyn KeyedDevice>],
) -> Result<GuestMemory, Lack> {
    let pages = pages_above_ram(devices);
    GuestMemory::new(config.memory, pages).map_err(|error| {
        let mb = config.memory >> 20;
        Lack::when(format!("have {mb} MB of memory for the guest"), error)
    })
}

/// What the Launcher still does by name once it is confined.
pub(super) fn plan(config: &Config) -> Plan {
    let folder = |path: &Path| path.parent().map(Path::to_owned);
    let networks = config.devices.iter().filter_map(|device| match device {
        DeviceConfig::ShareNet(path) => folder(&path.canonicalize().ok()?),
        DeviceConfig::Disk(_) | DeviceConfig::Tap(_) => None,
    });
    let stats = match &config.stats {
        Some(Stats::File(path)) => folder(path),
        Some(Stats::Stdout) | None => None,
    };
    let log = config.log.as_deref().and_then(folder);
    Plan {
        open: config.open_walls,
        networks: networks.collect(),
        removals: stats.into_iter().chain(log).collect(),
    }
}
