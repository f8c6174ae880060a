//! The disk of 2007: a page with the request, and a key that starts it.
//!
//! The request is written into the device's page, and a SEND_DMA to that page
//! starts it. A write sends its data. A read sends nothing, and its data arrive
//! in the buffer that is bound there. An interrupt reports the end, and the
//! page holds the result.

#![expect(unsafe_code, reason = "the request page is the Host's, too")]

use super::buffers::Buffers;
use crate::bus::{Device, DeviceError, Place};
use crate::drivers::disk::{DiskError, PAGES, Request, Requests};
use crate::frame::Phys;
use crate::hcall;
use core::cell::RefCell;
use core::sync::atomic::{AtomicU32, Ordering, fence};
use lg_abi::device::{
    BLOCK_DONE, BLOCK_PENDING, BLOCK_READ, BLOCK_WRITE, BlockPage,
};
use lg_abi::page::PAGE_SIZE;

/// The disk's page, and pages for data.
pub(crate) struct Disk {
    page: *mut BlockPage,
    key: Phys,
    /// Bound at the page: where what is read arrives.
    incoming: RefCell<Buffers>,
    outgoing: RefCell<Buffers>,
}

impl Disk {
    pub(crate) fn new(device: Device) -> Result<Self, DeviceError> {
        let Place::Keys(place) = device.place() else {
            return Err(DeviceError::Failed);
        };
        let page = place.map()?.cast();
        let section = u16::try_from(PAGE_SIZE).unwrap_or(0);
        let incoming = Buffers::new(1, PAGES, section)?;
        incoming.bind(device.phys(), device.irq())?;
        Ok(Self {
            page,
            key: device.phys(),
            incoming: RefCell::new(incoming),
            outgoing: RefCell::new(Buffers::new(1, PAGES, section)?),
        })
    }

    fn result(&self) -> u32 {
        // SAFETY: the address of a field of the mapped page.
        let field = unsafe { &raw mut (*self.page).result };
        // SAFETY: aligned, and valid for good; the Host writes it.
        unsafe { AtomicU32::from_ptr(field) }.load(Ordering::Acquire)
    }
}

impl Requests for Disk {
    fn sectors(&self) -> u32 {
        // SAFETY: the address of a field of the mapped page.
        let field = unsafe { &raw const (*self.page).num_sectors };
        // SAFETY: aligned, and valid for good; the Host may write it.
        unsafe { field.read_volatile() }
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn has_flush(&self) -> bool {
        false
    }

    fn put(&self, from: &[u8]) {
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.data_mut(0, from.len()).copy_from_slice(from);
    }

    fn start(&self, request: Request, sector: u32, bytes: usize) {
        let is_write = request == Request::Write;
        let request = BlockPage {
            kind: if is_write { BLOCK_WRITE } else { BLOCK_READ },
            sector,
            bytes: u32::try_from(bytes).unwrap_or(0),
            result: BLOCK_PENDING,
            num_sectors: self.sectors(),
        };
        // A read fills the bound buffer to its end, so the buffer gets the
        // length of the request. A write does not use it.
        self.incoming.borrow_mut().give_only(0, bytes);
        // SAFETY: the page is mapped, and the Host reads it only when told,
        // with no request under way.
        unsafe { self.page.write_volatile(request) };
        fence(Ordering::SeqCst);
        let mut dma = if is_write {
            self.outgoing.borrow().sections(0, bytes)
        } else {
            lg_abi::dma::Dma::default()
        };
        hcall::send_dma(self.key, &mut dma);
    }

    fn has_ended(&self) -> bool {
        self.result() != BLOCK_PENDING
    }

    fn outcome(&self) -> Result<(), DiskError> {
        match self.result() {
            BLOCK_DONE => Ok(()),
            _ => Err(DiskError::Refused),
        }
    }

    fn get(&self, into: &mut [u8]) -> Result<(), DiskError> {
        self.outcome()?;
        let incoming = self.incoming.borrow();
        if incoming.filled(0) != Some(into.len()) {
            return Err(DiskError::Refused);
        }
        into.copy_from_slice(incoming.data(0, into.len()));
        Ok(())
    }
}
