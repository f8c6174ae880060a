//! A disk on the bus of virtio: one queue of requests.
//!
//! A request is a chain: a header, the data, and a byte for the answer. While
//! no request is in progress, the queue is lent to the Host, which answers
//! reads of bytes that are in memory (`lg_host::disk`).

use super::device::{Features, VirtioDevice};
use super::queue::{Queue, Taken};
use crate::devices::block::{
    Block, Completion, DiskOperation, DiskOutcome, DiskRequest,
};
use crate::devices::{NamedCounts, RestoreError, Violation};
use crate::memory::{
    Region, Section, behind, gather, scatter, total, truncated,
};
use crate::transport::{BusDevice, Detached, Device, DeviceState, SlowOutput};
use lg_abi::gen2::device::{
    BLOCK_FLUSH, BLOCK_GET_ID, BLOCK_HAS_FLUSH, BLOCK_IN, BLOCK_IO_ERROR,
    BLOCK_OK, BLOCK_OUT, BLOCK_READ_ONLY, BLOCK_SEG_MAX, BLOCK_UNSUPPORTED,
    BlockHeader, RING_SIZE, TYPE_BLOCK,
};
use std::io;
use zerocopy::FromBytes;

/// The most sections of data in a request: the ring, less header and answer.
const SEG_MAX: u32 = RING_SIZE as u32 - 2;

/// A disk on the bus.
pub struct VirtioDisk {
    block: Block,
    queue: Option<Queue>,
    /// Whether the driver sends flushes. Drivers before Linux 2.6.32 do not.
    flushes: bool,
}

impl VirtioDisk {
    /// `block`, to be put on a bus.
    #[must_use]
    pub fn new(block: Block) -> Self {
        Self {
            block,
            queue: None,
            flushes: false,
        }
    }

    fn submit(&mut self, queue: &Queue, taken: Taken) -> Result<(), Violation> {
        let memory = queue.guest().memory().clone();
        let region = memory.region();
        let chain = &taken.chain;
        let header = truncated(&chain.readable, HEADER);
        let header = gather(region, &header).map_err(Violation::of)?;
        let answer = last_byte(&chain.writable);
        let (Ok(header), Some(answer)) =
            (BlockHeader::read_from_bytes(&header), answer)
        else {
            let text = "a disk request without a header or without room for \
                        its answer";
            return Err(Violation(text.into()));
        };
        let [low, high] = header.sector.map(u64::from);
        let into = total(&chain.writable) - 1;
        let (operation, sector, sections) = match header.kind {
            BLOCK_IN => {
                let into = truncated(&chain.writable, into);
                (DiskOperation::Read, high << 32 | low, into)
            }
            BLOCK_OUT => {
                let from =
                    behind(&chain.readable, queue.formats().block_header);
                (DiskOperation::Write, high << 32 | low, from)
            }
            BLOCK_FLUSH => (DiskOperation::Flush, 0, Vec::new()),
            kind => {
                let named = kind == BLOCK_GET_ID;
                let room = truncated(&chain.writable, into.min(NAME));
                let (status, written) = match named {
                    true => (BLOCK_OK, put_name(region, &room)?),
                    false => (BLOCK_UNSUPPORTED, 0),
                };
                memory.write(answer, &[status]).map_err(Violation::of)?;
                return queue.answer(&taken, written + 1);
            }
        };
        let done = Box::new(Answer {
            queue: queue.clone(),
            taken,
            answer,
        });
        self.block.submit(DiskRequest {
            operation,
            sector,
            memory,
            sections,
            stable: !self.flushes,
            done,
        });
        Ok(())
    }
}

/// Bytes of a header that mean something. Linux 2.6.24 has more.
#[expect(clippy::cast_possible_truncation, reason = "16")]
const HEADER: u32 = size_of::<BlockHeader>() as u32;

/// Bytes of a disk's name.
const NAME: u32 = 20;

/// Puts the name that every disk has into `room`. Returns its bytes.
fn put_name(region: &Region, room: &[Section]) -> Result<u32, Violation> {
    let name = b"lguest disk\0\0\0\0\0\0\0\0\0";
    scatter(region, room, name).map_err(Violation::of)?;
    Ok(total(room))
}

/// Where the last byte of `sections` is.
fn last_byte(sections: &[Section]) -> Option<u32> {
    let last = sections.iter().rfind(|section| !section.is_empty())?;
    Some(last.addr() + last.len() - 1)
}

impl VirtioDisk {
    /// Counts what the Host has read. A Guest that has taken over its Host may
    /// have made it up.
    fn count_reads(&self) {
        let words = self
            .lent()
            .and_then(|(queue, n)| queue.guest().disk_words(n));
        if let Some(words) = words {
            let (reads, bytes) = words.take_counts();
            self.block.note_reads(reads, bytes);
        }
    }

    /// The queue, and the number by which the Host knows the disk, if it does.
    fn lent(&self) -> Option<(&Queue, usize)> {
        Some((self.queue.as_ref()?, self.block.number()?))
    }
}

impl Device for VirtioDisk {
    fn finish(&mut self) {
        self.count_reads();
        self.block.finish();
    }

    fn detach(&mut self) -> Detached {
        if let Some((queue, number)) = self.lent() {
            queue.guest().remove_disk(number);
        }
        self.count_reads();
        Device::detach(&mut self.block)
    }

    fn counters(&self) -> NamedCounts {
        self.count_reads();
        self.block.counters()
    }

    fn state(&mut self) -> DeviceState {
        self.count_reads();
        Device::state(&mut self.block)
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        Device::restore(&mut self.block, state)
    }
}

impl BusDevice for VirtioDisk {
    fn device(&mut self) -> &mut dyn Device {
        self
    }
}

impl VirtioDevice for VirtioDisk {
    fn kind(&self) -> u8 {
        TYPE_BLOCK
    }

    fn queues(&self) -> u8 {
        1
    }

    fn features(&self) -> Features {
        let read_only = u32::from(self.block.is_read_only());
        1 << BLOCK_SEG_MAX | 1 << BLOCK_HAS_FLUSH | read_only << BLOCK_READ_ONLY
    }

    /// Capacity in sectors (8 bytes), the largest section (4, not offered),
    /// and the most sections (4).
    fn config(&self) -> Vec<u8> {
        let capacity = u64::from(self.block.sectors()).to_le_bytes();
        [&capacity[..], &[0; 4], &SEG_MAX.to_le_bytes()].concat()
    }

    fn place(&mut self, queues: Vec<Queue>) -> io::Result<()> {
        self.queue = queues.into_iter().next();
        Ok(())
    }

    fn reset(&mut self) {
        self.block.cancel();
    }

    fn accepted(&mut self, features: Features) {
        self.flushes = features & 1 << BLOCK_HAS_FLUSH != 0;
    }

    fn notify(&mut self, _: usize) -> Result<Option<SlowOutput>, Violation> {
        if let Some(queue) = self.queue.clone() {
            while let Some(taken) = queue.take()? {
                self.submit(&queue, taken)?;
            }
            if let Some(number) = self.block.number()
                && self.block.may_be_lent()
            {
                queue.lend(number, self.block.sectors());
            }
        }
        Ok(None)
    }
}

/// Reports to the Guest how its request ended.
struct Answer {
    queue: Queue,
    taken: Taken,
    /// Where the answer goes.
    answer: u32,
}

impl Completion for Answer {
    fn complete(self: Box<Self>, outcome: DiskOutcome) {
        let guest = self.queue.guest();
        let status = if outcome.is_done {
            BLOCK_OK
        } else {
            BLOCK_IO_ERROR
        };
        let done = guest
            .memory()
            .write(self.answer, &[status])
            .map_err(Violation::of)
            .and_then(|()| self.queue.answer(&self.taken, outcome.written + 1));
        if let Err(violation) = done {
            guest.kill(violation.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
