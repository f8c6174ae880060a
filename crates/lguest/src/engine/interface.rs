//! The two traits of an engine, and what they speak of.
//!
//! Everything here is about what a Guest does and what is done to it, and
//! nothing about how it is run.

use super::bindings::{Binding, BoundDma};
use super::death::Death;
use super::error::RequestError;
use super::hold::Hold;
use crate::memory::GuestMemory;
use lg_abi::known::Known;
use lg_abi::request::Initialize;
use std::os::fd::OwnedFd;

/// What a device asks of the engine. Any thread may ask.
pub trait Requests: Send + Sync {
    /// The Guest's memory.
    fn memory(&self) -> &GuestMemory;

    /// LHREQ_GETDMA: the first free buffer that the Guest has bound to `key`;
    /// `None` when it has bound none, or all are full. A Guest that has bound
    /// memory which it does not have dies of it here.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Dead`].
    fn get_dma(&self, key: u32) -> Result<Option<BoundDma>, RequestError>;

    /// LHREQ_IRQ: raises interrupt `irq`; wakes the Guest if it sleeps.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoSuchIrq`], [`RequestError::NotInitialised`],
    /// [`RequestError::Dead`].
    fn irq(&self, irq: u8) -> Result<(), RequestError>;

    /// The arrays of buffers that are bound to keys in the page at `page`.
    fn bindings_in(&self, page: u32) -> Vec<Binding>;

    /// Ends the Guest for `reason`: the next [`Engine::run`] says so. The
    /// first reason counts.
    fn kill(&self, reason: String);

    /// Moves the calling thread to the processor that the Guest is kept on,
    /// for a thread that wakes it often: a wake-up from another processor
    /// takes longer. `at` is where the thread was moved last.
    fn stay_close(&self, _at: &mut Option<usize>) {}
}

/// Runs a Guest. Dropping the engine ends the Guest.
pub trait Engine: Requests {
    /// LHREQ_INITIALIZE: gets everything ready for the first `run`.
    ///
    /// # Errors
    ///
    /// [`RequestError::AlreadyInitialised`], [`RequestError::Start`].
    fn initialize(&self, setup: Setup) -> Result<(), RequestError>;

    /// Runs the Guest until something has to be done for it. Blocks. One
    /// thread runs it at a time; a second one waits for its turn.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`].
    fn run(&self) -> Result<Exit, RequestError>;

    /// LHREQ_BREAK: the Guest stops at the next clean point, and stays there
    /// as long as there is a [`Hold`]. Does not wait for it to stop.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Dead`].
    fn hold(&self) -> Result<Hold, RequestError>;

    /// Blocks until there is no [`Hold`], or the Guest is dead.
    fn wait_until_let_go(&self);

    /// Some input waits for a buffer: from now on [`Self::run`] comes back
    /// once with [`Exit::BuffersMayBeFree`] when the Guest may have freed one.
    /// A Guest frees buffers in its own memory, so its Host does not know it;
    /// but a Guest that has nothing more to do has freed what it is going to
    /// free. `woken`: `run` comes back also when the Guest wakes up.
    ///
    /// Returns whether the Guest sleeps. A caller that has `woken` set and
    /// finds no buffer *after* such an answer can wait without a time limit:
    /// no buffer is freed before `run` comes back.
    #[must_use]
    fn wait_for_buffers(&self, woken: bool) -> bool;

    /// How the Guest ended, if it has.
    fn death(&self) -> Option<Death>;

    /// What there is to count. After the Guest's end it is complete.
    fn counters(&self) -> EngineCounters;
}

/// What an engine needs to know of a Guest before it runs.
#[derive(Debug)]
pub struct Setup {
    /// The four words of LHREQ_INITIALIZE.
    pub request: Initialize,
    /// Which interface the Guest has.
    pub interface: Known,
    /// What the Guest starts with in esi: the physical address of its boot
    /// parameters, for generations that look there.
    pub boot_parameters: u32,
    /// The number that the Guest is told to have among its like; it makes its
    /// Ethernet address of it. The Launcher's process number, if there is
    /// none.
    pub guest_id: Option<u16>,
    /// Fast paths that the Host must not take: bits of
    /// [`lg_wire::fast_path`].
    pub slow_paths: u32,
    /// What keeps user code from its kernel.
    pub isolation: Isolation,
    /// Pages of the Guest that lie in other files than its memory.
    pub shared_pages: Vec<SharedPage>,
}

impl From<Initialize> for Setup {
    fn from(request: Initialize) -> Self {
        Self {
            request,
            interface: Known::default(),
            boot_parameters: 0,
            guest_id: None,
            slow_paths: 0,
            isolation: Isolation::default(),
            shared_pages: Vec::new(),
        }
    }
}

/// What keeps a Guest's user code from its kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Segment limits, which stop accidents: towards all others, user code
    /// and kernel are one.
    #[default]
    Guest,
    /// Processes of its own, which stop attacks.
    User,
}

/// A page of the Guest that lies in another file than its memory, because
/// other Guests share it.
#[derive(Debug)]
pub struct SharedPage {
    /// Its number.
    pub pfn: u32,
    /// The file whose first page it is. The views inherit a copy.
    pub file: OwnedFd,
    /// Where its Guest posts frames for the others ([`lg_wire::outbox`]).
    pub outbox: OwnedFd,
}

/// Why [`Engine::run`] returned. The Guest stands still until the next `run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The Guest sends the `lguest_dma` at physical address `dma` to `key`.
    SendDma {
        /// Physical address of the `lguest_dma`, checked to be there whole.
        dma: u32,
        /// The key, checked to be a multiple of 4 below the limit.
        key: u32,
    },
    /// NOTIFY: the Guest points a device, or the early console, to what is at
    /// this address.
    Notify {
        /// A physical address, checked to be there.
        address: u32,
    },
    /// The Guest has bound or unbound an array of buffers.
    BindingsChanged,
    /// The Guest may have freed a buffer: see [`Engine::wait_for_buffers`].
    BuffersMayBeFree,
    /// There is a [`Hold`], and the Guest stands at a clean point. `run`
    /// comes back with this as long as it is held.
    Held,
    /// The Guest has ended, and will not run again.
    Dead(Death),
}

/// Counts for the statistics. A Guest that has broken into its Host may make
/// up what the Host counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// What the Host has counted and is not zero, by name.
    pub host: Vec<(String, u64)>,
    /// How many pieces of the Guest's memory have become large pages.
    pub huge_pages: u64,
}
