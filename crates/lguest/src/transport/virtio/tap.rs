//! A tap on the bus of virtio: one queue to the Guest, one from it.
//!
//! A header of ten bytes precedes every frame. It is all zero, because no
//! feature that uses it is offered. The configuration is the Guest's Ethernet
//! address.

use super::device::{Features, VirtioDevice};
use super::queue::{Pair, Queue};
use crate::devices::net::Tap;
use crate::devices::{Readiness, Violation};
use crate::memory::{SectionsIn, behind};
use crate::transport::{BusDevice, Device, SlowOutput};
use lg_abi::gen2::device::{NET_HEADER, NET_MAC, TYPE_NET};
use std::io;

/// A tap on the bus.
pub struct VirtioTap {
    tap: Tap,
    queues: Pair,
}

impl VirtioTap {
    /// `tap`, to be put on a bus.
    #[must_use]
    pub fn new(tap: Tap) -> Self {
        Self {
            tap,
            queues: Pair::default(),
        }
    }
}

impl BusDevice for VirtioTap {
    fn device(&mut self) -> &mut dyn Device {
        &mut self.tap
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let Some(mut buffers) = self.queues.buffers(NET_HEADER) else {
            return Ok(Readiness::Wait);
        };
        self.tap.handle_input(&mut buffers)
    }
}

impl VirtioDevice for VirtioTap {
    fn kind(&self) -> u8 {
        TYPE_NET
    }

    fn queues(&self) -> u8 {
        Pair::QUEUES
    }

    fn features(&self) -> Features {
        1 << NET_MAC
    }

    /// The Guest's address: the neighbour of the machine's, which the kernel
    /// has chosen at random.
    fn config(&self) -> Vec<u8> {
        let mut mac = self.tap.mac();
        mac[5] ^= 1;
        mac.to_vec()
    }

    fn place(&mut self, queues: Vec<Queue>) -> io::Result<()> {
        self.queues = Pair::new(queues);
        Ok(())
    }

    fn notify(
        &mut self,
        index: usize,
    ) -> Result<Option<SlowOutput>, Violation> {
        let Some(queue) = self.queues.outgoing(index) else {
            return Ok(None);
        };
        let region = queue.guest().memory().region();
        while let Some(taken) = queue.take()? {
            let list = behind(&taken.chain.readable, NET_HEADER);
            let frame = SectionsIn {
                region,
                list: &list,
            };
            self.tap.send(frame);
            queue.answer(&taken, 0)?;
        }
        Ok(None)
    }
}
