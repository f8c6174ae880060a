//! The bus and what hangs on it: every device has the same shape.
//!
//! A device is made from its configuration, holds its state, answers output
//! (a SEND_DMA of the Guest's) in [`Device::handle_output`], and watches a
//! file for input, which it carries into the Guest in
//! [`Device::handle_input`]. The bus places the devices in the descriptor
//! page in the order of the command line, the console last, and sends each
//! output to the device whose page holds the key.

pub use crate::engine::Requests;
use crate::memory::{GuestMemory, Section};
use lg_abi::dma::Dma;
use lg_abi::page::PAGE_SIZE;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub mod console;

pub mod block;

pub mod net;

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

/// What the views map of a page that Guests share.
#[derive(Clone, Copy, Debug)]
pub struct PageFiles<'f> {
    /// The file whose first page it is.
    pub page: BorrowedFd<'f>,
    /// Memory for frames that are posted ([`lg_wire::outbox`]).
    pub outbox: BorrowedFd<'f>,
}

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
    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> std::io::Result<()>;

    /// The number that the Guest should have among its like, where the device
    /// knows better than chance what is unique.
    fn guest_id(&self) -> Option<u16> {
        None
    }

    /// The files that the views must map for it, if there are any.
    fn shared_page(&self) -> Option<PageFiles<'_>> {
        None
    }

    /// The Guest sends the `lguest_dma` at physical address `dma` to `key`,
    /// which lies in this device's page. The Guest stands still meanwhile, so
    /// this must not wait for anything: see [`Self::slow_output`]. Answers
    /// what belongs in the sender's `used_len`; the caller writes it.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn handle_output(&mut self, dma: u32, key: u32) -> Result<u32, Violation>;

    /// What [`Self::handle_output`] has left to do, if there is something that
    /// may block: done when nobody has hold of the device any more, before the
    /// Guest goes on.
    fn slow_output(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        None
    }

    /// A file to watch: [`Self::handle_input`] is called when it is readable.
    fn input(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// There may be input. Returns when it would have to wait, and when it has
    /// filled [`AT_ONCE`] buffers: other devices have input, too.
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

    /// The Guest is dead: finish what has been begun. May block.
    fn finish(&mut self) {}

    /// What has been done to the device from outside, of which its Guest must
    /// die.
    fn damage(&self) -> Option<String> {
        None
    }

    /// What the device has done so far, for the statistics.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// How many buffers one call of [`Device::handle_input`] fills.
pub const AT_ONCE: usize = 64;

/// What [`Device::handle_input`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Call again when the file is readable.
    Wait,
    /// There is more, and perhaps a buffer for it: call again when other
    /// devices have been looked after.
    More,
    /// There is input, but the Guest has no free buffer: call again when it
    /// may have one.
    NoBuffer {
        /// Some input has found a buffer in this call.
        took: bool,
        /// Call again also when the file is readable.
        watch: bool,
    },
    /// The file is in use by another process: call again after a while,
    /// readable or not.
    Taken,
    /// The file has ended or failed: never call again.
    Closed,
    /// The user wants out: end the Guest.
    Quit,
}

impl Readiness {
    /// The same, after a call before this one in which some input has found a
    /// buffer, or not.
    #[must_use]
    pub fn after(self, took_before: bool) -> Self {
        match self {
            Self::NoBuffer { took, watch } => Self::NoBuffer {
                took: took || took_before,
                watch,
            },
            other => other,
        }
    }
}

/// Copies the `lguest_dma` at `addr` out of the Guest and checks its sections:
/// each must lie inside one page that exists.
///
/// # Errors
///
/// A [`Violation`] that names the section.
pub fn sections(
    memory: &GuestMemory,
    addr: u32,
) -> Result<Vec<Section>, Violation> {
    let dma: Dma = memory
        .read_object(addr)
        .map_err(|bad| Violation(format!("bad dma: {bad}")))?;
    dma.sections()
        .map(|(addr, len)| {
            let len = u32::from(len);
            if addr % PAGE_SIZE + len > PAGE_SIZE {
                return Err(Violation(format!(
                    "bad dma: {addr:#x}+{len:#x} crosses a page"
                )));
            }
            memory
                .section(addr, len)
                .map_err(|bad| Violation(format!("bad dma: {bad}")))
        })
        .collect()
}

/// Bytes in all of `sections`.
#[must_use]
pub fn total(sections: &[Section]) -> u32 {
    sections.iter().map(|section| section.len()).sum()
}

/// A Guest of 16 pages, and 3 of devices, that runs nothing.
#[cfg(test)]
pub(crate) fn scripted() -> Arc<crate::engine::Scripted> {
    crate::engine::Scripted::new(GuestMemory::new(0x1_0000, 3).unwrap())
}
