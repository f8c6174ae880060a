//! What is known of patches beside the ledger, in the state that views share.
//!
//! It says which sites get no patch, which pages have patched copies, and which
//! trampolines are in use. All of it is plain cells, and zero is the right
//! beginning for each of them. What each entry of the Host reads comes first.

use super::limits::{MAX_DIRECT, MAX_FLIPS, MAX_REFUSED, MAX_UNPATCHED};
use core::cell::Cell;
use lg_wire::state::MAX_COPIES;

/// What is known of patches.
#[repr(C)]
pub struct Patches {
    /// A bit for each page that has a patched copy, by its number modulo 64: a
    /// page whose bit is clear has none.
    pub copy_filter: Cell<u64>,
    /// Copies whose pages were written to: a bit each.
    pub stale_copies: Cell<u32>,
    /// How many patched copies were ever made.
    pub copy_count: Cell<u32>,
    /// Where in its page the entry page's far call is; 0 = there is none. Bits
    /// 30 and 31 say which form the page has.
    pub entry_call: Cell<u32>,
    /// How often an answer has come while the Guest had interrupts off.
    pub answers: Cell<u32>,
    /// Direct calls in patched copies.
    pub direct: [DirectCall; MAX_DIRECT],
    /// The pages that have patched copies: their physical addresses, or 0.
    pub copies: [Cell<u32>; MAX_COPIES],
    /// Where each patched copy is mapped: its page, 0 if nowhere, `u32::MAX` if
    /// at several places.
    pub copy_places: [Cell<u32>; MAX_COPIES],
    /// System calls so far when each patched copy was made.
    pub copy_births: [Cell<u64>; MAX_COPIES],
    /// Pages whose patched copies did not live long: address, and how many of
    /// them in the low bits.
    pub flips: [Cell<u32>; MAX_FLIPS],
    /// Where in `flips` the next one goes.
    pub next_flip: Cell<u32>,
    /// How many sites were refused.
    pub refused_count: Cell<u32>,
    /// Sites that are jumped into, or that have no room: where their `int` is.
    pub refused: [Cell<u32>; MAX_REFUSED],
    /// `int $0x80` that must not be patched: their physical addresses.
    pub unpatched: [Cell<u32>; MAX_UNPATCHED],
    /// Trampolines made so far for the Guest's kernel.
    pub trampolines: Cell<u32>,
    /// And for its user code.
    pub user_trampolines: Cell<u32>,
}

/// A direct call ([`direct`](super::direct)). All zero is none.
#[repr(C)]
pub struct DirectCall {
    /// The patched copy that it is in, plus one.
    pub(super) copy: Cell<u32>,
    /// Where its `int $0x80` is.
    pub(super) site: Cell<u32>,
    /// Where its trampoline slot is.
    pub(super) slot: Cell<u32>,
    /// Where its trampoline is.
    pub(super) trampoline: Cell<u32>,
}
