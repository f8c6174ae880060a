//! Reads of a disk that the Host answers, without a request to the Launcher.
//!
//! The trip to the Launcher costs two switches of processes, which is half of a
//! read of a page that the kernel has in memory. So a view has the file of such
//! a disk, to read only, and the Launcher lends the disk's virtqueue to the
//! Host while no request of it is in progress ([`lg_wire::disk`]). The driver's
//! notification then comes here first.
//!
//! Nothing is decided here that the Launcher would decide in another way.
//! Another request than a read, a chain of an unusual form, an address or a
//! sector that does not exist, bytes that the kernel does not have in memory:
//! the chain stays where it is, and the notification goes to the Launcher. So
//! the Launcher is the only one that answers with an error, waits for a device,
//! or ends a Guest because of its ring.
//!
//! A ring usually needs barriers between its words. Here the driver stands
//! still while its ring is used.

use crate::address::GuestPhys;
use crate::fast_path;
use crate::host::Host;
use core::sync::atomic::Ordering;
use lg_abi::gen2::device::{BLOCK_IN, BLOCK_OK, BlockHeader, RING_SIZE};
use lg_abi::shared::LGUEST_IRQS;
use lg_wire::disk::{LentRing, MAX_PIECES};
use lg_wire::state::page_bits;
use lg_wire::trace::Kind;
use lg_wire::turns;

/// The most bytes that are read for one notification. The kernel of the machine
/// copies them meanwhile, and the Guest takes no interrupt.
const MOST_BYTES: u32 = 1 << 20;

/// Bytes of a descriptor: address (8), length (4), flags (2), next (2).
const DESCRIPTOR: u32 = 16;

/// Bytes of a used element.
const USED_ELEMENT: u32 = 8;

/// Flags of a descriptor: there is a next one; the device writes to it.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// In the flags of the available ring: the Guest wants no interrupt.
const NO_INTERRUPT: u16 = 1;

/// Bytes of a header that mean something. Linux 2.6.24 has more.
#[expect(clippy::cast_possible_truncation, reason = "16")]
const HEADER: u32 = size_of::<BlockHeader>() as u32;

/// A piece of the Guest's memory: address and bytes.
type Piece = (GuestPhys, u32);

/// The pieces of a read, which are filled in anew for each.
type Pieces = [Piece; MAX_PIECES];

/// A read as its driver has described it.
struct Read {
    /// The first descriptor, which names the chain.
    head: u16,
    /// Where in the file it begins.
    offset: u64,
    /// How many pieces it has.
    count: usize,
    bytes: u32,
    /// Where the answer goes.
    answer: GuestPhys,
}

/// A descriptor.
#[derive(Clone, Copy)]
struct Described {
    address: GuestPhys,
    bytes: u32,
    flags: u16,
    next: u16,
}

impl Described {
    fn is_written(self) -> bool {
        self.flags & WRITE != 0
    }

    fn is_last(self) -> bool {
        self.flags & NEXT == 0
    }
}

impl Host<'_> {
    /// A driver has notified a queue. If that is of a disk whose ring `is_it`,
    /// answers its reads. Returns whether nothing is left for the Launcher.
    pub fn answer_reads(&mut self, is_it: impl Fn(&LentRing) -> bool) -> bool {
        let vm = self.vm;
        if vm.slow_paths.get() & fast_path::DISK_READS != 0 {
            return false;
        }
        let mut lent = vm.wire.disks.iter().enumerate();
        let found = lent.find_map(|(disk, words)| {
            words.lent().filter(|ring| is_it(ring)).map(|r| (disk, r))
        });
        match found {
            Some((disk, ring)) if is_possible(&ring) => {
                self.answer_all(disk, ring) == Some(0)
            }
            _ => false,
        }
    }

    /// Answers reads as long as they are plain. Returns how many chains wait
    /// then; `None` for a ring that is not in memory, or if there was nothing
    /// to do.
    fn answer_all(&mut self, disk: usize, mut ring: LentRing) -> Option<u16> {
        let mut pieces = [(GuestPhys(0), 0); MAX_PIECES];
        let mut room = MOST_BYTES;
        // A ring cannot have more chains at a time.
        for answered in 0..=ring.size {
            let waiting = self.waiting(&ring)?;
            if waiting == 0 && answered == 0 {
                return None;
            }
            if waiting == 0 || answered == ring.size {
                return Some(waiting);
            }
            room -= self.answer_next(disk, &ring, room, &mut pieces)?;
            ring.position = ring.position.wrapping_add(1);
        }
        None
    }

    /// Answers the next chain, if that is a read of at most `room` bytes.
    /// Returns its bytes.
    fn answer_next(
        &mut self,
        disk: usize,
        ring: &LentRing,
        room: u32,
        pieces: &mut Pieces,
    ) -> Option<u32> {
        let vm = self.vm;
        let read = self.next_read(ring, room, pieces)?;
        let pieces = pieces.get(..read.count)?;
        let is_read = self.world.read_disk(disk, read.offset, pieces);
        self.note_pieces(pieces);
        if !is_read {
            return None;
        }
        self.store_bytes(read.answer, &[BLOCK_OK]).ok()?;
        let slot = u32::from(ring.position) % ring.size;
        let element = [u32::from(read.head), read.bytes + 1];
        let used = GuestPhys(ring.used);
        self.store_words(used.plus(4 + USED_ELEMENT * slot), element)
            .ok()?;
        let position = ring.position.wrapping_add(1);
        self.store_bytes(used.plus(2), &position.to_le_bytes())
            .ok()?;
        if let Some(words) = vm.wire.disks.get(disk) {
            words.note_answered(position, read.bytes);
        }
        vm.counters.disk_reads.count();
        if self.half(GuestPhys(ring.available))? & NO_INTERRUPT == 0 {
            turns::raise(&vm.wire.irqs, ring.irq);
            let irq = u16::try_from(ring.irq).unwrap_or(0);
            self.trace(Kind::Raised, irq, [BY_A_READ, 0, 0]);
        }
        Some(read.bytes)
    }

    /// How many chains wait; `None` if that cannot be.
    fn waiting(&self, ring: &LentRing) -> Option<u16> {
        let index = self.half(GuestPhys(ring.available).plus(2))?;
        let waiting = index.wrapping_sub(ring.position);
        (u32::from(waiting) <= ring.size).then_some(waiting)
    }

    /// The next chain, if it is a read of at most `room` bytes in the usual
    /// form: a header, the data, and a byte for the answer.
    fn next_read(
        &self,
        ring: &LentRing,
        room: u32,
        pieces: &mut Pieces,
    ) -> Option<Read> {
        let slot = u32::from(ring.position) % ring.size;
        let at = GuestPhys(ring.available).plus(4 + 2 * slot);
        let head = self.half(at)?;
        let first = self.described(ring, head)?;
        if first.is_written() || first.is_last() || first.bytes < HEADER {
            return None;
        }
        let header: BlockHeader = self.memory.object(first.address).ok()?;
        if header.kind != BLOCK_IN {
            return None;
        }
        let mut read = Read {
            head,
            offset: offset(header.sector)?,
            count: 0,
            bytes: 0,
            answer: GuestPhys(0),
        };
        let mut next = first.next;
        // With a loop in it, a chain has too many pieces.
        loop {
            let piece = self.described(ring, next)?;
            if !piece.is_written() {
                return None;
            }
            if piece.is_last() {
                let usual = piece.bytes == 1 && read.bytes > 0;
                read.answer = piece.address;
                return (usual && read.is_on(ring.sectors)).then_some(read);
            }
            if piece.bytes == 0 || piece.bytes > room - read.bytes {
                return None;
            }
            *pieces.get_mut(read.count)? = (piece.address, piece.bytes);
            read.count += 1;
            read.bytes += piece.bytes;
            next = piece.next;
        }
    }

    /// Descriptor `index`, if it exists and its memory does.
    fn described(&self, ring: &LentRing, index: u16) -> Option<Described> {
        let index = u32::from(index);
        if index >= ring.size {
            return None;
        }
        let at = GuestPhys(ring.descriptors).plus(DESCRIPTOR * index);
        let [low, high, bytes, rest] = self.memory.words(at).ok()?;
        let address = GuestPhys(low);
        self.memory.check(address, bytes).ok()?;
        #[expect(clippy::cast_possible_truncation, reason = "two halves")]
        let (flags, next) = (rest as u16, (rest >> 16) as u16);
        (high == 0).then_some(Described {
            address,
            bytes,
            flags,
            next,
        })
    }

    /// The kernel has written to these pieces: their patched copies are
    /// compared with their pages before the Guest goes on.
    fn note_pieces(&self, pieces: &[Piece]) {
        let pages = pieces.iter().map(|&(at, bytes)| page_bits(at.0, bytes));
        let pages = pages.fold(0, |all, bits| all | bits);
        if pages & self.vm.patches.copy_filter.get() != 0 {
            let written = &self.vm.wire.written_pages;
            written.fetch_or(pages, Ordering::SeqCst);
        }
    }

    fn half(&self, at: GuestPhys) -> Option<u16> {
        self.memory.object(at).ok()
    }
}

/// In the first word of [`Kind::Raised`]: by a read that the Host has answered.
const BY_A_READ: u32 = 2;

impl Read {
    /// Whether it lies on a disk of so many sectors.
    fn is_on(&self, sectors: u32) -> bool {
        let end = self.offset.checked_add(self.bytes.into());
        end.is_some_and(|end| end <= u64::from(sectors) * SECTOR)
    }
}

/// Bytes of a sector.
const SECTOR: u64 = lg_abi::device::SECTOR_SIZE as u64;

/// Where in the file a sector begins, whose number has a low and a high word.
fn offset([low, high]: [u32; 2]) -> Option<u64> {
    (u64::from(high) << 32 | u64::from(low)).checked_mul(SECTOR)
}

/// Whether there can be such a ring. Another view may have written anything
/// into the words that describe it.
fn is_possible(ring: &LentRing) -> bool {
    let size = ring.size;
    size.is_power_of_two()
        && size <= u32::from(RING_SIZE)
        && ring.irq < LGUEST_IRQS
}

#[cfg(test)]
mod tests;
