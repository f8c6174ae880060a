//! The console: input from the keyboard.
//!
//! Output needs no driver; see [`mod@crate::print`]. For input, one buffer is
//! bound at the console's key. Its bytes are moved to a queue while the queue
//! has room. Otherwise they stay in the buffer, and the Launcher waits before
//! it sends more.

use super::buffers::Buffers;
use crate::bus::{Device, DeviceError};
use crate::frame::Phys;
use crate::irq;
use alloc::collections::VecDeque;
use core::cell::RefCell;
use lg_abi::dma::LGUEST_CONSOLE_DMA_KEY;

/// Bytes that may come at a time.
const CHUNK: u16 = 4096;

/// Bytes that are kept until they are read.
const TYPE_AHEAD: usize = 16 << 10;

/// The byte of ^C.
pub const INTERRUPT: u8 = 3;

/// A console.
pub struct Console {
    device: Device,
    buffer: Buffers,
    typed: RefCell<VecDeque<u8>>,
}

impl Console {
    /// The driver for `device`.
    ///
    /// # Errors
    ///
    /// There is no memory, or the Host refuses the buffer.
    pub fn new(device: Device) -> Result<Self, DeviceError> {
        let buffer = Buffers::new(1, 1, CHUNK)?;
        buffer.bind(Phys(LGUEST_CONSOLE_DMA_KEY), device.irq())?;
        Ok(Self {
            device,
            buffer,
            typed: RefCell::new(VecDeque::new()),
        })
    }

    /// Takes the bytes that have come, if there is room for them.
    fn collect(&self) {
        let mut typed = self.typed.borrow_mut();
        if let Some(length) = self.buffer.filled(0) {
            if typed.len() < TYPE_AHEAD {
                typed.extend(self.buffer.data(0, length));
                self.buffer.give(0);
            }
        }
    }

    /// Waits until `take` finds what it needs in the queue.
    async fn wait<T>(
        &self,
        mut take: impl FnMut(&mut VecDeque<u8>) -> Option<T>,
    ) -> Result<T, DeviceError> {
        loop {
            let seen = irq::count(self.device.irq());
            self.device.check()?;
            self.collect();
            if let Some(found) = take(&mut self.typed.borrow_mut()) {
                return Ok(found);
            }
            irq::after(self.device.irq(), seen).await;
        }
    }

    /// Waits for a byte.
    ///
    /// # Errors
    ///
    /// The console has been taken away.
    pub async fn read(&self) -> Result<u8, DeviceError> {
        self.wait(VecDeque::pop_front).await
    }

    /// Waits until ^C is typed, and drops it and all bytes before it. Later
    /// bytes stay in the queue.
    ///
    /// # Errors
    ///
    /// The console has been taken away.
    pub async fn interrupted(&self) -> Result<(), DeviceError> {
        self.wait(|typed| {
            let at = typed.iter().position(|&byte| byte == INTERRUPT)?;
            typed.drain(..=at);
            Some(())
        })
        .await
    }
}
