//! A virtqueue as its driver sees it: a split ring, filled by hand.
//!
//! The driver writes descriptors, makes chains of them available, and finds
//! used elements with the results (virtio 0.9.5, section 2.3). The drivers here
//! give each buffer descriptors of its own, so there is no list of free ones.
//! The crate `virtio-drivers` was looked at: it chooses
//! the memory and the sizes of its rings itself, and here the Host does.

#![expect(unsafe_code, reason = "the ring is the device's, too")]

use crate::bus::{DeviceError, pci};
use crate::frame::Phys;
use crate::{hcall, irq, paging};
use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};
use lg_abi::gen2::device::RING_ALIGN;
use lg_abi::page::{PAGE_SHIFT, pages as whole_pages};

/// Bytes of a descriptor: address (8), length (4), flags (2), next (2).
const DESCRIPTOR: u32 = 16;

/// Bytes of a used element: head of the chain (4), bytes written (4).
const USED_ELEMENT: u32 = 8;

/// Flags of a descriptor: there is a next one; the device writes to it.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// In the flags of the available ring: the Guest wants no interrupt.
const NO_INTERRUPT: u16 = 1;

/// A virtqueue, as its device describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described {
    /// Where its ring is.
    pub(crate) ring: Phys,
    /// The descriptors in the ring.
    pub(crate) size: u16,
    /// Its interrupt.
    pub(crate) irq: u8,
    /// How the device learns of chains.
    pub(crate) doorbell: Doorbell,
}

/// How a device learns that there are chains in a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Doorbell {
    /// By NOTIFY with the address of the ring.
    Notify,
    /// By the number of the queue in a register.
    Register(pci::Register, u16),
}

/// A piece of memory in a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) at: Phys,
    pub(crate) bytes: u32,
    /// Whether the device writes there. Otherwise it reads.
    pub(crate) written: bool,
}

/// A virtqueue with its ring mapped.
pub(crate) struct Virtqueue {
    described: Described,
    ring: *mut u8,
    /// How many chains were made available so far, and how many used elements
    /// were taken. Both wrap around.
    offered: Cell<u16>,
    taken: Cell<u16>,
}

/// Where the available ring begins.
pub(crate) const fn available(size: u16) -> u32 {
    DESCRIPTOR * size as u32
}

/// Where the used ring begins.
pub(crate) const fn used(size: u16) -> u32 {
    (available(size) + 4 + 2 * size as u32 + 2).next_multiple_of(RING_ALIGN)
}

/// Pages of a ring with `size` descriptors.
pub(crate) const fn pages(size: u16) -> u32 {
    whole_pages(used(size) + 4 + USED_ELEMENT * size as u32 + 2)
}

impl Virtqueue {
    /// Maps the ring that `described` names.
    pub(crate) fn new(described: Described) -> Result<Self, DeviceError> {
        let Described { ring, size, .. } = described;
        if !size.is_power_of_two() {
            return Err(DeviceError::Failed);
        }
        let ring = paging::map_device(ring.0 >> PAGE_SHIFT, pages(size));
        Ok(Self {
            described,
            ring: ring.ok_or(DeviceError::OutOfMemory)?,
            offered: Cell::new(0),
            taken: Cell::new(0),
        })
    }

    /// A place in the ring, which `bytes` fit in.
    fn at<T>(&self, offset: u32) -> *mut T {
        let end = pages(self.described.size) << PAGE_SHIFT;
        assert!(offset + crate::word(size_of::<T>()) <= end);
        // SAFETY: inside the ring, as was just checked.
        unsafe { self.ring.add(offset as usize) }.cast()
    }

    fn put<T>(&self, offset: u32, value: T) {
        // SAFETY: inside the ring, and aligned: all offsets here are.
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }

    fn get<T: zerocopy::FromBytes>(&self, offset: u32) -> T {
        // SAFETY: as in `put`. Any bytes are a `T`.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Makes a chain of `pieces`, with descriptors from `head` on, available.
    /// The device may use the memory until [`take`](Self::take) returns `head`.
    pub(crate) fn offer(&self, head: u16, pieces: &[Piece]) {
        let last = pieces.len().saturating_sub(1);
        for (n, (index, piece)) in (head..).zip(pieces).enumerate() {
            let at = DESCRIPTOR * u32::from(index);
            let next = if n < last { NEXT } else { 0 };
            let write = if piece.written { WRITE } else { 0 };
            self.put(at, piece.at.0);
            self.put(at + 4, 0_u32);
            self.put(at + 8, piece.bytes);
            self.put(at + 12, next | write);
            self.put(at + 14, index + 1);
        }
        let size = self.described.size;
        let offered = self.offered.get();
        let slot = u32::from(offered % size);
        self.put(available(size) + 4 + 2 * slot, head);
        // The chain is there before the index.
        fence(Ordering::SeqCst);
        self.offered.set(offered.wrapping_add(1));
        self.put(available(size) + 2, self.offered.get());
        fence(Ordering::SeqCst);
    }

    /// Asks the device not to interrupt when it has used a chain.
    pub(crate) fn without_interrupts(self) -> Self {
        self.put(available(self.described.size), NO_INTERRUPT);
        self
    }

    /// Tells the device that chains are available.
    pub(crate) fn notify(&self) {
        match self.described.doorbell {
            Doorbell::Notify => hcall::notify(self.described.ring),
            Doorbell::Register(register, index) => register.put(index),
        }
    }

    /// Whether the device has used a chain that was not taken yet.
    pub(crate) fn has_used(&self) -> bool {
        let used: u16 = self.get(used(self.described.size) + 2);
        used != self.taken.get()
    }

    /// Takes the next used element: the chain's head, and the bytes written.
    pub(crate) fn take(&self) -> Option<(u16, u32)> {
        if !self.has_used() {
            return None;
        }
        // The index is read before the element.
        fence(Ordering::SeqCst);
        let size = self.described.size;
        let slot = u32::from(self.taken.get() % size);
        let at = used(size) + 4 + USED_ELEMENT * slot;
        let head: u32 = self.get(at);
        self.taken.set(self.taken.get().wrapping_add(1));
        Some((u16::try_from(head).unwrap_or(u16::MAX), self.get(at + 4)))
    }

    /// Its interrupt.
    pub(crate) fn irq(&self) -> u8 {
        self.described.irq
    }

    /// Waits until the device has used a chain.
    pub(crate) async fn used(&self) {
        loop {
            let seen = irq::count(self.irq());
            if self.has_used() {
                return;
            }
            irq::after(self.irq(), seen).await;
        }
    }
}
