//! The transport of 2007: descriptors in one page, and DMA by keys.
//!
//! A page above RAM describes up to sixteen devices. To send, a Guest names a
//! key, an address in the device's page, and a list of sections, an
//! `lguest_dma`. To receive, it binds an array of such lists to a key, and a
//! free one is filled. Both end with the list's word `used_len`
//! (docs/abi.md, sections 5 and 7).
//!
//! In reading order: [`dma`] is the list of sections, [`buffers`] the bound
//! lists as a device takes them, [`device`] the trait of every device, and
//! [`bus`] the descriptors and the way from a key to a device.
//! [`console`], [`disk`] and [`nic`] put devices on the bus. [`lan`] is a
//! network of several Guests: a page that they share, and the lists that each
//! has bound in it. A Guest with virtio devices is a member through its
//! Launcher ([`VirtioLan`](crate::transport::virtio::VirtioLan)).

pub mod dma;

mod buffers;
pub use buffers::BoundBuffers;

mod device;
pub use device::Sent;
pub use device::{Description, KeyedDevice, PageFiles, Place};

mod bus;
pub use bus::{Bus, BusError, BusState, pages_above_ram};

mod console;
pub use console::KeyedConsole;

mod disk;
pub use disk::KeyedDisk;

mod nic;
pub use nic::KeyedNic;

pub mod lan;
