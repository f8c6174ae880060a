//! A Guest for tests of virtio, and its driver's side of rings.

use super::ring::RING_BYTES;
use crate::engine::{Requests, Scripted};
use crate::memory::GuestMemory;
use lg_abi::gen2::device::{RING_ALIGN, RING_SIZE};
use std::sync::Arc;

/// Bytes of RAM.
pub(crate) const RAM: u32 = 0x10_0000;

/// Where the first ring is.
pub(crate) const RING: u32 = RAM + 0x1000;

/// A Guest that runs nothing, with room for `rings` rings.
pub(crate) fn guest(rings: u32) -> Arc<Scripted> {
    let pages = 1 + rings * RING_BYTES / 0x1000;
    Scripted::new(GuestMemory::new(RAM, pages).unwrap())
}

impl Scripted {
    pub(crate) fn put(&self, addr: u32, bytes: &[u8]) {
        self.memory().write(addr, bytes).unwrap();
    }
}

/// A driver's side of a ring.
pub(crate) struct Driver {
    guest: Arc<Scripted>,
    /// Where the ring is.
    pub(crate) at: u32,
    next: u16,
    offered: u16,
}

/// Where the parts of a ring are.
const AVAILABLE: u32 = 16 * RING_SIZE as u32;
const USED: u32 = 2 * RING_ALIGN;

impl Driver {
    pub(crate) fn new(guest: &Arc<Scripted>, at: u32) -> Self {
        Self {
            guest: guest.clone(),
            at,
            next: 0,
            offered: 0,
        }
    }

    /// The same driver in another Guest, whose memory is a copy.
    pub(crate) fn of(self, guest: &Arc<Scripted>) -> Self {
        Self {
            guest: guest.clone(),
            ..self
        }
    }

    /// Writes descriptor `index`.
    pub(crate) fn describe(
        &self,
        index: u16,
        (addr, len): (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.guest.put(self.at + 16 * u32::from(index), &bytes);
    }

    /// Makes the chain that begins at `head` available.
    pub(crate) fn offer_head(&mut self, head: u16) {
        let slot = u32::from(self.offered % RING_SIZE);
        let at = self.at + AVAILABLE + 4 + 2 * slot;
        self.guest.put(at, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.say_available(self.offered);
    }

    /// Writes the index of the available ring.
    pub(crate) fn say_available(&self, index: u16) {
        let at = self.at + AVAILABLE + 2;
        self.guest.put(at, &index.to_le_bytes());
    }

    /// Makes a chain of these pieces available: first what the device reads,
    /// then what it writes. Returns its head.
    pub(crate) fn offer(
        &mut self,
        readable: &[(u32, u32)],
        writable: &[(u32, u32)],
    ) -> u16 {
        let head = self.next;
        let all = readable.iter().map(|&piece| (piece, 0));
        let all = all.chain(writable.iter().map(|&piece| (piece, 2)));
        let count = readable.len() + writable.len();
        for (n, ((addr, len), write)) in all.enumerate() {
            let index = self.next;
            self.next = (self.next + 1) % RING_SIZE;
            let more = u16::from(n + 1 < count);
            let piece = (addr.into(), len);
            self.describe(index, piece, write | more, self.next);
        }
        self.offer_head(head);
        head
    }

    /// Whether an interrupt is wanted.
    pub(crate) fn want_interrupts(&self, wanted: bool) {
        let flags = u16::from(!wanted);
        self.guest.put(self.at + AVAILABLE, &flags.to_le_bytes());
    }

    /// The used elements so far: head and bytes.
    pub(crate) fn used(&self) -> Vec<(u32, u32)> {
        let index = self.guest.bytes(self.at + USED + 2, 2);
        let count = u32::from(u16::from_le_bytes([index[0], index[1]]));
        let element = |n: u32| {
            let slot = n % u32::from(RING_SIZE);
            let at = self.at + USED + 4 + 8 * slot;
            let word = |at| self.guest.memory().read_object(at).unwrap();
            (word(at), word(at + 4))
        };
        (0..count).map(element).collect()
    }
}
