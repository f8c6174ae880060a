//! Open devices, and how they get onto a bus of the Guest.
//!
//! Files are opened before the kernel is known, and the kernel decides by which
//! transport it reaches its devices.

use super::error::LaunchError;
use crate::devices::block::Block;
use crate::devices::console::{Console, Screen};
use crate::devices::net::Nic;
use crate::devices::port::Channel;
use crate::devices::share::Share;
use crate::engine::{Engine, Requests};
use crate::transport::Transport;
use crate::transport::keys::lan::Lan;
use crate::transport::keys::{
    self, Bus, KeyedConsole, KeyedDevice, KeyedDisk, KeyedNic,
};
use crate::transport::virtio::{
    self, PciBus, VirtioBus, VirtioConsole, VirtioDevice, VirtioDisk,
    VirtioLan, VirtioNic, VirtioPort, VirtioRandom, VirtioShare,
};
use lg_abi::gen2::device::{FORMATS_2_6_24, FORMATS_2_6_25, Formats};
use lg_abi::gen3::pci::Device as PciDevice;
use lg_abi::known::Known;
use lg_wire::disk::MAX_DISKS;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A device that is open.
pub(super) enum OpenDevice {
    /// A disk.
    Disk(Block),
    /// A network interface, and what it is connected to.
    Nic(Nic),
    /// A network of several Guests.
    Lan(Lan),
    /// A folder of this machine.
    Share(Share),
    /// A port to an agent.
    Port(Arc<Channel>),
    /// The console.
    Console(Console),
}

/// The files of disks whose reads the Host of a kernel with this interface may
/// answer. Disks of 2007 have no ring.
pub(super) fn for_host(
    interface: Known,
    devices: &mut [OpenDevice],
) -> Vec<OwnedFd> {
    let mut files = Vec::new();
    for device in devices {
        let OpenDevice::Disk(block) = device else {
            continue;
        };
        if interface != Known::Linux2_6_23 && files.len() < MAX_DISKS {
            files.extend(block.lend_as(files.len()));
        } else {
            block.never_by_host();
        }
    }
    files
}

/// Devices in the form that a transport takes.
pub(super) enum Attached {
    /// Devices for kernels of 2007.
    Keys(Vec<Box<dyn KeyedDevice>>),
    /// Devices for kernels up to Linux 3.19.
    Virtio(Vec<Box<dyn VirtioDevice>>, &'static Formats),
    /// Devices for later kernels.
    Pci(Vec<Box<dyn VirtioDevice>>),
}

impl Attached {
    /// Converts `devices` for a kernel with this interface.
    ///
    /// # Errors
    ///
    /// The kernel has no such device.
    pub(super) fn to(
        interface: Known,
        devices: Vec<OpenDevice>,
    ) -> Result<Self, LaunchError> {
        if matches!(interface, Known::Linux2_6_23 | Known::Linux2_6_24) {
            refuse_long_frames(&devices)?;
        }
        let old = matches!(
            interface,
            Known::Linux2_6_23
                | Known::Linux2_6_24
                | Known::Linux2_6_25
                | Known::Linux2_6_30
        );
        if old && devices.iter().any(|d| matches!(d, OpenDevice::Port(_))) {
            return Err(LaunchError::NoPorts);
        }
        if interface == Known::Linux2_6_23 {
            let keyed = devices.into_iter().map(keyed);
            return Ok(Self::Keys(keyed.collect::<Result<_, _>>()?));
        }
        let random: Box<dyn VirtioDevice> = Box::<VirtioRandom>::default();
        let devices = devices.into_iter().map(on_virtio);
        let mut all: Vec<_> = std::iter::once(random).chain(devices).collect();
        if !interface.has_pci() {
            return Ok(Self::Virtio(all, formats(interface)));
        }
        // The early console looks for the console in slot 1.
        all.sort_by_key(|device| !device.is_terminal());
        Ok(Self::Pci(all))
    }

    /// The number of pages above RAM that these devices need.
    pub(super) fn pages_above_ram(&self) -> u32 {
        match self {
            Self::Keys(devices) => keys::pages_above_ram(devices),
            Self::Virtio(devices, _) => virtio::pages_above_ram(devices),
            Self::Pci(_) => 0,
        }
    }

    /// The number of the Guest among those of one LAN, for its address there.
    pub(super) fn guest_id(&self) -> Option<u16> {
        match self {
            Self::Keys(devices) => devices.iter().find_map(|d| d.guest_id()),
            Self::Virtio(..) | Self::Pci(_) => None,
        }
    }

    /// What the Host needs to know of the devices on a PCI bus.
    pub(super) fn on_pci(&self) -> Vec<PciDevice> {
        match self {
            Self::Keys(_) | Self::Virtio(..) => Vec::new(),
            Self::Pci(devices) => virtio::describe_for_pci(devices),
        }
    }

    /// Puts the devices on the bus of `guest`.
    pub(super) fn on_bus(
        self,
        guest: &Arc<dyn Engine>,
        screen: Arc<Screen>,
    ) -> Result<Arc<dyn Transport>, LaunchError> {
        Ok(match self {
            Self::Keys(devices) => Arc::new(Bus::new(guest.clone(), devices)?),
            Self::Virtio(devices, formats) => Arc::new(VirtioBus::with(
                formats,
                guest.clone(),
                devices,
                screen,
            )?),
            Self::Pci(devices) => {
                let guest: Arc<dyn Requests> = guest.clone();
                Arc::new(PciBus::new(&guest, devices, screen)?)
            }
        })
    }
}

/// The most bytes of a packet that every kernel takes.
const EVERY_MTU: u16 = 1500;

/// Drivers of Linux 2.6.23 and 2.6.24 have buffers for short frames only.
fn refuse_long_frames(devices: &[OpenDevice]) -> Result<(), LaunchError> {
    let mtus = devices.iter().filter_map(|device| match device {
        OpenDevice::Nic(nic) => nic.mtu(),
        _ => None,
    });
    match mtus.max() {
        Some(mtu) if mtu > EVERY_MTU => Err(LaunchError::LongFrames(mtu)),
        _ => Ok(()),
    }
}

/// What the descriptors of this interface look like.
fn formats(interface: Known) -> &'static Formats {
    match interface {
        Known::Linux2_6_24 => &FORMATS_2_6_24,
        _ => &FORMATS_2_6_25,
    }
}

fn keyed(device: OpenDevice) -> Result<Box<dyn KeyedDevice>, LaunchError> {
    Ok(match device {
        OpenDevice::Disk(block) => Box::new(KeyedDisk::new(block)),
        OpenDevice::Nic(nic) => Box::new(KeyedNic::new(nic)),
        OpenDevice::Lan(lan) => Box::new(lan),
        OpenDevice::Share(share) => {
            return Err(LaunchError::NoShares(share.tag().to_owned()));
        }
        OpenDevice::Port(_) => return Err(LaunchError::NoPorts),
        OpenDevice::Console(console) => Box::new(KeyedConsole::new(console)),
    })
}

fn on_virtio(device: OpenDevice) -> Box<dyn VirtioDevice> {
    match device {
        OpenDevice::Disk(block) => Box::new(VirtioDisk::new(block)),
        OpenDevice::Nic(nic) => Box::new(VirtioNic::new(nic)),
        OpenDevice::Lan(lan) => Box::new(VirtioLan::new(lan)),
        OpenDevice::Share(share) => Box::new(VirtioShare::new(share)),
        OpenDevice::Port(channel) => Box::new(VirtioPort::new(channel)),
        OpenDevice::Console(console) => Box::new(VirtioConsole::new(console)),
    }
}
