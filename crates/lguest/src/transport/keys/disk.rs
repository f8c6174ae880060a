//! A disk on the bus: its page holds one request at a time.
//!
//! The Guest fills the page in and sends a list to the page's address. For a
//! write the list holds the data; a read goes into the list that is bound to
//! that address. The answer is a word in the page, then the bound list's
//! `used_len`, then an interrupt.

use super::dma::{DmaSections, answer};
use super::{Description, KeyedDevice, Place, Sent};
use crate::devices::Violation;
use crate::devices::block::{
    Block, Completion, DiskOperation, DiskOutcome, DiskRequest,
};
use crate::engine::{BoundDma, Requests};
use crate::memory::{Section, total};
use crate::transport::{BusDevice, Device};
use lg_abi::device::{
    BLOCK_DONE, BLOCK_ERROR, BLOCK_READ, BLOCK_WRITE, BlockPage,
    LGUEST_DEVICE_F_RANDOMNESS, LGUEST_DEVICE_T_BLOCK,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A disk on the bus.
pub struct KeyedDisk {
    block: Block,
    at: Option<(Arc<dyn Requests>, Place)>,
    /// The Guest has sent a request and has no answer yet. This is no part of
    /// the state, which is taken when all requests are answered.
    busy: Arc<AtomicBool>,
}

impl KeyedDisk {
    /// `block`, to be put on a bus.
    #[must_use]
    pub fn new(block: Block) -> Self {
        Self {
            block,
            at: None,
            busy: Arc::default(),
        }
    }
}

impl BusDevice for KeyedDisk {
    fn device(&mut self) -> &mut dyn Device {
        &mut self.block
    }
}

impl KeyedDevice for KeyedDisk {
    fn description(&self) -> Description {
        Description {
            kind: LGUEST_DEVICE_T_BLOCK,
            features: LGUEST_DEVICE_F_RANDOMNESS,
            num_pages: 1,
        }
    }

    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> io::Result<()> {
        let page = BlockPage {
            num_sectors: self.block.sectors(),
            ..BlockPage::default()
        };
        let written = guest.memory().write_object(place.page, &page);
        written.map_err(io::Error::other)?;
        self.at = Some((guest, place));
        Ok(())
    }

    fn send(&mut self, dma: u32, key: u32) -> Result<Sent, Violation> {
        let Some((guest, place)) = self.at.clone() else {
            return Ok(Sent::default());
        };
        if key != place.page {
            return Err(Violation(format!(
                "a disk's key is its page {:#x}, not {key:#x}",
                place.page
            )));
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(Violation(
                "a second request to a disk that is busy with one".into(),
            ));
        }
        let memory = guest.memory().clone();
        let page: BlockPage =
            memory.read_object(place.page).map_err(Violation::of)?;
        let bound = guest.get_dma(place.page).ok().flatten();
        let operation = match page.kind {
            BLOCK_READ => Some(DiskOperation::Read),
            BLOCK_WRITE => Some(DiskOperation::Write),
            _ => None,
        };
        let data = match operation {
            Some(DiskOperation::Write) => Some(dma),
            Some(DiskOperation::Read) => bound.map(|bound| bound.addr),
            Some(DiskOperation::Flush) | None => None,
        };
        let sections = match data {
            Some(data) => sections(&*guest, data)?,
            None => Vec::new(),
        };
        let done = Box::new(Answer {
            guest,
            place,
            bound,
            busy: self.busy.clone(),
        });
        match operation {
            Some(operation) if total(&sections) == page.bytes => {
                self.block.submit(DiskRequest {
                    operation,
                    sector: page.sector.into(),
                    memory,
                    sections,
                    // The Launcher of 2007 did not wait for the disk either.
                    stable: false,
                    done,
                });
            }
            _ => self.block.refuse(done),
        }
        Ok(Sent::default())
    }
}

/// The sections of the list at `addr`, copied so that they outlive the call.
fn sections(
    guest: &dyn Requests,
    addr: u32,
) -> Result<Vec<Section>, Violation> {
    let list = DmaSections::read(guest.memory().region(), addr);
    Ok(list.map_err(Violation::of)?.list().to_vec())
}

/// Reports to the Guest how its request ended.
struct Answer {
    guest: Arc<dyn Requests>,
    place: Place,
    /// The list that is bound to the page.
    bound: Option<BoundDma>,
    busy: Arc<AtomicBool>,
}

impl Completion for Answer {
    /// Writes the result, then the bound list, then raises the interrupt, so
    /// that each finds the ones before it in place.
    fn complete(self: Box<Self>, outcome: DiskOutcome) {
        // As soon as the Guest sees the result it may send the next request.
        self.busy.store(false, Ordering::SeqCst);
        let memory = self.guest.memory();
        let result = match outcome.is_done {
            true => BLOCK_DONE,
            false => BLOCK_ERROR,
        };
        let at = self.place.page + BlockPage::RESULT_OFFSET;
        let written = memory.write_last(at, result);
        written.expect("a device's page exists");
        if let Some(bound) = self.bound {
            // No driver waits for a list that does not exist.
            let _ = answer(memory, bound.addr, outcome.written);
        }
        let irq = self.bound.map_or(self.place.irq, |bound| bound.irq);
        // A dead Guest needs no interrupt.
        let _ = self.guest.irq(irq);
    }
}

#[cfg(test)]
mod tests;
