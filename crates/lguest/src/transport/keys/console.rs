//! A console on the bus: it has no page, and one key for both directions.
//!
//! The Guest sends lists of bytes to the key to print them, and binds lists to
//! it for typed bytes.

use super::Sent;
use super::dma::DmaSections;
use super::{BoundBuffers, Description, KeyedDevice, Place};
use crate::devices::console::Console;
use crate::devices::{Readiness, Violation};
use crate::engine::Requests;
use crate::memory::gather;
use crate::transport::{BusDevice, Device};
use lg_abi::device::LGUEST_DEVICE_T_CONSOLE;
use lg_abi::dma::LGUEST_CONSOLE_DMA_KEY;
use std::io;
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

impl BusDevice for KeyedConsole {
    fn device(&mut self) -> &mut dyn Device {
        &mut self.console
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
}

#[cfg(test)]
mod tests;
