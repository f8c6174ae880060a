//! The Launcher's part of a snapshot.
//!
//! The Guest stands, and all about it that the Launcher knows is told. A
//! confined Launcher opens no file. So it hands the Guest's files over, and the
//! command that takes the snapshot copies them.

use super::build::Built;
use super::config::{Config, DeviceConfig, Kernel};
use super::open::Kept;
use super::quiet::{Quiet, Silence};
use crate::engine::{Engine, Hold, Isolation, clock, view_program};
use crate::machines::protocol::{FILES_MOST, Frozen};
use crate::machines::settings::Settings;
use crate::snapshot::manifest::{Clocks, Still};
use crate::snapshot::{DiskPlace, Placed, Way, checksum, this_boot};
use crate::transport::Transport;
use lg_abi::known::Known;
use lg_wire::moved::Moved;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How long a Guest may take to stand still.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a confined Launcher cannot find out.
pub(super) struct Before {
    /// The places of all disks, with absolute names.
    disks: Vec<DiskPlace>,
    boot: String,
}

/// Finds it out.
pub(super) fn before(config: &Config) -> io::Result<Before> {
    let disks = config.devices.iter().filter_map(|device| match device {
        DeviceConfig::Disk(disk) => Some(DiskPlace::of(disk)),
        DeviceConfig::ShareNet(_)
        | DeviceConfig::Net(_)
        | DeviceConfig::Share(_) => None,
    });
    Ok(Before {
        disks: disks.collect::<io::Result<_>>()?,
        boot: this_boot(),
    })
}

/// What a snapshot of a machine needs.
pub(super) struct Snapshots {
    guest: Arc<dyn Engine>,
    bus: Arc<dyn Transport>,
    quiet: Arc<Quiet>,
    /// Why there can be none.
    refused: Option<String>,
    boot: String,
    moved: Moved,
    /// Its devices, in their order.
    order: Vec<Placed>,
    disks: Vec<DiskPlace>,
    /// Their files, in their order.
    disk_files: Vec<OwnedFd>,
    interface: Known,
    built_in: bool,
    slow_paths: u32,
    isolation: Isolation,
    /// The Guest is frozen.
    frozen: Option<(Silence, Hold)>,
}

impl Snapshots {
    /// Those of the machine that `built` is. Its disks are those of `before`,
    /// and their files are open.
    pub(super) fn new(
        config: &Config,
        built: &Built,
        (before, kept): (Before, Kept),
        quiet: &Arc<Quiet>,
    ) -> Self {
        let Before { disks, boot } = before;
        let Kept { order, disk_files } = kept;
        Self {
            guest: Arc::clone(&built.guest),
            bus: Arc::clone(&built.bus),
            quiet: Arc::clone(quiet),
            refused: refused(config, &disks, disk_files.len()),
            boot,
            moved: built.moved,
            order,
            disks,
            disk_files,
            interface: built.interface,
            built_in: config.kernel == Kernel::Embedded,
            slow_paths: config.slow_paths,
            isolation: config.isolation,
            frozen: None,
        }
    }

    /// Stops the Guest and tells all about it. May block as long as its disks
    /// do.
    pub(super) fn freeze(
        &mut self,
        settings: &Settings,
    ) -> Result<(Frozen, Vec<OwnedFd>), String> {
        let frozen = self.try_to_freeze(settings);
        if frozen.is_err() {
            self.thaw();
        }
        frozen
    }

    fn try_to_freeze(
        &mut self,
        settings: &Settings,
    ) -> Result<(Frozen, Vec<OwnedFd>), String> {
        if let Some(why) = &self.refused {
            return Err(why.clone());
        }
        let text = |error: crate::engine::RequestError| error.to_string();
        let hold = self.guest.hold().map_err(text)?;
        if !hold.wait_for(PATIENCE).map_err(text)? {
            return Err("its guest does not stand still: try again".into());
        }
        let silence = self.quiet.begin();
        // Disks finish their requests, which writes to memory.
        let devices = self.bus.state();
        if let Some(why) = self.bus.obstacle() {
            return Err(why);
        }
        let frozen = self.guest.freeze().map_err(text)?;
        let memory = self.guest.memory();
        let still = Still {
            lguest: env!("CARGO_PKG_VERSION").into(),
            view: checksum(view_program()),
            boot: self.boot.clone(),
            processor: clock::processor(),
            clocks: Clocks::now(&self.moved),
            settings: settings.clone(),
            built_in: self.built_in,
            ram: memory.ram(),
            limit: memory.limit(),
            interface: self.interface as u32,
            user_processes: self.isolation == Isolation::User,
            slow_paths: self.slow_paths,
            order: self.order.clone(),
            disks: self.disks.clone(),
            engine: frozen.state,
            devices,
        };
        let machine = serde_json::to_value(still);
        let machine = machine.map_err(|error| error.to_string())?;
        let mut files = vec![frozen.memory, frozen.state_file, frozen.copies];
        for file in &self.disk_files {
            let file = file.try_clone().map_err(|error| error.to_string())?;
            files.push(file);
        }
        self.frozen = Some((silence, hold));
        Ok((Frozen { machine }, files))
    }

    /// From now on there can be none, for this reason. The files of disks are
    /// closed.
    pub(super) fn end(&mut self, why: &str) {
        self.refused.get_or_insert_with(|| why.to_owned());
        self.disk_files.clear();
    }

    /// The Guest goes on.
    pub(super) fn thaw(&mut self) {
        // Networks have been told that it has no buffers.
        self.bus.buffers_changed();
        self.frozen = None;
    }
}

/// Why there can be no snapshot of this machine, with the cure.
fn refused(
    config: &Config,
    disks: &[DiskPlace],
    files: usize,
) -> Option<String> {
    if files > FILES_MOST - 3 {
        let why = "its disks have more files than can be handed over";
        return Some(why.into());
    }
    if config.debugger.is_some() {
        let why = "a debugger may have changed its guest: start it without \
                   --gdb";
        return Some(why.into());
    }
    if disks.iter().any(|disk| disk.way == Way::ThrownAway) {
        let why = "the changes of a disk have no name and end with it: give \
                   the disk ',overlay=FILE' ('lguest restore': '--changes')";
        return Some(why.into());
    }
    config.devices.iter().find_map(|device| match device {
        DeviceConfig::Disk(disk) => disk.fail.map(|_| {
            "a disk that fails on purpose has no snapshot: leave ',fail' out"
                .into()
        }),
        DeviceConfig::ShareNet(_)
        | DeviceConfig::Net(_)
        | DeviceConfig::Share(_) => None,
    })
}
