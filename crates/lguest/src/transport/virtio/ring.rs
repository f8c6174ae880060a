//! A virtqueue as the device sees it: the split ring in the Guest's memory.
//!
//! The Guest writes descriptors and makes chains of them available. The device
//! takes a chain, copies what it describes, and answers with a used element.
//! Every word is read once and checked. A chain cannot have more descriptors
//! than the queue, so a loop is found. A Guest that breaks the rules of a ring
//! is killed (virtio 0.9.5, section 2.3; docs/abi.md, section 9).

use crate::devices::Violation;
use crate::memory::{GuestMemory, Section};
use lg_abi::gen2::device::{RING_ALIGN, RING_SIZE};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{Ordering, fence};

/// Bytes of a descriptor: address (8), length (4), flags (2), next (2).
const DESCRIPTOR: u32 = 16;

/// Bytes of a used element: index of the chain (4), bytes written (4).
const USED_ELEMENT: u32 = 8;

/// Flags of a descriptor: there is a next one; the device writes to it.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// In the flags of the available ring: the Guest wants no interrupt.
const NO_INTERRUPT: u16 = 1;

/// Where the parts of a ring of generation 2 are, from its beginning.
const AVAILABLE: u32 = DESCRIPTOR * RING_SIZE as u32;
const USED: u32 =
    (AVAILABLE + 4 + 2 * RING_SIZE as u32 + 2).next_multiple_of(RING_ALIGN);

/// Bytes of a ring of generation 2.
pub const RING_BYTES: u32 = (USED + 4 + USED_ELEMENT * RING_SIZE as u32 + 2)
    .next_multiple_of(RING_ALIGN);

/// The device's side of a virtqueue.
pub(super) struct Ring {
    memory: GuestMemory,
    at: Place,
    position: Position,
}

/// Where the parts of a ring are: physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// How many descriptors there are: a power of two, at most [`RING_SIZE`].
    pub(super) size: u16,
    /// The descriptors.
    pub(super) descriptors: u32,
    /// The ring of available chains.
    pub(super) available: u32,
    /// The ring of used chains.
    pub(super) used: u32,
}

impl Place {
    /// A ring of generation 2 at `at`.
    pub(super) fn of_generation_2(at: u32) -> Self {
        Self {
            size: RING_SIZE,
            descriptors: at,
            available: at + AVAILABLE,
            used: at + USED,
        }
    }

    /// Whether such a ring can be, and lies in memory whole.
    pub(super) fn is_in(&self, memory: &GuestMemory) -> bool {
        let size = u32::from(self.size);
        let is_there = |at: u32, align: u32, len: u32| {
            at.is_multiple_of(align) && memory.section(at, len).is_ok()
        };
        size.is_power_of_two()
            && self.size <= RING_SIZE
            && is_there(self.descriptors, DESCRIPTOR, DESCRIPTOR * size)
            && is_there(self.available, 2, 4 + 2 * size + 2)
            && is_there(self.used, 4, 4 + USED_ELEMENT * size + 2)
    }
}

/// How far the device has come in a ring. Both numbers wrap around.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
pub(super) struct Position {
    /// How many chains were taken so far.
    taken: u16,
    /// How many were answered.
    used: u16,
}

impl Position {
    /// So many chains were taken, and all of them answered.
    pub(super) fn all_answered(count: u16) -> Self {
        Self {
            taken: count,
            used: count,
        }
    }

    /// How many chains were used, if all that were taken were answered.
    pub(super) fn if_all_answered(self) -> Option<u16> {
        (self.taken == self.used).then_some(self.used)
    }
}

/// A chain of descriptors that was taken from a ring.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The index of its first descriptor, by which the ring names it.
    head: u16,
    /// What the Guest has written there.
    pub(super) readable: Vec<Section>,
    /// What the device may write.
    pub(super) writable: Vec<Section>,
}

impl Ring {
    /// The ring at `at`, of which nothing has been used.
    pub(super) fn new(memory: GuestMemory, at: Place) -> Self {
        Self {
            memory,
            at,
            position: Position::default(),
        }
    }

    /// Physical address of the descriptors, with which a ring of generation 2
    /// begins: what such a Guest notifies about.
    pub(super) fn address(&self) -> u32 {
        self.at.descriptors
    }

    /// The ring is elsewhere from now on.
    pub(super) fn put(&mut self, at: Place) {
        self.at = at;
    }

    /// How many descriptors there are.
    pub(super) fn size(&self) -> u16 {
        self.at.size
    }

    /// Where it is.
    pub(super) fn place(&self) -> Place {
        self.at
    }

    /// How far the device has come.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Goes on with a ring in which a device had come to `position`.
    pub(super) fn go_on_at(&mut self, position: Position) {
        self.position = position;
    }

    /// The Guest has reset its device: everything starts anew.
    pub(super) fn reset(&mut self) {
        self.position = Position::default();
    }

    /// Takes the next chain, if there is one.
    ///
    /// # Errors
    ///
    /// A [`Violation`] for a bad ring or chain.
    pub(super) fn take(&mut self) -> Result<Option<Chain>, Violation> {
        if self.available()? == 0 {
            return Ok(None);
        }
        // The Guest has written the chain before it wrote the index.
        fence(Ordering::SeqCst);
        let slot = u32::from(self.position.taken % self.at.size);
        let head = self.half(self.at.available + 4 + 2 * slot)?;
        let chain = self.chain(head)?;
        self.position.taken = self.position.taken.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts the chain that was taken last back: it is taken again.
    pub(super) fn put_back(&mut self) {
        self.position.taken = self.position.taken.wrapping_sub(1);
    }

    /// Answers chains, each with the bytes that went into it. The driver sees
    /// all answers or none. Returns whether the Guest wants an interrupt.
    ///
    /// # Errors
    ///
    /// A [`Violation`], where the ring is not in memory.
    pub(super) fn answer(
        &mut self,
        chains: impl Iterator<Item = (u16, u32)>,
    ) -> Result<bool, Violation> {
        let put = |at, bytes: &[u8]| {
            self.memory.write(at, bytes).map_err(Violation::of)
        };
        for (chain, written) in chains {
            let slot = u32::from(self.position.used % self.at.size);
            let element = [u32::from(chain), written];
            let at = self.at.used + 4 + USED_ELEMENT * slot;
            put(at, zerocopy::IntoBytes::as_bytes(&element))?;
            self.position.used = self.position.used.wrapping_add(1);
        }
        // The elements are there before the index, and the index before we look
        // whether an interrupt is wanted.
        fence(Ordering::SeqCst);
        put(self.at.used + 2, &self.position.used.to_le_bytes())?;
        fence(Ordering::SeqCst);
        Ok(self.half(self.at.available)? & NO_INTERRUPT == 0)
    }

    /// How many chains wait.
    fn available(&self) -> Result<u16, Violation> {
        let waiting = self
            .half(self.at.available + 2)?
            .wrapping_sub(self.position.taken);
        if waiting > self.at.size {
            return Err(Violation(format!(
                "its ring at {:#x} says that {waiting} chains wait, and it has \
                 room for {}",
                self.at.descriptors, self.at.size
            )));
        }
        Ok(waiting)
    }

    fn chain(&self, head: u16) -> Result<Chain, Violation> {
        let mut chain = Chain {
            head,
            readable: Vec::new(),
            writable: Vec::new(),
        };
        let mut index = head;
        for _ in 0..self.at.size {
            if index >= self.at.size {
                return Err(self.bad("a descriptor that does not exist"));
            }
            let at = self.at.descriptors + DESCRIPTOR * u32::from(index);
            let mut words = [0_u32; 4];
            let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut words);
            self.memory.read(at, bytes).map_err(Violation::of)?;
            let [low, high, len, rest] = words;
            #[expect(clippy::cast_possible_truncation, reason = "two halves")]
            let (flags, next) = (rest as u16, (rest >> 16) as u16);
            if high != 0 {
                return Err(self.bad("memory above 4 GiB"));
            }
            let section =
                self.memory.section(low, len).map_err(Violation::of)?;
            if flags & WRITE != 0 {
                chain.writable.push(section);
            } else if chain.writable.is_empty() {
                chain.readable.push(section);
            } else {
                return Err(self.bad("data for the device after its answer"));
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = next;
        }
        Err(self.bad("a chain with a loop"))
    }

    fn bad(&self, what: &str) -> Violation {
        Violation(format!("its ring at {:#x} has {what}", self.at.descriptors))
    }

    fn half(&self, at: u32) -> Result<u16, Violation> {
        self.memory.read_object(at).map_err(Violation::of)
    }
}

impl Chain {
    /// The index that names the chain, for [`Ring::answer`].
    pub(super) fn head(&self) -> u16 {
        self.head
    }
}

#[cfg(test)]
mod tests;
