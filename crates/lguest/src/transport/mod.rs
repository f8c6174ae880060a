//! How a Guest reaches its devices.
//!
//! A transport describes the devices to the Guest. It takes requests in the
//! form that the Guest's kernel uses, and turns them into calls of
//! [`devices`](crate::devices). Only the transport writes answers into the
//! Guest's memory and raises interrupts. Kernels of 2007 use [`keys`], later
//! ones [`virtio`].

mod device;
pub use device::{BusDevice, Detached, Device, DeviceState};

mod held;

pub mod keys;
pub mod virtio;

use crate::devices::{
    NamedCounts, Readiness, RestoreError, Saved, Versioned, Violation,
};
use crate::engine::{DeviceAccess, SharedPage};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The rest of an output, which may block. It is done before the Guest goes on;
/// other threads can use the device meanwhile.
pub type SlowOutput = Box<dyn FnOnce() + Send>;

/// Takes the input of a device in the calling thread. Returns whether that was
/// all: if not, the thread that waits for input has to look.
pub type TakeInput = Arc<dyn Fn() -> bool + Send + Sync>;

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

/// The state of a bus as data, whatever its transport is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransportState {
    /// The kind of the bus.
    bus: String,
    state: Value,
}

impl TransportState {
    /// That of a bus with `state`.
    fn of<T: Saved + Serialize>(state: &Versioned<T>) -> Self {
        Self {
            bus: T::DEVICE.into(),
            // There is nothing in it that JSON cannot say.
            state: serde_json::to_value(state).unwrap_or_default(),
        }
    }

    /// The state, if it is one of this kind of bus.
    fn read<T>(&self) -> Result<Versioned<T>, RestoreError>
    where
        T: Saved + DeserializeOwned,
    {
        let other = |text: String| {
            RestoreError::Other(crate::engine::printable(text.as_bytes()))
        };
        let (theirs, ours) = (&self.bus, T::DEVICE);
        if theirs != ours {
            let text = format!("it is of a {theirs}, and this is a {ours}");
            return Err(other(text));
        }
        Versioned::deserialize(&self.state)
            .map_err(|error| other(error.to_string()))
    }
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

    /// Gives a device that has a thread of its own what `take` makes for its
    /// index. From now on this thread takes the device's input.
    fn let_take(&self, _take: &dyn Fn(usize) -> TakeInput) {}

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

    /// The Guest goes on from a snapshot: its network interfaces are connected
    /// to something else. Does not block.
    fn links_changed(&self) {}

    /// Takes away what is behind a device, while the Guest runs: the `nth` of
    /// this `kind`, a name in [`Self::counters`], from 0 on. Its files are
    /// closed, but for the copies of [`Self::inputs`]. The Guest gets errors,
    /// or a network has no link. Returns the index of the device; `None` if
    /// there is none, or it cannot be taken away. May block as long as requests
    /// do.
    fn detach(&self, kind: &str, nth: usize) -> Option<usize>;

    /// How a device was damaged from outside, if the Guest has to die of it.
    fn damage(&self) -> Option<String>;

    /// The counts of each device, with its type. A device that another thread
    /// is using has none.
    fn counters(&self) -> Vec<(&'static str, NamedCounts)>;

    /// The state of the bus and of all devices. The Guest must stand still, and
    /// no thread may call [`Self::handle_input`] meanwhile. The Guest's memory
    /// and its interrupts are saved afterwards, because disks finish their
    /// requests first. May block.
    fn state(&self) -> TransportState;

    /// Why the last [`Self::state`] is not whole, with the cure.
    fn obstacle(&self) -> Option<String> {
        None
    }

    /// Goes on with `state`, which was taken of a bus with the same devices. To
    /// be called once at most, before the Guest runs and after its memory was
    /// filled.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then the bus cannot be used any more.
    fn restore(&self, state: &TransportState) -> Result<(), RestoreError>;

    /// Ends all devices and waits until they have finished. Returns the counts
    /// of each, with its type. A device that another thread is using is
    /// skipped: that is a console whose input another process took, and it has
    /// nothing to finish.
    fn finish(&self) -> Vec<(&'static str, NamedCounts)>;
}
