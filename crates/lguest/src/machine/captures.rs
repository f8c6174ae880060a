//! Opens the files that frames are written to.
//!
//! A capture empties its file. So that a mistake costs nothing, a file that the
//! run uses for something else is refused, and no file is emptied before all
//! others of the run are open.

use super::attach::OpenDevice;
use super::config::{Config, DeviceConfig, Kernel, Stats};
use super::disks::is_same;
use super::error::LaunchError;
use crate::devices::net::Capture;
use std::io;
use std::path::{Path, PathBuf};

/// A capture of the device with this place on the command line.
pub(super) struct Opened<'c> {
    device: usize,
    path: &'c Path,
    capture: Capture,
}

fn failed(path: &Path, error: io::Error) -> LaunchError {
    let path = path.to_owned();
    LaunchError::Capture { path, error }
}

/// Opens the captures of `config`. Disks must be open, because their locks are
/// what keeps them apart.
pub(super) fn open(config: &Config) -> Result<Vec<Opened<'_>>, LaunchError> {
    let files: Vec<&Path> = files(config).collect();
    let mut opened = Vec::new();
    for (device, of) in config.devices.iter().enumerate() {
        let DeviceConfig::Net(net) = of else { continue };
        let Some(path) = &net.capture else { continue };
        if files.iter().any(|file| is_same(file, path)) {
            let why = "this run uses it for something else: give another file";
            return Err(failed(path, io::Error::other(why)));
        }
        let capture =
            Capture::open(path).map_err(|error| failed(path, error))?;
        opened.push(Opened {
            device,
            path,
            capture,
        });
    }
    Ok(opened)
}

/// Empties the files of the `captures`, and gives them to their `devices`.
pub(super) fn begin(
    captures: Vec<Opened<'_>>,
    devices: &mut [OpenDevice],
) -> Result<(), LaunchError> {
    for mut opened in captures {
        let begun = opened.capture.begin();
        begun.map_err(|error| failed(opened.path, error))?;
        if let Some(OpenDevice::Nic(nic)) = devices.get_mut(opened.device) {
            nic.set_capture(opened.capture);
        }
    }
    Ok(())
}

/// The files of a run that are not captures.
fn files(config: &Config) -> impl Iterator<Item = &Path> {
    let kernel = match &config.kernel {
        Kernel::File(path) => Some(path),
        Kernel::Embedded => None,
    };
    let stats = match &config.stats {
        Some(Stats::File(path)) => Some(path),
        _ => None,
    };
    let devices = config.devices.iter().filter_map(|device| match device {
        DeviceConfig::Disk(disk) => Some(&disk.path),
        DeviceConfig::ShareNet(path) => Some(path),
        DeviceConfig::Net(_) | DeviceConfig::Share(_) => None,
    });
    let single = [kernel, stats, config.initrd.as_ref(), config.log.as_ref()];
    let single = single.into_iter().flatten();
    single.chain(devices).map(PathBuf::as_path)
}
