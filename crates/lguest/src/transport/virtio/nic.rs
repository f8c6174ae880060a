//! A network interface on the bus of virtio, with two queues.
//!
//! A header precedes every frame. It is all zero, because no feature that uses
//! it is offered. The configuration is the Guest's Ethernet address.

use super::device::{Features, VirtioDevice};
use super::queue::{Pair, Queue};
use crate::devices::net::Nic;
use crate::devices::{Readiness, Violation};
use crate::memory::{SectionsIn, behind};
use crate::transport::{BusDevice, Device, SlowOutput};
use lg_abi::gen2::device::{NET_MAC, TYPE_NET};
use std::io;

/// A network interface on the bus.
pub struct VirtioNic {
    nic: Nic,
    queues: Pair,
}

impl VirtioNic {
    /// `nic`, to be put on a bus.
    #[must_use]
    pub fn new(nic: Nic) -> Self {
        Self {
            nic,
            queues: Pair::default(),
        }
    }
}

impl BusDevice for VirtioNic {
    fn device(&mut self) -> &mut dyn Device {
        &mut self.nic
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let Some(mut buffers) = self.queues.frame_buffers() else {
            return Ok(Readiness::Wait);
        };
        self.nic.handle_input(&mut buffers).map(Readiness::notified)
    }
}

impl VirtioDevice for VirtioNic {
    fn kind(&self) -> u8 {
        TYPE_NET
    }

    fn queues(&self) -> u8 {
        Pair::QUEUES
    }

    fn features(&self) -> Features {
        1 << NET_MAC
    }

    fn config(&self) -> Vec<u8> {
        self.nic.mac().to_vec()
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
        let region = queue.guest().memory().region();
        let header = queue.formats().net_header;
        while let Some(taken) = queue.take()? {
            let list = behind(&taken.chain.readable, header);
            let frame = SectionsIn {
                region,
                list: &list,
            };
            self.nic.send(frame);
            queue.answer(&taken, 0)?;
        }
        self.nic.flush();
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
