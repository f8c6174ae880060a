//! How a Guest reaches its devices.
//!
//! A transport describes the devices to the Guest. It takes requests in the
//! form that the Guest's kernel uses, and turns them into calls of
//! [`devices`](crate::devices). Only the transport writes answers into the
//! Guest's memory and raises interrupts. Kernels of 2007 use [`keys`], later
//! ones [`virtio`].

mod device;
pub use device::{BusDevice, Device, DeviceState};

mod held;

pub mod keys;
pub mod virtio;

use crate::devices::{NamedCounts, Readiness, Violation};
use crate::engine::{DeviceAccess, SharedPage};
use std::io;
use std::os::fd::OwnedFd;

/// The rest of an output, which may block. It is done before the Guest goes on;
/// other threads can use the device meanwhile.
pub type SlowOutput = Box<dyn FnOnce() + Send>;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// What a notification was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// Something that is done now.
    Done,
    /// Buffers for the input of the device at this index.
    Buffers(usize),
}

/// All devices of a Guest, as the rest of the Launcher sees them. Any thread
/// may use it.
pub trait Transport: Send + Sync {
    /// SEND_DMA: the Guest sends the list at `dma` to `key`. May block.
    /// Returns whether there is a device with that key.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn send(&self, dma: u32, key: u32) -> Result<bool, Violation>;

    /// NOTIFY: the Guest points to what is at `address`. May block.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn notify(&self, address: u32) -> Result<Notified, Violation>;

    /// The Guest reads registers of a device on a PCI bus. May block.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn read_device(&self, access: DeviceAccess) -> Result<u32, Violation> {
        Err(Violation(format!("read of {access:?}, without a PCI bus")))
    }

    /// The Guest writes such registers. May block.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn write_device(
        &self,
        access: DeviceAccess,
        _value: u32,
    ) -> Result<Notified, Violation> {
        Err(Violation(format!("write to {access:?}, without a PCI bus")))
    }

    /// There may be input for the device at `index`.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn handle_input(&self, index: usize) -> Result<Readiness, Violation>;

    /// The files to watch, each with the index of its device.
    ///
    /// # Errors
    ///
    /// What the kernel says when there is no descriptor left.
    fn inputs(&self) -> io::Result<Vec<(usize, OwnedFd)>>;

    /// Pages of devices that lie in other files than the Guest's memory, for
    /// LHREQ_INITIALIZE.
    ///
    /// # Errors
    ///
    /// What the kernel says when there is no descriptor left.
    fn shared_pages(&self) -> io::Result<Vec<SharedPage>>;

    /// The Guest has bound or unbound a buffer.
    fn buffers_changed(&self);

    /// The terminal of the console has so many columns and rows now. Does not
    /// block.
    fn resized(&self, _size: TerminalSize) {}

    /// How a device was damaged from outside, if the Guest has to die of it.
    fn damage(&self) -> Option<String>;

    /// The counts of each device, with its type. A device that another thread
    /// is using has none.
    fn counters(&self) -> Vec<(&'static str, NamedCounts)>;

    /// Ends all devices and waits until they have finished. Returns the counts
    /// of each, with its type. A device that another thread is using is
    /// skipped: that is a console whose input another process took, and it has
    /// nothing to finish.
    fn finish(&self) -> Vec<(&'static str, NamedCounts)>;
}
