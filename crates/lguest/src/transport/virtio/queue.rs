//! A virtqueue with its interrupt, which any thread may answer.
//!
//! A disk's thread answers chains that the thread of the Guest has taken, so a
//! ring has a lock. A reset of the device makes what was taken before it stale:
//! such a chain is not answered any more.
//!
//! The ring of a disk may be lent to the Host, which then answers reads
//! ([`lg_wire::disk`]). Whatever is done with the ring, it is taken back first.
//! That happens while the Host waits for the Launcher, or while the Guest is
//! held. A thread of the disk uses the ring only for chains that were taken,
//! and as long as there are such chains the ring is not lent.

use super::ring::{Chain, Place, Position, Ring};
use crate::devices::net::FrameBuffers;
use crate::devices::net::offload::{HEADER, Offload, Takes};
use crate::devices::{Filled, ReceiveBuffers, Violation};
use crate::engine::Requests;
use crate::lock::lock;
use crate::memory::{Region, Section, SectionsIn};
use crate::memory::{behind, gather, scatter, total, truncated};
use lg_abi::gen2::device::{
    FORMATS_2_6_25, Features, Formats, NET_GUEST_CHECKSUM, NET_GUEST_TCP4,
    NET_GUEST_TCP6, NET_HEADER, NET_HEADER_WITH_COUNT, NET_MERGEABLE,
};
use lg_wire::disk::LentRing;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// A virtqueue. Clones are handles to the same one.
#[derive(Clone)]
pub struct Queue {
    guest: Arc<dyn Requests>,
    irq: u8,
    formats: &'static Formats,
    state: Arc<Mutex<State>>,
}

struct State {
    ring: Ring,
    /// Goes up with every reset.
    life: u64,
    /// Whether the driver uses it.
    ready: bool,
    /// The number of the disk as which it is lent to the Host.
    lent: Option<usize>,
}

/// The state of a queue as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueState {
    position: Position,
    ready: bool,
}

/// A chain that was taken from a queue, to be answered once.
pub(super) struct Taken {
    /// What it describes.
    pub(super) chain: Chain,
    life: u64,
}

impl Queue {
    /// The queue whose ring is at `at`, until it is [put](Self::put) elsewhere.
    pub(super) fn new(
        guest: Arc<dyn Requests>,
        at: Place,
        irq: u8,
        formats: &'static Formats,
    ) -> Self {
        let ring = Ring::new(guest.memory().clone(), at);
        let state = State {
            ring,
            life: 0,
            ready: false,
            lent: None,
        };
        let state = Arc::new(Mutex::new(state));
        Self {
            guest,
            irq,
            formats,
            state,
        }
    }

    /// The state, with a ring that the Host does not have.
    fn ours(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        if let Some(disk) = state.lent.take()
            && let Some(words) = self.guest.disk_words(disk)
        {
            let position = Position::all_answered(words.take_back());
            state.ring.go_on_at(position);
        }
        state
    }

    /// Lends the ring to the Host, as that of disk number `disk`, which has so
    /// many sectors: unless a chain is under way, or the driver does not use
    /// the queue.
    pub(super) fn lend(&self, disk: usize, sectors: u32) {
        let mut state = self.ours();
        let position = state.ring.position().if_all_answered();
        let (true, Some(position)) = (state.ready, position) else {
            return;
        };
        if let Some(words) = self.guest.disk_words(disk) {
            let place = state.ring.place();
            words.lend(&LentRing {
                position,
                descriptors: place.descriptors,
                available: place.available,
                used: place.used,
                size: place.size.into(),
                irq: self.irq.into(),
                sectors,
            });
            state.lent = Some(disk);
        }
    }

    /// The driver has put the ring at `at`, and nothing was used of it.
    pub(super) fn put(&self, at: Place) {
        self.ours().ring.put(at);
    }

    /// What the headers in front of its data look like.
    pub(super) fn formats(&self) -> &'static Formats {
        self.formats
    }

    /// Physical address of the ring.
    pub(super) fn address(&self) -> u32 {
        lock(&self.state).ring.address()
    }

    /// The driver uses the queue.
    pub(super) fn start(&self) {
        lock(&self.state).ready = true;
    }

    /// The driver does not use the queue any more.
    pub(super) fn stop(&self) {
        self.ours().ready = false;
    }

    /// The driver has reset the device. The ring is empty, and chains that were
    /// taken are not answered any more.
    pub(super) fn reset(&self) {
        let mut state = self.ours();
        state.ring.reset();
        state.life += 1;
        state.ready = false;
    }

    /// The device's knowledge of the ring beyond what is in memory. Every chain
    /// that was taken must have been answered.
    pub(super) fn state(&self) -> QueueState {
        let state = self.ours();
        QueueState {
            position: state.ring.position(),
            ready: state.ready,
        }
    }

    /// Goes on with `saved`.
    pub(super) fn restore(&self, saved: &QueueState) {
        let mut state = self.ours();
        state.ring.go_on_at(saved.position);
        state.ready = saved.ready;
    }

    /// The Guest.
    pub(super) fn guest(&self) -> &Arc<dyn Requests> {
        &self.guest
    }

    /// Takes the next chain, if the driver is ready and there is one.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub(super) fn take(&self) -> Result<Option<Taken>, Violation> {
        let mut state = self.ours();
        if !state.ready {
            return Ok(None);
        }
        let life = state.life;
        let chain = state.ring.take()?;
        Ok(chain.map(|chain| Taken { chain, life }))
    }

    /// Answers a chain, into which `written` bytes went, and raises the
    /// interrupt if the Guest wants one.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub(super) fn answer(
        &self,
        taken: &Taken,
        written: u32,
    ) -> Result<(), Violation> {
        self.answer_all(&[(taken, written)])
    }

    /// Answers several chains, which belong together: the driver sees all of
    /// the answers or none.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn answer_all(&self, answers: &[(&Taken, u32)]) -> Result<(), Violation> {
        for (taken, _) in answers {
            self.guest.memory().note(&taken.chain.writable);
        }
        let mut state = lock(&self.state);
        let life = state.life;
        let mut fresh = answers
            .iter()
            .filter(|(taken, _)| taken.life == life)
            .map(|(taken, written)| (taken.chain.head(), *written))
            .peekable();
        if fresh.peek().is_none() {
            return Ok(());
        }
        let wanted = state.ring.answer(fresh)?;
        drop(state);
        if wanted {
            // A dead Guest needs no interrupt.
            let _ = self.guest.irq(self.irq);
        }
        Ok(())
    }

    /// Gives back the chain that was taken last.
    fn put_back(&self, taken: &Taken) {
        // A device that failed may have written some bytes.
        self.guest.memory().note(&taken.chain.writable);
        let mut state = lock(&self.state);
        if state.life == taken.life {
            state.ring.put_back();
        }
    }

    /// Its chains as buffers for what goes to the Guest.
    pub(super) fn buffers(&self) -> ReceiveChains<'_> {
        ReceiveChains {
            queue: self,
            header: 0,
            accepted: 0,
        }
    }

    /// How many chains it can have.
    fn size(&self) -> usize {
        lock(&self.state).ring.size().into()
    }

    /// Whether a driver uses the queue.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.state).ready
    }
}

/// The queues of a device with input and output: the first one takes what goes
/// to the Guest, the second one what comes from it.
#[derive(Default)]
pub(super) struct Pair {
    queues: Vec<Queue>,
    /// What the driver of a network has accepted.
    accepted: Features,
}

impl Pair {
    /// How many queues they are.
    pub(super) const QUEUES: u8 = 2;

    /// The number of the queue to the Guest.
    pub(super) const TO_GUEST: usize = 0;
    pub(super) const FROM_GUEST: usize = 1;

    pub(super) fn new(queues: Vec<Queue>) -> Self {
        let accepted = 0;
        Self { queues, accepted }
    }

    /// The queue to the Guest, unless the device has no place yet.
    pub(super) fn incoming(&self) -> Option<&Queue> {
        self.queues.get(Self::TO_GUEST)
    }

    /// Buffers for what goes to the Guest.
    pub(super) fn buffers(&self) -> Option<ReceiveChains<'_>> {
        Some(self.incoming()?.buffers())
    }

    /// Buffers for frames to the Guest, each with room for the header of one.
    pub(super) fn frame_buffers(&self) -> Option<ReceiveChains<'_>> {
        let queue = self.incoming()?;
        Some(ReceiveChains {
            queue,
            header: self.header(),
            accepted: self.accepted,
        })
    }

    /// The driver of a network accepts these features. Returns whether they are
    /// others than before.
    pub(super) fn accept(&mut self, features: Features) -> bool {
        std::mem::replace(&mut self.accepted, features) != features
    }

    /// Bytes of the header of a frame.
    fn header(&self) -> u32 {
        let header = self.incoming().map_or(0, |q| q.formats.net_header);
        match has(self.accepted, NET_MERGEABLE) {
            true => NET_HEADER_WITH_COUNT,
            false => header,
        }
    }

    /// Whether frames have headers as since Linux 2.6.25.
    pub(super) fn has_header(&self) -> bool {
        self.header() as usize >= HEADER
    }

    /// What the chain of a frame from the Guest has in it: the header, which is
    /// read once (all zero where there is none), and the frame.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    fn frame_in(
        &self,
        region: &Region,
        chain: &Chain,
    ) -> Result<([u8; HEADER], Vec<Section>), Violation> {
        let mut header = [0; HEADER];
        if self.has_header() {
            let sections = truncated(&chain.readable, NET_HEADER);
            let bytes = gather(region, &sections).map_err(Violation::of)?;
            if let Some(bytes) = bytes.first_chunk() {
                header = *bytes;
            }
        }
        Ok((header, behind(&chain.readable, self.header())))
    }

    /// Hands each frame that the Guest sends to `send`, with its chain and what
    /// [`Self::frame_in`] says, and answers it. `send` returns whether to go
    /// on. Does nothing if queue `index` is not the one from the Guest.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub(super) fn take_frames(
        &self,
        index: usize,
        mut send: impl FnMut(
            &Chain,
            [u8; HEADER],
            SectionsIn<'_>,
        ) -> Result<bool, Violation>,
    ) -> Result<(), Violation> {
        let Some(queue) = self.outgoing(index) else {
            return Ok(());
        };
        let region = queue.guest.memory().region();
        let mut more = true;
        while more && let Some(taken) = queue.take()? {
            let (header, list) = self.frame_in(region, &taken.chain)?;
            let list = &list;
            more = send(&taken.chain, header, SectionsIn { region, list })?;
            queue.answer(&taken, 0)?;
        }
        Ok(())
    }

    /// The queue from the Guest, if queue `index` is that.
    pub(super) fn outgoing(&self, index: usize) -> Option<&Queue> {
        self.queues.get(index).filter(|_| index == Self::FROM_GUEST)
    }
}

/// Where a header says how many buffers a frame has.
const COUNT: usize = FORMATS_2_6_25.net_header as usize;

/// Whether `feature` is one of these.
pub(super) fn has(features: Features, feature: u32) -> bool {
    features & 1 << feature != 0
}

/// The chains of a queue as buffers for what comes in, each with room in front
/// for a header.
pub(super) struct ReceiveChains<'q> {
    pub(super) queue: &'q Queue,
    /// Bytes of the header of a frame.
    header: u32,
    /// What the driver of a network has accepted.
    accepted: Features,
}

impl ReceiveBuffers for ReceiveChains<'_> {
    fn fill(
        &mut self,
        fill: &mut dyn FnMut(SectionsIn<'_>) -> io::Result<u32>,
    ) -> Result<Filled, Violation> {
        let Some(taken) = self.queue.take()? else {
            return Ok(Filled::NoneFree);
        };
        let region = self.queue.guest.memory().region();
        let list = &taken.chain.writable;
        match fill(SectionsIn { region, list }) {
            Ok(0) => {
                self.queue.put_back(&taken);
                Ok(Filled::Bytes(0))
            }
            Ok(bytes) => {
                self.queue.answer(&taken, bytes)?;
                Ok(Filled::Bytes(bytes))
            }
            Err(error) => {
                self.queue.put_back(&taken);
                Ok(Filled::Failed(error))
            }
        }
    }

    fn are_any(&self) -> bool {
        self.queue.is_ready()
    }
}

impl FrameBuffers for ReceiveChains<'_> {
    fn takes(&self) -> Takes {
        let has = |feature| has(self.accepted, feature);
        Takes {
            checksum: has(NET_GUEST_CHECKSUM),
            tcp4: has(NET_GUEST_TCP4),
            tcp6: has(NET_GUEST_TCP6),
            whole: false,
        }
    }

    fn put(
        &mut self,
        frame: &[u8],
        left: Offload,
    ) -> Result<Filled, Violation> {
        let region = self.queue.guest.memory().region();
        self.put_parts(frame, SectionsIn { region, list: &[] }, left)
    }
}

impl ReceiveChains<'_> {
    /// [`FrameBuffers::put`] of a frame in two parts, the second of which is
    /// copied from where it lies.
    pub(super) fn put_parts(
        &mut self,
        beginning: &[u8],
        rest: SectionsIn<'_>,
        left: Offload,
    ) -> Result<Filled, Violation> {
        let length = beginning.len() + rest.total() as usize;
        let chains = match self.chains(self.header as usize + length)? {
            Ok(chains) => chains,
            Err(filled) => return Ok(filled),
        };
        let mut header = left.header().to_vec();
        header.resize(self.header as usize, 0);
        if let Some(count) = header.get_mut(COUNT..COUNT + 2) {
            let chains = u16::try_from(chains.len()).unwrap_or(0);
            count.copy_from_slice(&chains.to_le_bytes());
        }
        let region = self.queue.guest.memory().region();
        let mut here = [&header[..], beginning];
        let mut rest_list = rest.list.to_vec();
        let mut answers = Vec::with_capacity(chains.len());
        for taken in &chains {
            let mut begun = 0;
            let mut list = Cow::from(&taken.chain.writable);
            for part in here.iter_mut().filter(|part| !part.is_empty()) {
                let bytes = scatter(region, &list, part);
                let bytes = bytes.map_err(Violation::of)?;
                *part = &part[bytes..];
                let bytes = u32::try_from(bytes).unwrap_or(0);
                list = behind(&list, bytes).into();
                begun += bytes;
            }
            if !rest_list.is_empty() {
                let from = SectionsIn {
                    region: rest.region,
                    list: &rest_list,
                };
                let list = &list;
                let bytes = from.copy(SectionsIn { region, list });
                let bytes = bytes.map_err(Violation::of)?;
                rest_list = behind(&rest_list, bytes);
                begun += bytes;
            }
            answers.push((taken, begun));
        }
        self.queue.answer_all(&answers)?;
        Ok(Filled::Bytes(u32::try_from(length).unwrap_or(0)))
    }

    /// Takes chains for `bytes` bytes. The error says why there are none; then
    /// none was taken.
    fn chains(
        &self,
        bytes: usize,
    ) -> Result<Result<Vec<Taken>, Filled>, Violation> {
        let most = match has(self.accepted, NET_MERGEABLE) {
            true => self.queue.size(),
            false => 1,
        };
        let mut chains = Vec::new();
        let mut room = 0;
        while room < bytes {
            let next = match chains.len() < most {
                true => self.queue.take()?.ok_or(Filled::NoneFree),
                false => Err(Filled::Bytes(0)),
            };
            match next {
                Ok(taken) => {
                    let bytes = total(&taken.chain.writable);
                    if chains.is_empty() && bytes < self.header {
                        let text = "a buffer that is too short for its header";
                        return Err(Violation(text.into()));
                    }
                    room += bytes as usize;
                    chains.push(taken);
                }
                Err(filled) => {
                    for taken in chains.iter().rev() {
                        self.queue.put_back(taken);
                    }
                    return Ok(Err(filled));
                }
            }
        }
        Ok(Ok(chains))
    }
}
