//! The port: one page in which a Launcher shows where its Guest receives.
//!
//! Every Launcher on a network maps the port of every other. It holds the
//! Guest's bindings that lie in the network's page, a lock so that two senders
//! do not fill one buffer, and a word with a bit for each binding for which
//! something has arrived. This module has the layout only; the Launcher's code
//! is in `transport/keys/lan/port.rs`.

use core::sync::atomic::AtomicU32;
use lg_abi::dma::LGUEST_MAX_DMA;
use lg_abi::page::PAGE_SIZE;

/// In [`PortPage::keys`]: there is no binding here.
pub const NO_KEY: u32 = u32::MAX;

/// What the page holds. Other processes write all of it.
#[repr(C)]
pub struct PortPage {
    /// The ticket of the lock's holder; 0 = the lock is free.
    pub lock: AtomicU32,
    /// A bit for each binding for which something has arrived.
    pub arrived: AtomicU32,
    /// 1 while the owner sleeps on this word. A futex.
    pub asleep: AtomicU32,
    /// The address of a buffer that a sender could not use, ...
    pub blamed: AtomicU32,
    /// ... and 1 if the owner has not looked at it.
    pub blames: AtomicU32,
    /// Zero.
    pub reserved: [AtomicU32; 11],
    /// Offset of each binding's key in the network's page.
    pub keys: [AtomicU32; LGUEST_MAX_DMA],
    /// The bindings.
    pub bindings: [PortBinding; LGUEST_MAX_DMA],
}

/// The rest of a binding.
#[repr(C)]
pub struct PortBinding {
    /// Physical address of the array of buffers.
    pub dmas: AtomicU32,
    /// How many there are.
    pub num: AtomicU32,
    /// Transfers so far.
    pub cursor: AtomicU32,
    /// Zero.
    pub reserved: AtomicU32,
}

const _: () = assert!(size_of::<PortPage>() <= PAGE_SIZE as usize);
