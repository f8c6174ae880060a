//! The trait of every device on the bus.
//!
//! A device is made from its configuration and gets a place. Then it handles
//! what the Guest sends to a key in its page. It watches a file for input, and
//! copies the input into buffers that the Guest has bound.

use crate::devices::Violation;
use crate::engine::Requests;
use crate::transport::{BusDevice, SlowOutput};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What is in a device's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// `LGUEST_DEVICE_T_*`.
    pub kind: u16,
    /// `LGUEST_DEVICE_F_*` and bits of the type's own.
    pub features: u16,
    /// Pages that the device needs.
    pub num_pages: u16,
}

/// Where a device has been placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its index in the descriptor page.
    pub index: u8,
    /// Physical address of its first page; 0 if it has none.
    pub page: u32,
    /// Its interrupt.
    pub irq: u8,
}

/// The files that the views map of a page that Guests share.
#[derive(Clone, Copy, Debug)]
pub struct PageFiles<'f> {
    /// The file whose first page it is.
    pub page: BorrowedFd<'f>,
    /// Memory for frames that are posted ([`lg_wire::outbox`]).
    pub outbox: BorrowedFd<'f>,
}

/// The result of an output.
#[derive(Default)]
pub struct Sent {
    /// The sender's `used_len`.
    pub bytes: u32,
    /// What is left to do.
    pub rest: Option<SlowOutput>,
}

/// A device on the bus.
pub trait KeyedDevice: BusDevice {
    /// What to write into the descriptor. Does not change.
    fn description(&self) -> Description;

    /// The device has a place: fills its page, and keeps `guest`. Called
    /// once, before the Guest runs.
    ///
    /// # Errors
    ///
    /// What the kernel says, where the page is in a file.
    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> io::Result<()>;

    /// A number for the Guest, if the device knows one that is unique on its
    /// network.
    fn guest_id(&self) -> Option<u16> {
        None
    }

    /// The files that the views must map for it, if there are any.
    fn shared_page(&self) -> Option<PageFiles<'_>> {
        None
    }

    /// The Guest sends the list at physical address `dma` to `key`, which lies
    /// in this device's page. The Guest stands still meanwhile, so this must
    /// not block: see [`Sent::rest`]. The caller writes `used_len`.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn send(&mut self, dma: u32, key: u32) -> Result<Sent, Violation>;

    /// The Guest has bound or unbound a buffer.
    fn buffers_changed(&mut self) {}

    /// How the device was damaged from outside, if its Guest has to die of it.
    fn damage(&self) -> Option<String> {
        None
    }
}
