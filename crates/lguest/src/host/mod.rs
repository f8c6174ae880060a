//! The Host as the Launcher sees it: four requests, and a run.
//!
//! In 2007 this was the character device `/dev/lguest`; here it is a type.
//! LHREQ_INITIALIZE comes first, LHREQ_GETDMA finds a buffer to fill,
//! LHREQ_IRQ raises an interrupt, LHREQ_BREAK makes the Guest stop at a clean
//! point; a read runs the Guest until it sends DMA, is broken out of, or has
//! died. Behind the requests stand the processes that run the Guest, and
//! nothing that they write is believed.
//!
//! A [`Guest`] is a handle: clones name the same Guest, and any thread may
//! raise interrupts or look for buffers while one of them runs it.

use crate::memory::GuestMemory;
use lg_abi::request::Initialize;
use std::fmt;
use std::io;

/// A running Guest, or one that is about to run or has died.
#[derive(Clone)]
pub struct Guest {
    memory: GuestMemory,
}

/// A page of the Guest's that lies in another file than its memory, because
/// other Guests share it.
pub struct SharedPage {
    /// Its number.
    pub pfn: u32,
    /// The file whose first page it is. The views inherit a copy.
    pub file: std::os::fd::OwnedFd,
}

/// A free buffer that the Guest has bound: the answer to LHREQ_GETDMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundDma {
    /// Physical address of the `lguest_dma`.
    pub addr: u32,
    /// The interrupt to raise when it is filled.
    pub irq: u8,
}

/// Buffers that the Guest has bound to a key with BIND_DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The key.
    pub key: u32,
    /// Physical address of the array of `lguest_dma`s, not checked.
    pub dmas: u32,
    /// How many there are.
    pub num: u32,
    /// The interrupt to raise when one is filled.
    pub irq: u8,
}

/// Why [`Guest::run`] came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The Guest sends the `lguest_dma` at physical address `dma` to `key`.
    /// It waits until the next `run`.
    SendDma {
        /// Physical address of the `lguest_dma`, checked to be there whole.
        dma: u32,
        /// The key, checked to be a multiple of 4 below the limit.
        key: u32,
    },
    /// LHREQ_BREAK: the Guest stands at a clean point.
    Broken,
    /// The Guest has ended, and will not run again.
    Dead(Death),
}

/// How a Guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// It powered itself off, with an exit code (0 where it named none).
    PowerOff(u8),
    /// It called CRASH with this message (made printable).
    Crash(String),
    /// The Host or the Launcher killed it for this reason.
    Killed(String),
    /// A process that runs it has gone: killed from outside, or fallen over.
    Lost(String),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff(0) => f.write_str("powered off"),
            Self::PowerOff(code) => write!(f, "powered off with code {code}"),
            Self::Crash(message) => write!(f, "CRASH: {message}"),
            Self::Killed(why) | Self::Lost(why) => f.write_str(why),
        }
    }
}

/// A request that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// LHREQ_INITIALIZE has not come yet (EINVAL).
    #[error("the guest has not been initialised")]
    NotInitialised,
    /// LHREQ_INITIALIZE came twice (EBUSY).
    #[error("the guest has been initialised already")]
    AlreadyInitialised,
    /// There is no such interrupt (EINVAL).
    #[error("there is no interrupt {0}: they go from 0 to 31")]
    NoSuchIrq(u32),
    /// The Guest is dead (ENOENT).
    #[error("the guest is dead")]
    Dead,
    /// The processes of the Guest could not be started.
    #[error("cannot start the guest's process: {0}")]
    Start(#[source] io::Error),
}

impl Guest {
    /// A Guest with this memory. Nothing runs yet.
    #[must_use]
    pub fn new(memory: GuestMemory) -> Self {
        Self { memory }
    }

    /// The Guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// LHREQ_INITIALIZE: starts the processes, ready for the first `run`.
    ///
    /// # Errors
    ///
    /// [`RequestError::AlreadyInitialised`], [`RequestError::Start`].
    pub fn initialize(
        &self,
        _request: &Initialize,
        _shared_pages: Vec<SharedPage>,
    ) -> Result<(), RequestError> {
        todo!()
    }

    /// LHREQ_GETDMA: the first free buffer that the Guest has bound to `key`;
    /// `None` when it has bound none, or all are full.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Dead`].
    pub fn get_dma(&self, _key: u32) -> Result<Option<BoundDma>, RequestError> {
        todo!()
    }

    /// What the Guest has bound to keys in the page at `page`.
    #[must_use]
    pub fn bindings_in(&self, _page: u32) -> Vec<Binding> {
        todo!()
    }

    /// LHREQ_IRQ: raises interrupt `irq`; wakes the Guest if it sleeps.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoSuchIrq`], [`RequestError::NotInitialised`],
    /// [`RequestError::Dead`].
    pub fn irq(&self, _irq: u32) -> Result<(), RequestError> {
        todo!()
    }

    /// LHREQ_BREAK: `true` makes `run` come back with [`Exit::Broken`] and
    /// blocks until the Guest stands; `false` lets it go on.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Dead`].
    pub fn set_break(&self, _on: bool) -> Result<(), RequestError> {
        todo!()
    }

    /// Runs the Guest until something has to be done for it. Blocks.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`].
    pub fn run(&self) -> Result<Exit, RequestError> {
        todo!()
    }

    /// Ends the Guest for `reason`: the next `run` says so. The first reason
    /// wins.
    pub fn kill(&self, _reason: impl Into<String>) {
        todo!()
    }
}
