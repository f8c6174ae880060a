//! Opens the file behind a disk.
//!
//! Most mistakes with such a file are not that it cannot be opened. It has
//! another format than its user believes, or another process uses it.

use super::error::LaunchError;
use crate::devices::block::{Block, Disk, DiskError};
use crate::machine::config::{Changes, DeviceConfig, DiskConfig};
use crate::machine::terminal;
use lg_wire::fast_path;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Opens `disk`, which comes after the `earlier` devices on the command line.
pub(super) fn open(
    disk: &DiskConfig,
    earlier: &[DeviceConfig],
    slow_paths: u32,
) -> Result<Block, LaunchError> {
    let path = &disk.path;
    let failed = |error| LaunchError::Disk {
        path: path.clone(),
        error,
    };
    // A base is opened to read only.
    let read_only = disk.read_only || disk.changes != Changes::Kept;
    let opened = match Disk::open(path, read_only) {
        Err(DiskError::InUse) if is_there(path, earlier) => {
            return Err(failed(DiskError::Twice));
        }
        opened => opened.map_err(failed)?,
    };
    let opened = match disk.raw {
        true => opened,
        false => opened.by_its_format().map_err(failed)?,
    };
    if let Some(format) = opened.format()
        && !disk.raw
    {
        return Err(failed(DiskError::NotRaw(format)));
    }
    warn_of_rest(path, opened.beyond_last_sector());
    let mut opened = opened;
    for layer in &disk.layers {
        opened = opened.under_layer(layer).map_err(failed)?;
    }
    let top = disk.layers.last().unwrap_or(path);
    let opened = match &disk.changes {
        Changes::Kept => opened,
        Changes::Overlay(file) => opened.overlaid(top, file).map_err(failed)?,
        Changes::ThrownAway => opened.thrown_away().map_err(failed)?,
    };
    let mut block = Block::new(match disk.fail {
        Some(one_in) => opened.failing(one_in),
        None => opened,
    });
    if slow_paths & fast_path::DISK_AT_ONCE != 0 {
        block.never_at_once();
    }
    if slow_paths & fast_path::DISK_READS != 0 {
        block.never_by_host();
    }
    if slow_paths & fast_path::READ_AHEAD != 0 {
        block.never_ahead();
    }
    Ok(block)
}

/// Whether one of the `devices` is a disk with the file at `path`.
fn is_there(path: &Path, devices: &[DeviceConfig]) -> bool {
    devices.iter().any(|device| match device {
        DeviceConfig::Disk(DiskConfig { path: other, .. }) => {
            is_same(other, path)
        }
        DeviceConfig::ShareNet(_)
        | DeviceConfig::Net(_)
        | DeviceConfig::Share(_) => false,
    })
}

/// Whether two paths lead to the same file.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    file(one).is_some() && file(one) == file(other)
}

/// Warns that the last `rest` bytes of a file are not part of the disk.
fn warn_of_rest(path: &Path, rest: u64) {
    if rest > 0 {
        let name = path.display();
        terminal::tell(&format!(
            "disk {name}: its last {rest} bytes are less than a sector of 512, \
             and the guest cannot reach them: `truncate -s %512 {name}` makes \
             it whole"
        ));
    }
}
