//! What every device on the bus answers to.
//!
//! A device is made from its configuration and gets a place. Then it answers
//! what the Guest sends to a key in its page, and watches a file for input,
//! which it carries into buffers that the Guest has bound.

use super::lan::LanState;
use crate::devices::block::DiskState;
use crate::devices::console::ConsoleState;
use crate::devices::net::TapState;
use crate::devices::{
    NamedCounts, Readiness, RestoreError, Versioned, Violation,
};
use crate::engine::Requests;
use crate::transport::SlowOutput;
use serde::{Deserialize, Serialize};
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

/// What has become of an output.
#[derive(Default)]
pub struct Sent {
    /// The sender's `used_len`.
    pub bytes: u32,
    /// What is left to do.
    pub rest: Option<SlowOutput>,
}

/// The state of a device on this bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Of a console.
    Console(Versioned<ConsoleState>),
    /// Of a disk.
    Disk(Versioned<DiskState>),
    /// Of a tap.
    Tap(Versioned<TapState>),
    /// Of a place on a LAN.
    Lan(Versioned<LanState>),
}

impl DeviceState {
    /// That it is the state of another kind of device than `device`.
    #[must_use]
    pub fn is_not_of(&self, device: &str) -> RestoreError {
        let kind = match self {
            Self::Console(_) => "console",
            Self::Disk(_) => "disk",
            Self::Tap(_) => "tap",
            Self::Lan(_) => "LAN",
        };
        let text = format!("it is of a {kind}, and this is a {device}");
        RestoreError::Other(text)
    }
}

/// A device on the bus.
pub trait KeyedDevice: Send {
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

    /// The number that the Guest should have among its like, where the device
    /// knows one that is unique.
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

    /// A file to watch: [`Self::handle_input`] is called when it is readable.
    fn input(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// There may be input. Returns when it would have to wait, and when it has
    /// filled [`AT_ONCE`](crate::devices::AT_ONCE) buffers, so that other
    /// devices have their turn.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        Ok(Readiness::Wait)
    }

    /// The Guest has bound or unbound a buffer.
    fn buffers_changed(&mut self) {}

    /// The Guest is dead: finishes what has been begun. May block.
    fn finish(&mut self) {}

    /// What has been done to the device from outside that is a reason for its
    /// Guest to die.
    fn damage(&self) -> Option<String> {
        None
    }

    /// What the device has done so far, for the statistics.
    fn counters(&self) -> NamedCounts {
        NamedCounts::new()
    }

    /// The state. Ends requests that are being worked on first. May block.
    fn state(&mut self) -> DeviceState;

    /// Goes on with `state`. Counts once, after the device got its place and
    /// before the Guest runs.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError>;
}
