//! Buffers for the Host to fill: an array of `lguest_dma` and its pages.
//!
//! A buffer belongs to the Host while its `used_len` is zero. When the
//! Host has filled it, it stores the number of bytes, and the buffer is ours.
//! Storing zero returns the buffer to the Host. Buffers live as long as the
//! Guest does: taking a binding back does not free their memory.

#![expect(unsafe_code, reason = "memory that the Host fills")]

use crate::bus::DeviceError;
use crate::frame::{self, Phys};
use core::sync::atomic::{AtomicU32, Ordering};
use lg_abi::dma::Dma;
use lg_abi::page::PAGE_SIZE;

/// Some buffers of some whole pages each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    dmas: Phys,
    data: Phys,
    count: u32,
    pages: u32,
}

impl Buffers {
    /// `count` buffers with `pages` sections each, of at most `section` bytes.
    pub(crate) fn new(
        count: u32,
        pages: u32,
        section: u16,
    ) -> Result<Self, DeviceError> {
        assert!(count * Dma::SIZE <= PAGE_SIZE, "one page of descriptors");
        let row =
            |pages| frame::alloc_row(pages).ok_or(DeviceError::OutOfMemory);
        let buffers = Self {
            dmas: row(1)?,
            data: row(count * pages)?,
            count,
            pages,
        };
        for index in 0..count {
            let mut dma = Dma::default();
            for page in 0..pages {
                let at = (index * pages + page) * PAGE_SIZE;
                dma.addr[page as usize] = buffers.data.0 + at;
                dma.len[page as usize] = section;
            }
            // SAFETY: the frame is ours, holds all of them (asserted above),
            // and the Host has not been told of it.
            unsafe { buffers.dma(index).write(dma) };
        }
        Ok(buffers)
    }

    fn dma(&self, index: u32) -> *mut Dma {
        assert!(index < self.count);
        Phys(self.dmas.0 + index * Dma::SIZE).ptr()
    }

    fn used_len(&self, index: u32) -> &AtomicU32 {
        // SAFETY: the address of a field of ours.
        let field = unsafe { &raw mut (*self.dma(index)).used_len };
        // SAFETY: aligned, valid for good, and used only as an atomic once
        // the Host knows of it.
        unsafe { AtomicU32::from_ptr(field) }
    }

    /// Binds them all to `key`.
    pub(crate) fn bind(&self, key: Phys, irq: u8) -> Result<(), DeviceError> {
        if crate::hcall::bind_dma(key, self.dmas, self.count, irq) {
            Ok(())
        } else {
            Err(DeviceError::Failed)
        }
    }

    /// Takes them back from `key`.
    pub(crate) fn unbind(&self, key: Phys) {
        crate::hcall::unbind_dma(key, self.dmas);
    }

    /// How many bytes have come in buffer `index`, if any have.
    pub(crate) fn filled(&self, index: u32) -> Option<usize> {
        let length = self.used_len(index).load(Ordering::Acquire);
        let room = self.pages * PAGE_SIZE;
        (length != 0).then_some(length.min(room) as usize)
    }

    /// Gives buffer `index` to the Host.
    pub(crate) fn give(&self, index: u32) {
        self.used_len(index).store(0, Ordering::Release);
    }

    /// The first `length` bytes of buffer `index`. Its sections are adjacent,
    /// so this is all of it if they are whole pages.
    pub(crate) fn data(&self, index: u32, length: usize) -> &[u8] {
        let at = Phys(self.data.0 + index * self.pages * PAGE_SIZE);
        assert!(length <= (self.pages * PAGE_SIZE) as usize);
        // SAFETY: memory of ours that stays. The Host fills it only while it
        // owns the buffer; the callers read it only while they own it.
        unsafe { core::slice::from_raw_parts(at.ptr(), length) }
    }

    /// The memory of buffer `index`, for data to be sent.
    pub(crate) fn data_mut(&mut self, index: u32, length: usize) -> &mut [u8] {
        let at = Phys(self.data.0 + index * self.pages * PAGE_SIZE);
        assert!(length <= (self.pages * PAGE_SIZE) as usize);
        // SAFETY: as in `data`, and exclusively borrowed from the one owner.
        unsafe { core::slice::from_raw_parts_mut(at.ptr(), length) }
    }

    /// Sets the length of buffer `index` to `length`, and gives it to the Host.
    /// This is for a device that always fills the whole buffer.
    pub(crate) fn give_only(&mut self, index: u32, length: usize) {
        let dma = self.sections(index, length);
        // SAFETY: the array is ours and mapped. The Host reads it only during a
        // transfer, and the caller asks for that transfer afterwards.
        unsafe { self.dma(index).write_volatile(dma) };
    }

    /// A `Dma` of the first `length` bytes of buffer `index`.
    pub(crate) fn sections(&self, index: u32, length: usize) -> Dma {
        let mut dma = Dma::default();
        let start = self.data.0 + index * self.pages * PAGE_SIZE;
        let mut rest = u32::try_from(length).unwrap_or(0);
        for page in 0..self.pages {
            let now = rest.min(PAGE_SIZE);
            dma.addr[page as usize] = start + page * PAGE_SIZE;
            dma.len[page as usize] = u16::try_from(now).unwrap_or(0);
            rest -= now;
        }
        dma
    }
}
