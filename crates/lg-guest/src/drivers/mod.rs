//! The drivers: console, disk, network, random numbers.
//!
//! Each driver takes one [`Device`](crate::bus::Device). Other code of the
//! Guest awaits its methods. What depends on how the device is reached is in
//! [`keys`], for the devices of 2007, and in [`virtio`].

mod keys;
mod virtio;

pub mod console;
pub mod disk;
pub mod net;
pub mod random;
