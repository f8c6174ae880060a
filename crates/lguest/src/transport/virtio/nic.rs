//! A network interface on the bus of virtio, with two queues.
//!
//! A header precedes every frame. It says which checksum is missing, and which
//! segments a frame has to be cut into; the interface does what the other end
//! does not. The configuration is the Guest's Ethernet address, and the MTU
//! where one was said.

use super::device::{Features, VirtioDevice};
use super::queue::{Pair, Queue};
use crate::devices::net::Nic;
use crate::devices::{Readiness, Violation};
use crate::transport::{BusDevice, Device, SlowOutput};
use lg_abi::gen2::device::{
    NET_CHECKSUM, NET_GUEST_CHECKSUM, NET_GUEST_TCP4, NET_GUEST_TCP6,
    NET_HOST_TCP4, NET_HOST_TCP6, NET_MAC, NET_MERGEABLE, NET_MTU, TYPE_NET,
};
use std::io;

/// What every network offers.
pub(super) const FEATURES: Features = 1 << NET_CHECKSUM
    | 1 << NET_GUEST_CHECKSUM
    | 1 << NET_MAC
    | 1 << NET_GUEST_TCP4
    | 1 << NET_GUEST_TCP6
    | 1 << NET_HOST_TCP4
    | 1 << NET_HOST_TCP6
    | 1 << NET_MERGEABLE;

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
        self.nic.begin();
        // A limit may have kept frames in the queue.
        self.notify(Pair::FROM_GUEST)?;
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
        let mtu = u32::from(self.nic.mtu().is_some());
        FEATURES | mtu << NET_MTU
    }

    fn accepted(&mut self, features: Features) {
        if self.queues.accept(features) {
            self.nic.forget();
        }
    }

    fn config(&self) -> Vec<u8> {
        let mut config = self.nic.mac().to_vec();
        if let Some(mtu) = self.nic.mtu() {
            // The status and the number of queues are not offered.
            config.extend([0; 4]);
            config.extend(mtu.to_le_bytes());
        }
        config
    }

    fn is_linked(&self) -> bool {
        self.nic.is_connected()
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
        if self.nic.may_send() {
            self.queues.take_frames(index, |_, header, frame| {
                self.nic.send_with(header, frame);
                Ok(self.nic.may_send())
            })?;
        }
        self.nic.flush();
        Ok(None)
    }
}

#[cfg(test)]
pub(super) mod tests;
