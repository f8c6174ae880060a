//! What Launcher and Host share of a disk whose reads the Host answers.
//!
//! A disk's virtqueue belongs to the Launcher, which *lends* it to the Host
//! while no request of it is in progress: it writes where the ring is and how
//! far the ring was used, and sets the bit [`LENT`]. The Host may then answer
//! reads, and counts on in the same word. The Launcher takes the ring back when
//! it is notified, and whenever it does anything else with the queue. It does
//! so only while the Host waits for it, or while the Guest is held. So nobody
//! waits here, and a word has one writer at a time.
//!
//! A Guest that has taken over its Host may write any of these words. Any
//! position is one that its driver could have caused, and the counts are for
//! statistics only.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Disks of a Guest that its Host can read. Requests of the others go to the
/// Launcher.
pub const MAX_DISKS: usize = 8;

/// The most pieces of memory in a read that the Host answers.
pub const MAX_PIECES: usize = 64;

/// In [`DiskWords::position`]: the Host has the ring.
const LENT: u32 = 1 << 16;

/// The words of one disk. All of them start as zero: it is not lent.
#[derive(Default)]
#[repr(C)]
pub struct DiskWords {
    /// How many chains of the ring were used, modulo 2^16, and [`LENT`].
    position: AtomicU32,
    /// 1 = the disk was removed: views close its file.
    removed: AtomicU32,
    /// Physical address of the descriptors.
    descriptors: AtomicU32,
    /// Physical address of the ring of available chains.
    available: AtomicU32,
    /// Physical address of the ring of used chains.
    used: AtomicU32,
    /// How many descriptors there are.
    size: AtomicU32,
    /// The interrupt of the queue.
    irq: AtomicU32,
    /// How many sectors the disk has.
    sectors: AtomicU32,
    /// Reads that the Host has answered since the Launcher last asked.
    reads: AtomicU64,
    /// The bytes of these reads.
    bytes: AtomicU64,
}

/// A lent ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LentRing {
    /// How many chains were used, modulo 2^16: taken and answered.
    pub position: u16,
    /// Physical address of the descriptors.
    pub descriptors: u32,
    /// Physical address of the ring of available chains.
    pub available: u32,
    /// Physical address of the ring of used chains.
    pub used: u32,
    /// How many descriptors there are.
    pub size: u32,
    /// The interrupt of the queue.
    pub irq: u32,
    /// How many sectors the disk has.
    pub sectors: u32,
}

impl DiskWords {
    /// The Launcher lends the ring.
    pub fn lend(&self, ring: &LentRing) {
        for (word, value) in [
            (&self.descriptors, ring.descriptors),
            (&self.available, ring.available),
            (&self.used, ring.used),
            (&self.size, ring.size),
            (&self.irq, ring.irq),
            (&self.sectors, ring.sectors),
            // The Host looks at this one first.
            (&self.position, LENT | u32::from(ring.position)),
        ] {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// The Launcher takes the ring back. Returns how many chains of it were
    /// used, as the Host says.
    pub fn take_back(&self) -> u16 {
        low_half(self.position.swap(0, Ordering::SeqCst))
    }

    /// The ring, if the Host has it and the disk is still there.
    #[must_use]
    pub fn lent(&self) -> Option<LentRing> {
        let position = self.position.load(Ordering::SeqCst);
        if position & LENT == 0 || self.is_removed() {
            return None;
        }
        let word = |word: &AtomicU32| word.load(Ordering::SeqCst);
        Some(LentRing {
            position: low_half(position),
            descriptors: word(&self.descriptors),
            available: word(&self.available),
            used: word(&self.used),
            size: word(&self.size),
            irq: word(&self.irq),
            sectors: word(&self.sectors),
        })
    }

    /// The Host has answered a read of so many bytes. So many chains of the
    /// ring are used now.
    pub fn note_answered(&self, position: u16, bytes: u32) {
        let word = LENT | u32::from(position);
        self.position.store(word, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes.into(), Ordering::Relaxed);
    }

    /// Reads that the Host has answered since this was last called, and their
    /// bytes.
    pub fn take_counts(&self) -> (u64, u64) {
        let reads = self.reads.swap(0, Ordering::Relaxed);
        (reads, self.bytes.swap(0, Ordering::Relaxed))
    }

    /// The Launcher has removed the disk. The Host does not read it any more.
    pub fn remove(&self) {
        self.removed.store(1, Ordering::SeqCst);
    }

    /// Whether the disk was removed.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst) != 0
    }
}

/// The position in a word that also has [`LENT`].
fn low_half(word: u32) -> u16 {
    let [low, high, ..] = word.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: LentRing = LentRing {
        position: 0xFFFF,
        descriptors: 0x1000,
        available: 0x2000,
        used: 0x3000,
        size: 256,
        irq: 3,
        sectors: 100,
    };

    #[test]
    fn the_host_has_a_ring_until_it_is_taken_back() {
        let disk = DiskWords::default();
        assert_eq!(disk.lent(), None);
        disk.lend(&RING);
        assert_eq!(disk.lent(), Some(RING));
        disk.note_answered(0, 512);
        let position = 0;
        assert_eq!(disk.lent(), Some(LentRing { position, ..RING }));
        disk.note_answered(1, 1024);
        assert_eq!(disk.take_counts(), (2, 1536));
        assert_eq!(disk.take_counts(), (0, 0));
        assert_eq!(disk.take_back(), 1);
        assert_eq!(disk.lent(), None);
    }

    #[test]
    fn a_disk_that_was_removed_is_not_lent_any_more() {
        let disk = DiskWords::default();
        disk.lend(&RING);
        disk.remove();
        assert_eq!(disk.lent(), None);
        disk.lend(&RING);
        assert_eq!(disk.lent(), None);
        assert!(disk.is_removed());
    }
}
