//! A network of several Guests on the bus of virtio.
//!
//! The network has the rules of 2007: a page with a slot for each member, and
//! keys of slots ([`crate::transport::keys::lan`]). A driver of virtio knows
//! neither. So the Launcher is the [`Member`] on behalf of its Guest. A frame
//! from the Guest goes to the key of each member that it is for, directly from
//! the Guest's memory. Frames for the Guest arrive in the member's buffers, and
//! are copied from there into the Guest's.

use super::device::{Features, VirtioDevice};
use super::member::{FRAME_MOST, Member};
use super::queue::{Pair, Queue};
use crate::devices::net::checksum;
use crate::devices::{
    AT_ONCE, Filled, NamedCounts, Readiness, ReceiveBuffers, RestoreError,
    Violation,
};
use crate::memory::{SectionsIn, behind, gather, scatter, truncated};
use crate::transport::keys::KeyedDevice;
use crate::transport::keys::lan::Lan;
use crate::transport::{BusDevice, Device, DeviceState, SlowOutput};
use lg_abi::gen2::device::{NET_MAC, TYPE_NET};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes of the two addresses at the beginning of a frame: to, from.
const ADDRESSES: u32 = 12;

/// A network of several Guests on the bus.
pub struct VirtioLan {
    lan: Lan,
    /// The Ethernet address of the Guest.
    mac: [u8; 6],
    /// Whether the Guest uses other addresses, too.
    promiscuous: bool,
    placed: Option<(Arc<Member>, Pair)>,
}

impl VirtioLan {
    /// `lan`, to be put on a bus.
    #[must_use]
    pub fn new(lan: Lan) -> Self {
        // Unique on this network. The first byte marks it as assigned locally.
        let [low, high, ..] = (lan.slot() + 1).to_le_bytes();
        Self {
            lan,
            mac: [0x02, b'l', b'g', 0, high, low],
            promiscuous: false,
            placed: None,
        }
    }

    /// Sends a frame to every member that it is for.
    fn send(&mut self, frame: SectionsIn<'_>) -> Result<(), Violation> {
        let head = truncated(frame.list, ADDRESSES);
        let head = gather(frame.region, &head).map_err(Violation::of)?;
        let Some((to, from)) = head.split_first_chunk::<6>() else {
            return Ok(());
        };
        if from != self.mac && !self.promiscuous {
            // A bridge, or another address than the assigned one: from now on
            // the other members send all frames here.
            self.promiscuous = true;
            self.lan.set_mac(self.mac, true);
        }
        for slot in self.lan.members_for(*to) {
            self.lan.send_from(frame, slot);
        }
        Ok(())
    }
}

impl Device for VirtioLan {
    fn input(&self) -> Option<BorrowedFd<'_>> {
        let (member, _) = self.placed.as_ref()?;
        Some(member.bell())
    }

    fn counters(&self) -> NamedCounts {
        self.lan.counters()
    }

    fn state(&mut self) -> DeviceState {
        self.lan.state()
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        self.lan.restore(state)
    }
}

impl BusDevice for VirtioLan {
    fn device(&mut self) -> &mut dyn Device {
        self
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        let Some((member, queues)) = &self.placed else {
            return Ok(Readiness::Wait);
        };
        let Some(mut buffers) = queues.frame_buffers() else {
            return Ok(Readiness::Wait);
        };
        let queue = buffers.queue;
        let region = queue.guest().memory().region();
        member.silence();
        let mut frame = [0; FRAME_MOST as usize];
        for _ in 0..AT_ONCE {
            let Some(arrived) = member.next(&mut frame) else {
                return Ok(Readiness::Wait);
            };
            let frame = &mut frame[..arrived.bytes()];
            // A Guest of 2007 leaves checksums out on such a network.
            checksum::complete(frame);
            let done = buffers.fill(&mut |into| {
                let put = scatter(region, into.list, frame);
                put.map(|bytes| u32::try_from(bytes).unwrap_or(0))
                    .map_err(std::io::Error::other)
            })?;
            if matches!(done, Filled::NoneFree) && queue.is_ready() {
                return Ok(Readiness::Starved { watch: false });
            }
            // Without a driver, the Guest receives no frames.
            member.free(arrived);
        }
        Ok(Readiness::More)
    }
}

impl VirtioDevice for VirtioLan {
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
        self.mac.to_vec()
    }

    fn place(&mut self, queues: Vec<Queue>) -> std::io::Result<()> {
        let Some(queue) = queues.first() else {
            return Ok(());
        };
        let guest = queue.guest().clone();
        let member = Arc::new(Member::new(guest, self.lan.slot())?);
        self.lan.start(member.clone(), Member::PAGE)?;
        self.lan.bindings_changed();
        self.lan.set_mac(self.mac, false);
        self.placed = Some((member, Pair::new(queues)));
        Ok(())
    }

    fn input_queue(&self) -> Option<usize> {
        Some(Pair::TO_GUEST)
    }

    fn notify(
        &mut self,
        index: usize,
    ) -> Result<Option<SlowOutput>, Violation> {
        let placed = self.placed.as_ref();
        let queue = placed.and_then(|(_, pair)| pair.outgoing(index));
        let Some(queue) = queue.cloned() else {
            return Ok(None);
        };
        let memory = queue.guest().memory().clone();
        let header = queue.formats().net_header;
        while let Some(taken) = queue.take()? {
            let list = behind(&taken.chain.readable, header);
            self.send(SectionsIn {
                region: memory.region(),
                list: &list,
            })?;
            queue.answer(&taken, 0)?;
        }
        Ok(None)
    }

    fn damage(&self) -> Option<String> {
        KeyedDevice::damage(&self.lan)
    }
}

#[cfg(test)]
mod tests;
