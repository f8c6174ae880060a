//! Drivers for virtio devices: buffers in virtqueues.
//!
//! They take features, configuration and queues of a device from its [`Place`],
//! which is on lguest's bus or on a PCI bus.

pub(super) mod buffers;
pub(super) mod console;
pub(super) mod disk;
pub(super) mod net;
pub(super) mod random;

use crate::bus::{self, Device, DeviceError, lguest, pci};
use crate::virtqueue::Described;
use lg_abi::gen2::device::NET_HEADER;
use lg_abi::gen3::registers;

/// What its bus says of a virtio device.
#[derive(Clone, Copy)]
enum Place {
    Lguest(lguest::Place),
    Pci(pci::Place),
}

fn place(device: &Device) -> Result<Place, DeviceError> {
    match device.place() {
        bus::Place::Lguest(place) => Ok(Place::Lguest(*place)),
        bus::Place::Pci(place) => Ok(Place::Pci(*place)),
        bus::Place::Keys(_) => Err(DeviceError::Failed),
    }
}

impl Place {
    /// Accepts those of `wanted` that are offered, and returns them. To be
    /// called once, before [`queue`](Self::queue).
    fn accept(&self, wanted: u32) -> u32 {
        match self {
            Self::Lguest(place) => place.accept(wanted),
            Self::Pci(place) => place.accept(wanted),
        }
    }

    /// A number in its configuration, of up to eight bytes.
    fn config(&self, offset: u32, bytes: u32) -> Option<u64> {
        match self {
            Self::Lguest(place) => place.config(offset, bytes),
            Self::Pci(place) => place.config(offset, bytes),
        }
    }

    /// Its virtqueue `index`, which is used once.
    fn queue(&self, index: u8) -> Result<Described, DeviceError> {
        match self {
            Self::Lguest(place) => place.queue(index),
            Self::Pci(place) => place.queue(index),
        }
    }

    /// Bytes of the header in front of a frame.
    fn net_header(&self) -> u32 {
        match self {
            Self::Lguest(_) => NET_HEADER,
            Self::Pci(_) => registers::FORMATS.net_header,
        }
    }
}
