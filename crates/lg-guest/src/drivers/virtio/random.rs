//! A virtio source of random numbers: a queue of buffers to fill.
//!
//! The device may fill a part of a buffer, and its used element says how much.

use super::buffers::Buffers;
use super::place;
use crate::bus::{Device, DeviceError};
use crate::virtqueue::{Piece, Virtqueue};
use lg_abi::page::PAGE_SIZE;

/// The queue, with one buffer of a page.
pub(crate) struct Random {
    queue: Virtqueue,
    buffers: Buffers,
}

impl Random {
    pub(crate) fn new(device: Device) -> Result<Self, DeviceError> {
        Ok(Self {
            queue: Virtqueue::new(place(&device)?.queue(0)?)?,
            buffers: Buffers::new(1, 1)?,
        })
    }

    /// Fills some of `into`, and returns how much.
    pub(crate) async fn fill(&self, into: &mut [u8]) -> usize {
        let wanted = crate::word(into.len()).min(PAGE_SIZE);
        let piece = Piece {
            at: self.buffers.at(0),
            bytes: wanted,
            written: true,
        };
        self.queue.offer(0, &[piece]);
        self.queue.notify();
        let got = loop {
            match self.queue.take() {
                Some((_, length)) => break length.min(wanted),
                None => self.queue.used().await,
            }
        };
        let bytes = self.buffers.data(0, got);
        into[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    }
}
