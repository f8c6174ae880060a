//! The console of 2007: one key for both directions.
//!
//! A SEND_DMA to the key prints. A buffer that is bound to it gets what is
//! typed.

use super::buffers::Buffers;
use crate::bus::{Device, DeviceError};
use crate::drivers::console::{CHUNK, Lines};
use crate::frame::Phys;
use crate::hcall;
use alloc::collections::VecDeque;
use lg_abi::dma::{Dma, LGUEST_CONSOLE_DMA_KEY};
use lg_abi::page::PAGE_SIZE;

/// The buffer for input.
pub(crate) struct Console(Buffers);

impl Console {
    pub(crate) fn new(device: Device) -> Result<Self, DeviceError> {
        let buffer = Buffers::new(1, 1, CHUNK)?;
        buffer.bind(Phys(LGUEST_CONSOLE_DMA_KEY), device.irq())?;
        Ok(Self(buffer))
    }
}

impl Lines for Console {
    fn collect(&self, typed: &mut VecDeque<u8>) {
        if let Some(length) = self.0.filled(0) {
            typed.extend(self.0.data(0, length));
            self.0.give(0);
        }
    }
}

/// One transfer of `bytes` to the console. Returns how many were taken.
pub(crate) fn print(bytes: &[u8]) -> usize {
    let mut dma = Dma::default();
    let start = Phys::of(bytes.as_ptr());
    // A section must not cross a page border, so it may take two.
    let in_page = PAGE_SIZE - start.0 % PAGE_SIZE;
    let length = u32::try_from(bytes.len()).unwrap_or(in_page);
    let first = length.min(in_page);
    let sections = [(start.0, first), (start.0 + first, length - first)];
    for (section, (addr, len)) in sections.into_iter().enumerate() {
        dma.addr[section] = addr;
        dma.len[section] = u16::try_from(len).unwrap_or(0);
    }
    hcall::send_dma(Phys(LGUEST_CONSOLE_DMA_KEY), &mut dma);
    dma.used_len as usize
}
