//! Networks: a page of Ethernet addresses, and frames that are sent to them.
//!
//! The page is an array of slots, one for each Guest on the network. A Guest
//! writes its address into its slot and binds receive buffers to the key that
//! belongs to it; who wants to send a frame looks the address up and sends to
//! that key. Two devices look like this. [`Lan`] (`--sharenet=FILE`) joins
//! Guests of different Launchers: the page is the first page of a file that
//! all of them map, and a frame is copied once, by the Launcher of the
//! sending Guest, from one Guest's memory into the other's. [`Tap`]
//! (`--tunnet=`) joins one Guest and the machine it runs on.
//!
//! In reading order: [`window`] is memory that a frame is copied between,
//! [`port`] is where a Launcher tells the others which buffers its Guest has
//! bound, [`slots`] is who is who in the page, [`rendezvous`] is how
//! Launchers meet, [`links`] is the thread that keeps them in touch, and
//! [`lan`] puts these together.

use super::Violation;
use crate::host::{Binding, BoundDma, Guest};
use crate::memory::GuestMemory;

mod window;

mod port;

mod slots;

mod rendezvous;

mod links;

mod lan;
pub use lan::{Lan, LanError};
pub use rendezvous::RendezvousError;
pub use slots::SlotsError;

mod tap;
pub use tap::{Tap, TapConfig, TapError};

#[cfg(test)]
mod tests;

/// What a network asks of the Host: a seam, so that networks can be tested
/// without any Guest.
pub trait Requests: Send + Sync {
    /// The Guest's memory.
    fn memory(&self) -> &GuestMemory;

    /// LHREQ_GETDMA: a free buffer that the Guest has bound to `key`.
    fn get_dma(&self, key: u32) -> Option<BoundDma>;

    /// LHREQ_IRQ: raises an interrupt. A dead Guest needs none.
    fn irq(&self, irq: u32);

    /// What the Guest has bound to keys inside the page at `page`.
    fn bindings_in(&self, page: u32) -> Vec<Binding>;

    /// Ends the Guest for `reason`.
    fn kill(&self, reason: Violation);
}

impl Requests for Guest {
    fn memory(&self) -> &GuestMemory {
        Self::memory(self)
    }

    fn get_dma(&self, key: u32) -> Option<BoundDma> {
        Self::get_dma(self, key).ok().flatten()
    }

    fn irq(&self, irq: u32) {
        // The one error left is that the Guest is dead: nobody to tell.
        let _ = Self::irq(self, irq);
    }

    fn bindings_in(&self, page: u32) -> Vec<Binding> {
        Self::bindings_in(self, page)
    }

    fn kill(&self, reason: Violation) {
        Self::kill(self, reason.to_string());
    }
}
