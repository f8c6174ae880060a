//! Memory that virtio devices read and write: whole pages for each buffer.
//!
//! A buffer belongs to the device from the moment that it is made available
//! until its used element was taken. Buffers live as long as the Guest does.

#![expect(unsafe_code, reason = "memory that the Host fills")]

use crate::bus::DeviceError;
use crate::frame::{self, Phys};
use lg_abi::page::PAGE_SIZE;

/// Some buffers of some whole pages each, one after the other.
pub(super) struct Buffers {
    data: Phys,
    count: u16,
    /// Bytes of each.
    size: u32,
}

impl Buffers {
    pub(super) fn new(count: u16, pages: u32) -> Result<Self, DeviceError> {
        let data = frame::alloc_row(u32::from(count) * pages);
        Ok(Self {
            data: data.ok_or(DeviceError::OutOfMemory)?,
            count,
            size: pages * PAGE_SIZE,
        })
    }

    /// Where buffer `index` is.
    pub(super) fn at(&self, index: u16) -> Phys {
        assert!(index < self.count);
        Phys(self.data.0 + u32::from(index) * self.size)
    }

    /// Up to `length` bytes of buffer `index`.
    pub(super) fn data(&self, index: u16, length: u32) -> &[u8] {
        let length = length.min(self.size) as usize;
        // SAFETY: memory of ours that stays. The Host fills it only while it
        // owns the buffer; the callers read it only while they own it.
        unsafe { core::slice::from_raw_parts(self.at(index).ptr(), length) }
    }

    /// The same, for data to be sent.
    pub(super) fn data_mut(&mut self, index: u16, length: u32) -> &mut [u8] {
        let length = length.min(self.size) as usize;
        // SAFETY: as in `data`, and exclusively borrowed from the one owner.
        unsafe { core::slice::from_raw_parts_mut(self.at(index).ptr(), length) }
    }
}
