//! A console on the bus of virtio: one queue to the Guest, one from it.
//!
//! Output is copied and answered at once, and shown before the Guest goes on.
//! The configuration is the size of the terminal. Linux reads that at boot
//! until 2.6.32, and later when an interrupt says that it has changed. Only a
//! PCI bus has such an interrupt.

use super::device::{Features, VirtioDevice};
use super::queue::{Pair, Queue};
use crate::devices::console::Console;
use crate::devices::{Readiness, Violation};
use crate::memory::gather;
use crate::transport::{BusDevice, Device, SlowOutput};
use lg_abi::gen2::device::{CONSOLE_SIZE, TYPE_CONSOLE};
use std::io;

/// A console on the bus.
pub struct VirtioConsole {
    console: Console,
    queues: Pair,
}

impl VirtioConsole {
    /// `console`, to be put on a bus.
    #[must_use]
    pub fn new(console: Console) -> Self {
        Self {
            console,
            queues: Pair::default(),
        }
    }
}

impl BusDevice for VirtioConsole {
    fn device(&mut self) -> &mut dyn Device {
        &mut self.console
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let Some(mut buffers) = self.queues.buffers() else {
            return Ok(Readiness::Wait);
        };
        let found = self.console.handle_input(&mut buffers)?;
        Ok(found.notified())
    }
}

impl VirtioDevice for VirtioConsole {
    fn kind(&self) -> u8 {
        TYPE_CONSOLE
    }

    fn is_terminal(&self) -> bool {
        true
    }

    fn queues(&self) -> u8 {
        Pair::QUEUES
    }

    fn features(&self) -> Features {
        1 << CONSOLE_SIZE
    }

    /// Columns and rows of the terminal, as they are now.
    fn config(&self) -> Vec<u8> {
        let size = self.console.size();
        size.into_iter().flat_map(u16::to_le_bytes).collect()
    }

    fn place(&mut self, queues: Vec<Queue>) -> io::Result<()> {
        self.queues = Pair::new(queues);
        Ok(())
    }

    fn input_queue(&self) -> Option<usize> {
        Some(Pair::TO_GUEST)
    }

    fn notify(
        &mut self,
        index: usize,
    ) -> Result<Option<SlowOutput>, Violation> {
        let Some(queue) = self.queues.outgoing(index) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let region = queue.guest().memory().region();
        while let Some(taken) = queue.take()? {
            let text = gather(region, &taken.chain.readable);
            bytes.extend(text.map_err(Violation::of)?);
            queue.answer(&taken, 0)?;
        }
        let print = (!bytes.is_empty()).then(|| self.console.print(bytes));
        Ok(print.map(|print| -> SlowOutput { Box::new(print) }))
    }
}
