//! The drivers: console, disk, network, random numbers.
//!
//! Each driver takes one [`Device`](crate::bus::Device). Other code of the
//! Guest awaits its methods. What depends on how the device is reached is in
//! [`keys`], for the devices of 2007, and in [`virtio`].
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::boot::Boot;
//! use lg_guest::bus::{self, DeviceError, Kind};
//! use lg_guest::drivers::disk::Disk;
//!
//! /// The first disk, if there is one.
//! fn disk(boot: &Boot) -> Result<Option<Disk>, DeviceError> {
//!     let device = bus::first(boot, Kind::Block);
//!     device.map(|device| device.start(Disk::new)).transpose()
//! }
//! ```

mod keys;
mod virtio;

pub mod console;
pub mod disk;
pub mod net;
pub mod random;
