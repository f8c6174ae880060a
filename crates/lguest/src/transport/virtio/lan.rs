//! A network of several Guests on the bus of virtio.
//!
//! The network has the rules of 2007: a page with a slot for each member, and
//! keys of slots ([`crate::transport::keys::lan`]). A driver of virtio knows
//! neither. So the Launcher is the [`Member`] on behalf of its Guest. A frame
//! from the Guest goes to the key of each member that it is for, directly from
//! the Guest's memory. Frames for the Guest arrive in the member's buffers, and
//! are copied from there into the Guest's.
//!
//! Another Launcher that is a member takes a frame with its header, and does
//! what its Guest does not take over. A Guest of 2007 gets finished frames.

use super::device::{Features, VirtioDevice};
use super::member::{MOST, Member, long_key};
use super::queue::{Pair, Queue};
use super::ring::Chain;
use crate::devices::net::offload::{HEADER, Offload, Takes};
use crate::devices::net::{FRAME_MOST, FrameBuffers, checksum};
use crate::devices::{
    AT_ONCE, Filled, NamedCounts, Readiness, RestoreError, Violation,
};
use crate::memory::{GuestMemory, Region, Section, SectionsIn};
use crate::memory::{gather, truncated};
use crate::transport::keys::KeyedDevice;
use crate::transport::keys::lan::Lan;
use crate::transport::{BusDevice, Device, DeviceState, SlowOutput};
use lg_abi::gen2::device::{NET_HEADER, TYPE_NET};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes of the two addresses at the beginning of a frame: to, from.
const ADDRESSES: u32 = 12;

/// Bytes for a part of a frame.
const PARTS: u32 = 0x1_2000;

/// A network of several Guests on the bus.
pub struct VirtioLan {
    lan: Lan,
    /// The Ethernet address of the Guest.
    mac: [u8; 6],
    /// Whether the Guest uses other addresses, too.
    promiscuous: bool,
    /// The member, the queues of the Guest, and memory for parts of a frame
    /// that is sent, which no other process can write.
    placed: Option<(Arc<Member>, Pair, GuestMemory)>,
    /// Parts of the frame that was received last, for which the Guest had no
    /// buffer yet.
    waiting: VecDeque<(Vec<u8>, Offload)>,
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
            waiting: VecDeque::new(),
        }
    }

    /// Sends a frame of the Guest, which is in `chain`, to every member that it
    /// is for.
    fn send(
        &mut self,
        region: &Region,
        chain: &Chain,
    ) -> Result<(), Violation> {
        let Some((_, pair, _)) = &self.placed else {
            return Ok(());
        };
        let (header, list) = pair.frame_in(region, chain)?;
        let has_header = pair.has_header();
        let head = truncated(&list, ADDRESSES);
        let head = gather(region, &head).map_err(Violation::of)?;
        let Some((to, from)) = head.split_first_chunk::<6>() else {
            return Ok(());
        };
        if from != self.mac && !self.promiscuous {
            // A bridge, or another address than the assigned one: from now on
            // the other members send all frames here.
            self.promiscuous = true;
            self.lan.set_mac(self.mac, true);
        }
        // The receiver checks the header against its copy of the frame, so what
        // the Guest writes meanwhile makes no difference.
        let first = truncated(&chain.readable, NET_HEADER);
        let whole = [first, list.clone()].concat();
        let whole = SectionsIn {
            region,
            list: &whole,
        };
        let fits = has_header && whole.total() as usize <= MOST;
        let list = &list;
        let frame = SectionsIn { region, list };
        for slot in self.lan.members_for(*to) {
            let by = long_key(slot).filter(|_| fits);
            let sent = by.is_some_and(|key| self.lan.send_by(whole, slot, key));
            match sent {
                true => {}
                false if header == [0; HEADER] => {
                    self.lan.send_from(frame, slot);
                }
                false => self.send_parts(frame, header, slot)?,
            }
        }
        Ok(())
    }

    /// Sends a frame to a member that takes nothing over, in as many parts as
    /// it has to be cut into.
    fn send_parts(
        &self,
        frame: SectionsIn<'_>,
        header: [u8; HEADER],
        slot: u32,
    ) -> Result<(), Violation> {
        let Some((_, _, parts)) = &self.placed else {
            return Ok(());
        };
        if frame.total() as usize > FRAME_MOST {
            return Ok(());
        }
        let copy = gather(frame.region, frame.list);
        let mut copy = copy.map_err(Violation::of)?;
        let Ok(left) = Offload::read(header, &copy) else {
            return Ok(()); // such a frame is lost
        };
        let region = parts.region();
        left.fit(&mut copy, Takes::default(), &mut |part, _| {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let section = Section::new(region, 0, length);
            let written = parts.write(0, part);
            if let (Ok(section), Ok(())) = (section, written) {
                let list = &[section];
                self.lan.send_from(SectionsIn { region, list }, slot);
            }
        });
        Ok(())
    }

    /// The next frame of the network, or a part of it, for a Guest of `takes`.
    fn receive(&mut self, takes: Takes) -> bool {
        let Some((member, ..)) = &self.placed else {
            return false;
        };
        let Some(arrived) = member.next() else {
            return false;
        };
        member.free(arrived.place);
        let mut frame = arrived.frame;
        let left = match arrived.header {
            Some(header) => Offload::read(header, &frame),
            None => {
                // A Guest of 2007 leaves checksums out on such a network.
                checksum::complete(&mut frame);
                Ok(Offload::default())
            }
        };
        let Ok(left) = left else {
            return true; // such a frame is lost
        };
        if let Some(left) = left.as_it_is(takes) {
            self.waiting.push_back((frame, left));
            return true;
        }
        left.fit(&mut frame, takes, &mut |part, left| {
            self.waiting.push_back((part.to_vec(), left));
        });
        true
    }
}

impl Device for VirtioLan {
    fn input(&self) -> Option<BorrowedFd<'_>> {
        let (member, ..) = self.placed.as_ref()?;
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
        let Some((member, queues, _)) = &self.placed else {
            return Ok(Readiness::Wait);
        };
        let Some(buffers) = queues.frame_buffers() else {
            return Ok(Readiness::Wait);
        };
        let (queue, takes) = (buffers.queue.clone(), buffers.takes());
        member.silence();
        for _ in 0..AT_ONCE {
            if self.waiting.is_empty() && !self.receive(takes) {
                return Ok(Readiness::Wait);
            }
            let Some((frame, left)) = self.waiting.front() else {
                continue;
            };
            let placed = self.placed.as_ref();
            let pair = placed.and_then(|(_, pair, _)| pair.frame_buffers());
            let Some(mut buffers) = pair else { break };
            let done = buffers.put(frame, *left)?;
            if matches!(done, Filled::NoneFree) && queue.is_ready() {
                return Ok(Readiness::Starved { watch: false });
            }
            // Without a driver, the Guest receives no frames.
            self.waiting.pop_front();
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
        super::nic::FEATURES
    }

    fn accepted(&mut self, features: Features) {
        if let Some((_, pair, _)) = &mut self.placed
            && pair.accept(features)
        {
            self.waiting.clear();
        }
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
        let parts = GuestMemory::new(PARTS, 0)?;
        self.placed = Some((member, Pair::new(queues), parts));
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
        let queue = placed.and_then(|(_, pair, _)| pair.outgoing(index));
        let Some(queue) = queue.cloned() else {
            return Ok(None);
        };
        let memory = queue.guest().memory().clone();
        let region = memory.region();
        while let Some(taken) = queue.take()? {
            self.send(region, &taken.chain)?;
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
