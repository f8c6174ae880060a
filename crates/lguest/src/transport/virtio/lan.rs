//! A network of several Guests on the bus of virtio.
//!
//! The network has the rules of 2007: a page with a slot for each member, and
//! keys of slots ([`crate::transport::keys::lan`]). A driver of virtio knows
//! neither. So the Launcher is the [`Member`] on behalf of its Guest. A frame
//! from the Guest goes to the key of each member that it is for, directly from
//! the Guest's memory. Frames for the Guest arrive in the member's buffers, and
//! are copied from there into the Guest's: at once if the Guest gets them as
//! they are.
//!
//! Another Launcher that is a member takes a frame with its header, and does
//! what its Guest does not take over. A Guest of 2007 gets finished frames.

use super::device::{Features, VirtioDevice};
use super::member::{Arrived, MOST, Member, long_key};
use super::queue::{Pair, Queue, ReceiveChains};
use crate::devices::net::offload::{HEADER, Offload, Takes};
use crate::devices::net::{
    FRAME_MOST, FrameBuffers, Waiting, checksum, ethernet,
};
use crate::devices::{
    AT_ONCE, Filled, NamedCounts, Readiness, RestoreError, Violation,
};
use crate::memory::{
    GuestMemory, Section, SectionsIn, behind, gather, truncated,
};
use crate::transport::keys::KeyedDevice;
use crate::transport::keys::lan::Lan;
use crate::transport::{
    BusDevice, Detached, Device, DeviceState, SlowOutput, TakeInput,
};
use lg_abi::gen2::device::{NET_HEADER, TYPE_NET};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes of the two addresses at the beginning of a frame: to, from.
const ADDRESSES: u32 = 12;

/// Bytes for a part of a frame.
const PARTS: u32 = 0x1_2000;

/// A network of several Guests on the bus.
pub struct VirtioLan {
    /// `None` after the user has taken the network away.
    sender: Option<Sender>,
    /// The Ethernet address of the Guest.
    mac: [u8; 6],
    /// Its counters and state at that time.
    last: Option<(NamedCounts, DeviceState)>,
    /// The member, and the queues of the Guest.
    placed: Option<(Arc<Member>, Pair)>,
    waiting: Waiting,
}

/// The way of frames from the Guest.
struct Sender {
    lan: Lan,
    /// The Ethernet address of the Guest.
    mac: [u8; 6],
    /// Whether the Guest uses other addresses, too.
    promiscuous: bool,
    /// Memory for a part of a frame, which no other process can write. There is
    /// none before the device has a place.
    parts: Option<GuestMemory>,
}

impl VirtioLan {
    /// `lan`, to be put on a bus.
    #[must_use]
    pub fn new(lan: Lan) -> Self {
        let mac = lan.mac();
        let sender = Sender {
            mac,
            lan,
            promiscuous: false,
            parts: None,
        };
        Self {
            sender: Some(sender),
            mac,
            last: None,
            placed: None,
            waiting: Waiting::default(),
        }
    }
}

impl Sender {
    /// Sends a frame of the Guest, with this header, to every member that it is
    /// for. `headed`: the frame in the Guest's memory, behind its header, if it
    /// has one.
    fn send(
        &mut self,
        header: [u8; HEADER],
        frame: SectionsIn<'_>,
        headed: Option<SectionsIn<'_>>,
    ) -> Result<(), Violation> {
        if (frame.total() as usize) < ethernet::HEADER {
            return Ok(()); // it is no frame
        }
        let head = truncated(frame.list, ADDRESSES);
        let head = gather(frame.region, &head).map_err(Violation::of)?;
        let Some((to, from)) = head.split_first_chunk::<6>() else {
            return Ok(());
        };
        let is_for_several = to[0] & 1 != 0;
        if is_for_several && Offload::has_segments(header) {
            // TCP has one receiver. Thousands of frames would become of this
            // one, for each member.
            return Ok(());
        }
        if from != self.mac && !self.promiscuous {
            // A bridge, or another address than the assigned one: from now on
            // the other members send all frames here.
            self.promiscuous = true;
            self.lan.set_mac(self.mac, true);
        }
        let headed = headed.filter(|whole| whole.total() as usize <= MOST);
        let mut others = Vec::new();
        for slot in self.lan.members_for(*to) {
            let by = long_key(slot).zip(headed);
            let send_by = |(key, whole)| self.lan.send_by(whole, slot, key);
            if by.is_some_and(send_by) {
                continue;
            }
            match header == [0; HEADER] {
                true => self.lan.send_from(frame, slot),
                false => others.push(slot),
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        self.send_parts(header, frame, &others)
    }

    /// Sends a frame to members that take nothing over, in as many parts as it
    /// has to be cut into.
    fn send_parts(
        &self,
        header: [u8; HEADER],
        frame: SectionsIn<'_>,
        slots: &[u32],
    ) -> Result<(), Violation> {
        let Some(parts) = &self.parts else {
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
            let (Ok(section), Ok(())) = (section, written) else {
                return;
            };
            let list = &[section];
            for slot in slots {
                self.lan.send_from(SectionsIn { region, list }, *slot);
            }
        });
        Ok(())
    }
}

/// Bytes of a frame in which the headers are that a header of virtio is about:
/// Ethernet with tags, IP and TCP with options.
const BEGINNING: u32 = 256;

/// Copies a frame that has arrived directly into `buffers`, if their Guest gets
/// it as it is. `None`: it has to be finished for this Guest, or breaks a rule.
fn pass_on(
    member: &Member,
    arrived: &Arrived,
    buffers: &mut ReceiveChains<'_>,
) -> Result<Option<Filled>, Violation> {
    let Some(header) = arrived.header else {
        return Ok(None);
    };
    let region = member.region();
    let all = &[arrived.frame];
    // The header is checked against this copy. The rest of the frame is data.
    let first = gather(region, &truncated(all, BEGINNING));
    let first = first.map_err(Violation::of)?;
    if first.len() < ethernet::HEADER {
        return Ok(None);
    }
    let length = arrived.frame.len() as usize;
    let left = Offload::read_beginning(header, &first, length).ok();
    let left = left.and_then(|left| left.as_it_is(buffers.takes()));
    let Some(left) = left else {
        return Ok(None);
    };
    let list = &behind(all, BEGINNING);
    let rest = SectionsIn { region, list };
    buffers.put_parts(&first, rest, left).map(Some)
}

/// Takes a frame that has arrived, for a Guest of `takes`. If it breaks a rule,
/// it is dropped.
fn receive(
    member: &Member,
    arrived: &Arrived,
    takes: Takes,
    waiting: &mut Waiting,
) {
    let frame = gather(member.region(), &[arrived.frame]);
    member.free(arrived.place);
    let Ok(mut frame) = frame else {
        return;
    };
    if frame.len() < ethernet::HEADER {
        return; // it is no frame
    }
    let left = match arrived.header {
        Some(header) => Offload::read(header, &frame),
        None => {
            // A Guest of 2007 leaves checksums out on such a network.
            checksum::complete(&mut frame);
            Ok(Offload::default())
        }
    };
    if let Ok(left) = left {
        waiting.add(frame, left, takes);
    }
}

/// Whether a frame has to wait for buffers of the Guest. Without a driver, the
/// Guest receives no frames.
fn is_starved(done: &Filled, buffers: &ReceiveChains<'_>) -> bool {
    matches!(done, Filled::NoneFree) && buffers.queue.is_ready()
}

impl Device for VirtioLan {
    fn input(&self) -> Option<BorrowedFd<'_>> {
        let (member, _) = self.placed.as_ref()?;
        Some(member.bell())
    }

    fn detach(&mut self) -> Detached {
        let Some(sender) = self.sender.take() else {
            return Detached::Not;
        };
        let state = DeviceState::Lan(sender.lan.state_now());
        self.last = Some((sender.lan.counters(), state));
        self.waiting.clear();
        Detached::Leaves(Box::new(sender))
    }

    fn counters(&self) -> NamedCounts {
        match (&self.sender, &self.last) {
            (Some(sender), _) => sender.lan.counters(),
            (None, Some((counters, _))) => counters.clone(),
            (None, None) => NamedCounts::new(),
        }
    }

    fn state(&mut self) -> DeviceState {
        match (&self.sender, &self.last) {
            // Frames arrive in memory of ours, and not in the Guest's.
            (Some(sender), _) => DeviceState::Lan(sender.lan.state_now()),
            (None, Some((_, state))) => state.clone(),
            // It is taken away in one way only, which keeps the state.
            (None, None) => DeviceState::Random,
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match (state, &mut self.sender) {
            // The Guest does not know its place.
            (DeviceState::Lan(state), Some(sender)) => {
                sender.lan.go_on_counting(state)
            }
            // It is connected to something else now, and counts anew.
            (DeviceState::Nic(_), _) => Ok(()),
            (other, _) => Err(other.is_not_of("LAN")),
        }
    }
}

impl BusDevice for VirtioLan {
    fn device(&mut self) -> &mut dyn Device {
        self
    }

    fn let_take(&mut self, take: TakeInput) {
        if let Some((member, _)) = &self.placed {
            member.let_take(take);
        }
    }

    fn handle_input(&mut self) -> Result<Readiness, Violation> {
        if self.sender.is_none() {
            return Ok(Readiness::Closed);
        }
        let Some((member, queues)) = &self.placed else {
            return Ok(Readiness::Wait);
        };
        let Some(mut buffers) = queues.frame_buffers() else {
            return Ok(Readiness::Wait);
        };
        member.silence();
        for _ in 0..AT_ONCE {
            if self.waiting.is_empty() {
                let Some(arrived) = member.next() else {
                    return Ok(Readiness::Wait);
                };
                if let Some(done) = pass_on(member, &arrived, &mut buffers)? {
                    if is_starved(&done, &buffers) {
                        return Ok(Readiness::Starved { watch: false });
                    }
                    member.free(arrived.place);
                    continue;
                }
                let takes = buffers.takes();
                receive(member, &arrived, takes, &mut self.waiting);
            }
            let done = self.waiting.put_first(&mut buffers)?;
            if done.is_some_and(|done| is_starved(&done, &buffers)) {
                return Ok(Readiness::Starved { watch: false });
            }
            self.waiting.drop_first();
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
        if let Some((_, pair)) = &mut self.placed
            && pair.accept(features)
        {
            self.waiting.clear();
        }
    }

    fn config(&self) -> Vec<u8> {
        self.mac.to_vec()
    }

    fn is_linked(&self) -> bool {
        self.sender.is_some()
    }

    fn place(&mut self, queues: Vec<Queue>) -> std::io::Result<()> {
        let (Some(queue), Some(sender)) = (queues.first(), &mut self.sender)
        else {
            return Ok(());
        };
        let guest = queue.guest().clone();
        let Sender { lan, mac, .. } = &mut *sender;
        let member = Arc::new(Member::new(guest, lan.slot())?);
        lan.without_a_host();
        lan.start(member.clone(), Member::PAGE)?;
        lan.bindings_changed();
        lan.set_mac(*mac, false);
        sender.parts = Some(GuestMemory::new(PARTS, 0)?);
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
        let Some((_, pair)) = &self.placed else {
            return Ok(None);
        };
        let Some(sender) = &mut self.sender else {
            // What the Guest sends is lost.
            pair.take_frames(index, |_, _, _| Ok(true))?;
            return Ok(None);
        };
        let has_header = pair.has_header();
        pair.take_frames(index, |chain, header, frame| {
            // The receiver checks the header against its copy of the frame, so
            // what the Guest writes meanwhile makes no difference.
            let first = truncated(&chain.readable, NET_HEADER);
            let list = &[&first, frame.list].concat();
            let region = frame.region;
            let headed = has_header.then_some(SectionsIn { region, list });
            sender.send(header, frame, headed).map(|()| true)
        })?;
        Ok(None)
    }

    fn damage(&self) -> Option<String> {
        KeyedDevice::damage(&self.sender.as_ref()?.lan)
    }
}

#[cfg(test)]
mod tests;
