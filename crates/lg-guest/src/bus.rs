//! The bus: finding the devices, and reporting their status to the Host.
//!
//! A Guest of 2007 has [`keys`]: sixteen descriptors, and buffers by keys. One
//! of Linux 2.6.25 to 3.19 has [`lguest`]: descriptors with virtqueues. One of
//! Linux 4.x has [`pci`]. Each device has a status, in which a driver sets
//! bits: seen, driver found, driver ready or failed.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::boot::Boot;
//! use lg_guest::{bus, println};
//!
//! fn list(boot: &Boot) {
//!     for device in bus::scan(boot) {
//!         println!("{}: {}", device.index(), device.kind().name());
//!     }
//! }
//! ```

pub(crate) mod keys;
pub(crate) mod lguest;
pub(crate) mod pci;

use crate::boot::Boot;
use crate::frame::Phys;
use crate::interface::{has_pci, has_virtio};
use alloc::vec::Vec;
use lg_abi::device::{
    LGUEST_DEVICE_S_ACKNOWLEDGE, LGUEST_DEVICE_S_DRIVER,
    LGUEST_DEVICE_S_DRIVER_OK, LGUEST_DEVICE_S_FAILED,
};
use lg_abi::gen2::device::{TYPE_BLOCK, TYPE_CONSOLE, TYPE_NET, TYPE_RANDOM};

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A console.
    Console,
    /// A network.
    Net,
    /// A disk.
    Block,
    /// A source of random numbers. Devices of 2007 have none.
    Random,
    /// Nothing that the kit knows.
    Unknown,
}

impl Kind {
    /// Of the virtio device with this type.
    pub(crate) const fn of_virtio(kind: u8) -> Self {
        match kind {
            TYPE_NET => Self::Net,
            TYPE_BLOCK => Self::Block,
            TYPE_CONSOLE => Self::Console,
            TYPE_RANDOM => Self::Random,
            _ => Self::Unknown,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Net => "net",
            Self::Block => "block",
            Self::Random => "random",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The Host has taken it away.
    Removed,
    /// It does not work as the interface says.
    Failed,
    /// There was no memory for its driver.
    OutOfMemory,
}

impl core::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Removed => "the device has been removed",
            Self::Failed => "the device has failed",
            Self::OutOfMemory => "no memory for the driver",
        })
    }
}

impl core::error::Error for DeviceError {}

/// A device, as its bus describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Keys(keys::Place),
    Lguest(lguest::Place),
    Pci(pci::Place),
}

/// A device on the bus.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    index: u8,
    kind: Kind,
    place: Place,
}

/// Maps the descriptors and lists the devices, marking each as seen.
pub fn scan(boot: &Boot) -> Vec<Device> {
    let found = if has_pci() {
        pci::scan()
    } else if has_virtio() {
        lguest::scan(boot)
    } else {
        keys::scan(boot)
    };
    for device in &found {
        device.set_status(LGUEST_DEVICE_S_ACKNOWLEDGE);
    }
    found
}

/// The first device of this kind, if there is one.
#[must_use]
pub fn first(boot: &Boot, kind: Kind) -> Option<Device> {
    scan(boot).into_iter().find(|device| device.kind() == kind)
}

/// Interrupt `irq` has come: the Host may have taken its device away.
pub(crate) fn interrupt(irq: u8) {
    if !has_virtio() {
        keys::interrupt(irq);
    }
}

impl Device {
    /// Its place among the devices.
    #[must_use]
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// What it is for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What its bus says of it. Only a driver for that bus needs it.
    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    /// The features that it offers: `LGUEST_DEVICE_F_*` and what depends on the
    /// type, or those of virtio.
    #[must_use]
    pub fn features(&self) -> u32 {
        match &self.place {
            Place::Keys(keys) => keys.features().into(),
            Place::Lguest(device) => device.features(),
            Place::Pci(device) => device.features(),
        }
    }

    /// Its status, as it is now: `LGUEST_DEVICE_S_*`. Virtio has the same bits.
    #[must_use]
    pub fn status(&self) -> u16 {
        match &self.place {
            Place::Keys(_) => keys::status_of(self.index),
            Place::Lguest(device) => device.status().into(),
            Place::Pci(device) => device.status().into(),
        }
    }

    fn set_status(&self, bits: u16) {
        match &self.place {
            Place::Keys(_) => keys::set_status(self.index, bits),
            Place::Lguest(device) => device.set_status(bits.to_le_bytes()[0]),
            Place::Pci(device) => device.set_status(bits.to_le_bytes()[0]),
        }
    }

    /// Its interrupt, or the first of them.
    #[must_use]
    pub fn irq(&self) -> u8 {
        match &self.place {
            Place::Keys(_) => lg_abi::device::device_irq(self.index),
            Place::Lguest(device) => device.irq(),
            Place::Pci(device) => device.irq(),
        }
    }

    /// Where its pages begin, or its first ring, or its registers.
    #[must_use]
    pub fn phys(&self) -> Phys {
        match &self.place {
            Place::Keys(keys) => keys.phys(),
            Place::Lguest(device) => device.phys(),
            Place::Pci(device) => device.phys(),
        }
    }

    /// How many pages it has.
    #[must_use]
    pub fn num_pages(&self) -> u16 {
        match &self.place {
            Place::Keys(keys) => keys.num_pages(),
            Place::Lguest(device) => device.num_pages(),
            Place::Pci(_) => 1,
        }
    }

    /// Makes its driver by `probe`, and sets the status to the result.
    ///
    /// # Errors
    ///
    /// Those of `probe`, or that the device has been taken away already.
    pub fn start<D>(
        &self,
        probe: impl FnOnce(Self) -> Result<D, DeviceError>,
    ) -> Result<D, DeviceError> {
        self.check()?;
        self.set_status(LGUEST_DEVICE_S_DRIVER);
        let driver = probe(*self);
        self.set_status(match driver {
            Ok(_) => LGUEST_DEVICE_S_DRIVER_OK,
            Err(_) => LGUEST_DEVICE_S_FAILED,
        });
        driver
    }

    /// Checks, before each request, that the device is still there. Virtio
    /// devices are never taken away.
    ///
    /// # Errors
    ///
    /// The Host has taken it away.
    pub fn check(&self) -> Result<(), DeviceError> {
        match &self.place {
            Place::Keys(_) => keys::check(self.index),
            Place::Lguest(_) | Place::Pci(_) => Ok(()),
        }
    }
}
