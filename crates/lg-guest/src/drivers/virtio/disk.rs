//! A virtio disk: one queue of requests.
//!
//! A request is a chain: a header, the data, and a byte for the answer.

use super::buffers::Buffers;
use super::place;
use crate::bus::{Device, DeviceError};
use crate::drivers::disk::{DiskError, PAGES, Request, Requests};
use crate::frame::Phys;
use crate::virtqueue::{Piece, Virtqueue};
use core::cell::RefCell;
use lg_abi::gen2::device::{
    BLOCK_FLUSH, BLOCK_HAS_FLUSH, BLOCK_IN, BLOCK_OK, BLOCK_OUT,
    BLOCK_READ_ONLY, BlockHeader,
};
use zerocopy::IntoBytes;

/// Bytes of a header.
const HEADER: u32 = crate::word(size_of::<BlockHeader>());

/// The features that the driver knows.
const WANTED: u32 = (1 << BLOCK_READ_ONLY) | (1 << BLOCK_HAS_FLUSH);

/// What is in the answer before the disk has written it.
const NO_ANSWER: u8 = 0xEE;

/// The disk's queue, and pages for data and requests.
pub(crate) struct Disk {
    queue: Virtqueue,
    sectors: u32,
    /// The features that were offered and accepted.
    features: u32,
    data: RefCell<Buffers>,
    /// A page: the header, and the answer behind it.
    request: RefCell<Buffers>,
}

impl Disk {
    pub(crate) fn new(device: Device) -> Result<Self, DeviceError> {
        let place = place(&device)?;
        // Larger disks can be used in part.
        let sectors = place.config(0, 8).ok_or(DeviceError::Failed)?;
        let features = place.accept(WANTED);
        Ok(Self {
            queue: Virtqueue::new(place.queue(0)?)?,
            sectors: u32::try_from(sectors).unwrap_or(u32::MAX),
            features,
            data: RefCell::new(Buffers::new(1, PAGES)?),
            request: RefCell::new(Buffers::new(1, 1)?),
        })
    }

    fn has(&self, feature: u32) -> bool {
        self.features & (1 << feature) != 0
    }
}

impl Requests for Disk {
    fn sectors(&self) -> u32 {
        self.sectors
    }

    fn is_read_only(&self) -> bool {
        self.has(BLOCK_READ_ONLY)
    }

    fn has_flush(&self) -> bool {
        self.has(BLOCK_HAS_FLUSH)
    }

    fn put(&self, from: &[u8]) {
        let mut data = self.data.borrow_mut();
        data.data_mut(0, crate::word(from.len()))
            .copy_from_slice(from);
    }

    fn start(&self, request: Request, sector: u32, bytes: usize) {
        let kind = match request {
            Request::Read => BLOCK_IN,
            Request::Write => BLOCK_OUT,
            Request::Flush => BLOCK_FLUSH,
        };
        let header = BlockHeader {
            kind,
            priority: 0,
            sector: [sector, 0],
        };
        let mut page = self.request.borrow_mut();
        let at = page.at(0);
        let (head, answer) =
            page.data_mut(0, HEADER + 1).split_at_mut(HEADER as usize);
        head.copy_from_slice(header.as_bytes());
        answer.fill(NO_ANSWER);
        let piece = |at, bytes, written| Piece { at, bytes, written };
        let header = piece(at, HEADER, false);
        let answer = piece(Phys(at.0 + HEADER), 1, true);
        let at = self.data.borrow().at(0);
        let data = piece(at, crate::word(bytes), request == Request::Read);
        match request {
            Request::Flush => self.queue.offer(0, &[header, answer]),
            _ => self.queue.offer(0, &[header, data, answer]),
        }
        self.queue.notify();
    }

    fn has_ended(&self) -> bool {
        self.queue.take().is_some()
    }

    fn outcome(&self) -> Result<(), DiskError> {
        let page = self.request.borrow();
        match page.data(0, HEADER + 1).last() {
            Some(&BLOCK_OK) => Ok(()),
            _ => Err(DiskError::Refused),
        }
    }

    fn get(&self, into: &mut [u8]) -> Result<(), DiskError> {
        self.outcome()?;
        let data = self.data.borrow();
        into.copy_from_slice(data.data(0, crate::word(into.len())));
        Ok(())
    }
}
