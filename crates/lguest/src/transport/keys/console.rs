//! A console on the bus: it has no page, and one key for both directions.
//!
//! The Guest sends lists of bytes to the key to print them, and binds lists to
//! it for typed bytes.

use super::Sent;
use super::dma::DmaSections;
use super::{BoundBuffers, Description, DeviceState, KeyedDevice, Place};
use crate::devices::console::Console;
use crate::devices::{NamedCounts, Readiness, RestoreError, Violation};
use crate::engine::Requests;
use crate::memory::gather;
use lg_abi::device::LGUEST_DEVICE_T_CONSOLE;
use lg_abi::dma::LGUEST_CONSOLE_DMA_KEY;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A console on the bus.
pub struct KeyedConsole {
    console: Console,
    guest: Option<Arc<dyn Requests>>,
}

impl KeyedConsole {
    /// `console`, to be put on a bus.
    #[must_use]
    pub fn new(console: Console) -> Self {
        Self {
            console,
            guest: None,
        }
    }
}

impl KeyedDevice for KeyedConsole {
    fn description(&self) -> Description {
        Description {
            kind: LGUEST_DEVICE_T_CONSOLE,
            features: 0,
            num_pages: 0,
        }
    }

    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        _place: Place,
    ) -> io::Result<()> {
        self.guest = Some(guest);
        Ok(())
    }

    fn send(&mut self, dma: u32, _key: u32) -> Result<Sent, Violation> {
        let Some(guest) = &self.guest else {
            return Ok(Sent::default());
        };
        let from = DmaSections::read(guest.memory().region(), dma);
        let from = from.map_err(Violation::of)?;
        let from = from.sections();
        let bytes = gather(from.region, from.list).map_err(Violation::of)?;
        Ok(Sent {
            bytes: from.total(),
            rest: Some(Box::new(self.console.print(bytes))),
        })
    }

    fn input(&self) -> Option<BorrowedFd<'_>> {
        Some(self.console.input())
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let Some(guest) = &self.guest else {
            return Ok(Readiness::Wait);
        };
        self.console.handle_input(&mut BoundBuffers {
            guest: &**guest,
            key: LGUEST_CONSOLE_DMA_KEY,
        })
    }

    fn finish(&mut self) {
        self.console.finish();
    }

    fn counters(&self) -> NamedCounts {
        self.console.counters()
    }

    fn state(&mut self) -> DeviceState {
        DeviceState::Console(self.console.state())
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Console(state) => self.console.restore(state),
            other => Err(other.is_not_of("console")),
        }
    }
}

#[cfg(test)]
mod tests;
