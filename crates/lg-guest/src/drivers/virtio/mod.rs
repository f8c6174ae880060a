//! Drivers for virtio devices: buffers in virtqueues.
//!
//! They take features, configuration and queues of a device from
//! [`lguest::Place`]. A bus of another kind needs to offer the same.

pub(super) mod buffers;
pub(super) mod console;
pub(super) mod disk;
pub(super) mod net;
pub(super) mod random;

use crate::bus::{Device, DeviceError, Place, lguest};

/// What its bus says of a virtio device.
fn place(device: &Device) -> Result<lguest::Place, DeviceError> {
    match device.place() {
        Place::Lguest(place) => Ok(*place),
        Place::Keys(_) => Err(DeviceError::Failed),
    }
}
