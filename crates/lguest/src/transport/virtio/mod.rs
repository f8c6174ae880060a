//! The transport since Linux 2.6.24: virtio devices.
//!
//! Up to Linux 3.19 they are on lguest's bus. A page above RAM describes the
//! devices, and each has virtqueues in the pages behind it. NOTIFY names a ring
//! that has something for the device, a descriptor whose status has changed, or
//! a text for the early console. The device answers in the ring and raises the
//! queue's interrupt (docs/abi.md, section 9). Since Linux 4.0 they are on a
//! PCI bus ([`pci`]; docs/abi.md, section 10).
//!
//! In reading order: [`ring`] is a virtqueue, [`queue`] one with its interrupt,
//! [`device`] the trait of every device, and [`bus`] the descriptors and the
//! way from a notification to a device. [`console`], [`disk`], [`nic`],
//! [`lan`], [`port`], [`random`] and [`share`] put devices on the bus.
//! [`member`] is the Launcher as a member of a network of 2007.

mod ring;

pub use ring::RING_BYTES;

mod queue;
pub use queue::Queue;

mod device;
pub use device::{Features, VirtioDevice};

mod bus;
pub use bus::{VirtioBus, VirtioBusError, VirtioBusState, pages_above_ram};

mod pci;
pub use pci::{PciBus, PciBusError, PciBusState, describe as describe_for_pci};

mod console;
pub use console::VirtioConsole;

mod disk;
pub use disk::VirtioDisk;

mod nic;
pub use nic::VirtioNic;

mod member;

mod lan;
pub use lan::VirtioLan;

mod random;
pub use random::VirtioRandom;

mod port;
pub use port::VirtioPort;

mod share;
pub use share::VirtioShare;

#[cfg(test)]
pub(crate) mod testing;
