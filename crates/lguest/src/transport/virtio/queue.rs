//! A virtqueue with its interrupt, which any thread may answer.
//!
//! A disk's thread answers chains that the thread of the Guest has taken, so a
//! ring has a lock. A reset of the device makes what was taken before it stale:
//! such a chain is not answered any more.

use super::ring::{Chain, Place, Position, Ring};
use crate::devices::{Filled, ReceiveBuffers, Violation};
use crate::engine::Requests;
use crate::lock::lock;
use crate::memory::{SectionsIn, total};
use lg_abi::gen2::device::{FORMATS_2_6_25, Formats};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::{Arc, Mutex};

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
        };
        let state = Arc::new(Mutex::new(state));
        Self {
            guest,
            irq,
            formats,
            state,
        }
    }

    /// The driver has put the ring at `at`, and nothing was used of it.
    pub(super) fn put(&self, at: Place) {
        lock(&self.state).ring.put(at);
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
        lock(&self.state).ready = false;
    }

    /// The driver has reset the device. The ring is empty, and chains that were
    /// taken are not answered any more.
    pub(super) fn reset(&self) {
        let mut state = lock(&self.state);
        state.ring.reset();
        state.life += 1;
        state.ready = false;
    }

    /// The device's knowledge of the ring beyond what is in memory. Every chain
    /// that was taken must have been answered.
    pub(super) fn state(&self) -> QueueState {
        let state = lock(&self.state);
        QueueState {
            position: state.ring.position(),
            ready: state.ready,
        }
    }

    /// Goes on with `saved`.
    pub(super) fn restore(&self, saved: &QueueState) {
        let mut state = lock(&self.state);
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
        let mut state = lock(&self.state);
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
        self.guest.memory().note(&taken.chain.writable);
        let mut state = lock(&self.state);
        if state.life != taken.life {
            return Ok(());
        }
        let wanted = state.ring.answer(taken.chain.head(), written)?;
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

    /// Whether a driver uses the queue.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.state).ready
    }
}

/// The queues of a device with input and output: the first one takes what goes
/// to the Guest, the second one what comes from it.
#[derive(Default)]
pub(super) struct Pair(Vec<Queue>);

impl Pair {
    /// How many queues they are.
    pub(super) const QUEUES: u8 = 2;

    /// The number of the queue to the Guest.
    pub(super) const TO_GUEST: usize = 0;
    const FROM_GUEST: usize = 1;

    pub(super) fn new(queues: Vec<Queue>) -> Self {
        Self(queues)
    }

    /// The queue to the Guest, unless the device has no place yet.
    pub(super) fn incoming(&self) -> Option<&Queue> {
        self.0.get(Self::TO_GUEST)
    }

    /// Buffers for what goes to the Guest.
    pub(super) fn buffers(&self) -> Option<ReceiveChains<'_>> {
        let queue = self.incoming()?;
        Some(ReceiveChains { queue, header: 0 })
    }

    /// Buffers for frames to the Guest, each with room for the header of one.
    pub(super) fn frame_buffers(&self) -> Option<ReceiveChains<'_>> {
        let queue = self.incoming()?;
        let header = queue.formats.net_header;
        Some(ReceiveChains { queue, header })
    }

    /// The queue from the Guest, if queue `index` is that.
    pub(super) fn outgoing(&self, index: usize) -> Option<&Queue> {
        self.0.get(index).filter(|_| index == Self::FROM_GUEST)
    }
}

/// The byte of a header of generation 3 that says how many buffers a frame has.
const BUFFERS_OF_A_FRAME: usize = FORMATS_2_6_25.net_header as usize;

/// The chains of a queue as buffers for what comes in, each with room in front
/// for a header.
pub(super) struct ReceiveChains<'q> {
    pub(super) queue: &'q Queue,
    /// Bytes of the header, which is zero up to the number of buffers of a
    /// frame.
    header: u32,
}

impl ReceiveBuffers for ReceiveChains<'_> {
    fn fill(
        &mut self,
        fill: &mut dyn FnMut(SectionsIn<'_>) -> io::Result<u32>,
    ) -> Result<Filled, Violation> {
        let Some(taken) = self.queue.take()? else {
            return Ok(Filled::NoneFree);
        };
        let memory = self.queue.guest.memory();
        let sections = &taken.chain.writable;
        if total(sections) < self.header {
            let text = "a buffer that is too short for its header";
            return Err(Violation(text.into()));
        }
        let list = crate::memory::behind(sections, self.header);
        let into = SectionsIn {
            region: memory.region(),
            list: &list,
        };
        match fill(into) {
            Ok(0) => {
                self.queue.put_back(&taken);
                Ok(Filled::Bytes(0))
            }
            Ok(bytes) => {
                let mut header = vec![0; self.header as usize];
                if let Some(buffers) = header.get_mut(BUFFERS_OF_A_FRAME) {
                    *buffers = 1;
                }
                let region = memory.region();
                crate::memory::scatter(region, sections, &header)
                    .map_err(Violation::of)?;
                let written = self.header.saturating_add(bytes);
                self.queue.answer(&taken, written)?;
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
