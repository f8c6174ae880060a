//! The bus and what hangs on it: every device has the same shape.
//!
//! A device is made from its configuration, holds its state, answers output
//! (a SEND_DMA of the Guest's) in [`Device::handle_output`], and watches a
//! file for input, which it carries into the Guest in
//! [`Device::handle_input`]. The bus places the devices in the descriptor
//! page in the order of the command line, the console last, and sends each
//! output to the device whose page holds the key.

pub mod net;

use crate::host::Guest;
use std::os::fd::BorrowedFd;

/// What stands in a device's descriptor.
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

/// The Guest broke the rules of a device: it dies for this reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// A device on the bus.
pub trait Device: Send {
    /// What to write into the descriptor. Does not change.
    fn description(&self) -> Description;

    /// The device has a place: fill its page, remember its interrupt. Called
    /// once, before the Guest runs.
    ///
    /// # Errors
    ///
    /// What the kernel says, where the page is in a file.
    fn place(&mut self, guest: &Guest, place: Place) -> std::io::Result<()>;

    /// The page that the views must take from another file, if there is one.
    fn shared_page(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The Guest sends the `lguest_dma` at physical address `dma` to `key`,
    /// which lies in this device's page. The Guest stands still meanwhile, so
    /// this must not wait for anything. Answers what belongs in the sender's
    /// `used_len`; the caller writes it.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn handle_output(&mut self, dma: u32, key: u32) -> Result<u32, Violation>;

    /// A file to watch: [`Self::handle_input`] is called when it is readable.
    fn input(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// There may be input. Returns when it would have to wait.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        Ok(Readiness::Wait)
    }

    /// The Guest has bound or unbound a buffer, or run: input that found no
    /// buffer may find one now.
    fn buffers_changed(&mut self) {}
}

/// What [`Device::handle_input`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Call again when the file is readable.
    Wait,
    /// There is input, but the Guest has no free buffer: call again soon,
    /// readable or not.
    NoBuffer,
    /// The file has ended or failed: never call again.
    Closed,
}
