//! The outbox: memory in which a Guest posts frames for other Guests.
//!
//! A Guest on a shared network has one outbox. Its views and its Launcher map
//! it. An outbox has a page of words and then a *ring* for each of the first
//! slots of the network. The Launcher of the Guest in that slot receives the
//! file, and opens the ring while its Guest has buffers bound to the slot's
//! usual key. Then the Host posts a frame with a copy and a store, and no
//! request to the Launcher is needed.
//!
//! This module has the layout only. The sender's code is in the Host
//! (`lg_host::outbox`), the receiver's in the Launcher
//! (`transport/keys/lan/inbox.rs`). Both check what they read here: a hostile
//! Guest may write anything, and damages only the frames that it sends.

use lg_abi::page::PAGE_SIZE;

/// Slots of a network that have a ring. The Launcher carries frames to the
/// other slots.
pub const RINGS: u32 = 64;

/// Frames in a ring.
pub const FRAMES: u32 = 128;

/// Bytes from one frame to the next.
pub const STRIDE: u32 = 2048;

/// Where a frame's bytes begin; its length is the first word before them.
const BODY: u32 = 16;

/// Bytes of the longest frame.
pub const LONGEST: u32 = STRIDE - BODY;

/// Bytes of a ring: a page of words, and the frames.
pub const RING_SIZE: u32 = PAGE_SIZE + FRAMES * STRIDE;

/// Bytes of an outbox: a page of words, and the rings. Only what is used takes
/// memory.
pub const OUTBOX_SIZE: u32 = PAGE_SIZE + RINGS * RING_SIZE;

/// Where in an outbox the ring of `slot` is, if it has one.
#[must_use]
pub const fn ring(slot: u32) -> Option<u32> {
    if slot < RINGS {
        Some(PAGE_SIZE + slot * RING_SIZE)
    } else {
        None
    }
}

/// Offset of a word in the first page of an outbox: 1 while the thread that
/// fetches frames for *this* Guest sleeps and is to be woken when the Guest has
/// nothing to do. That thread sets it, and the Host clears it and wakes the
/// thread. A futex.
pub const WAKE_WHEN_IDLE: u32 = 0;

/// Offsets of a ring's words, each in a cache line of its own.
pub mod word {
    /// The longest frame that the receiver takes; 0 = the ring is closed. The
    /// receiver writes it.
    pub const ROOM: u32 = 0;
    /// How many frames were fetched so far, modulo 2^32. The receiver writes
    /// it.
    pub const FETCHED: u32 = 64;
    /// 0 while the receiver is awake. Otherwise, how many frames must wait
    /// before the sender wakes it: 1, or more while a stream goes on. The
    /// receiver sets it, the sender clears it. A futex.
    pub const ASLEEP: u32 = 128;
    /// How many frames were posted so far, modulo 2^32. The sender writes it.
    pub const POSTED: u32 = 192;
}

/// Where in a ring frame number `n` has its length, and its bytes.
#[must_use]
pub const fn frame(n: u32) -> (u32, u32) {
    let at = PAGE_SIZE + n % FRAMES * STRIDE;
    (at, at + BODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_of_the_last_ring_ends_with_the_outbox() {
        let (length, body) = frame(FRAMES - 1);
        assert_eq!(length + BODY, body);
        let last = ring(RINGS - 1).unwrap();
        assert_eq!(last + body + LONGEST, OUTBOX_SIZE);
        assert_eq!(ring(RINGS), None);
        assert_eq!(frame(FRAMES), frame(0));
    }
}
