//! The two traits of an engine, and their types.
//!
//! They say what a Guest does and what is done to it, not how it is run.

use super::bindings::{Binding, BoundDma};
use super::death::Death;
use super::debug::{Ask, Stopped, Told};
use super::error::RequestError;
use super::frozen::{Frozen, Resumed};
use super::hold::Hold;
use crate::memory::GuestMemory;
use lg_abi::gen3::pci::Device as PciDevice;
use lg_abi::known::Known;
use lg_abi::page::Format;
use lg_abi::request::Initialize;
use lg_wire::disk::DiskWords;
use lg_wire::last::LastWords;
use lg_wire::moved::Moved;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Calls for devices. Any thread may make them.
pub trait Requests: Send + Sync {
    /// The Guest's memory.
    fn memory(&self) -> &GuestMemory;

    /// LHREQ_GETDMA: the first free buffer that the Guest has bound to `key`;
    /// `None` when it has bound none, or all are full. A Guest that has bound
    /// memory outside its own is killed here.
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

    /// Raises interrupt `irq` of a device on a PCI bus, whose registers have
    /// changed.
    ///
    /// # Errors
    ///
    /// As of [`Self::irq`].
    fn config_changed(&self, irq: u8) -> Result<(), RequestError> {
        self.irq(irq)
    }

    /// What is shared with the Host of disk number `index` of those whose files
    /// its views have ([`Setup::disks`]).
    fn disk_words(&self, _index: usize) -> Option<&DiskWords> {
        None
    }

    /// Disk number `index` was removed: its file is closed wherever the Guest's
    /// processes have it. A Guest that has taken over a view can keep it there.
    fn remove_disk(&self, _index: usize) {}

    /// The arrays of buffers that are bound to keys in the page at `page`.
    fn bindings_in(&self, page: u32) -> Vec<Binding>;

    /// Ends the Guest for `reason`; the next [`Engine::run`] returns it. Only
    /// the first reason counts.
    fn kill(&self, reason: String);

    /// Moves the calling thread to the Guest's processor. A thread that wakes
    /// the Guest often calls this, because a wake-up from another processor
    /// takes longer. `at` is the processor to which the thread was moved last.
    fn stay_close(&self, _at: &mut Option<usize>) {}
}

/// Runs a Guest. Dropping the engine ends the Guest.
pub trait Engine: Requests {
    /// LHREQ_INITIALIZE: gets everything ready for the first `run`.
    ///
    /// # Errors
    ///
    /// [`RequestError::AlreadyInitialised`], [`RequestError::Start`],
    /// [`RequestError::BadState`].
    fn initialize(&self, setup: Setup) -> Result<(), RequestError>;

    /// Runs the Guest until there is an [`Exit`] to handle. Blocks. One thread
    /// runs it at a time; a second one waits.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`].
    fn run(&self) -> Result<Exit, RequestError>;

    /// Answers [`Exit::ReadDevice`]. To be called before the next `run`.
    fn answer(&self, value: u32);

    /// LHREQ_BREAK: the Guest stops at the next clean point, and stays there
    /// as long as there is a [`Hold`]. Does not wait for it to stop.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Dead`].
    fn hold(&self) -> Result<Hold, RequestError>;

    /// Blocks until there is no [`Hold`], the Guest is dead, or an order of a
    /// debugger waits for the next [`Self::run`].
    fn wait_until_let_go(&self);

    /// Gives an order to the Host of a Guest for which the caller has a
    /// [`Hold`], and waits for the answer. One thread at a time may do so, and
    /// another one has to call [`Self::run`] meanwhile. A Host that does not
    /// answer is killed.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Dead`].
    fn debug(&self, ask: Ask) -> Result<Told, RequestError>;

    /// What there is of a Guest that stands still, for which the caller has a
    /// [`Hold`]. The files are those that the Guest uses, so they are copied
    /// before the hold ends.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotHeld`], [`RequestError::NotInitialised`],
    /// [`RequestError::Dead`], [`RequestError::Start`].
    fn freeze(&self) -> Result<Frozen, RequestError> {
        Err(RequestError::NotHeld)
    }

    /// Tells the engine that some input waits for a buffer. From now on
    /// [`Self::run`] comes back once with [`Exit::BuffersMayBeFree`] when the
    /// Guest may have freed one. A Guest frees buffers in its own memory, where
    /// its Host does not see it. But a Guest that sleeps has freed all that it
    /// is going to free. With `woken`, `run` comes back also when the Guest
    /// wakes up.
    ///
    /// Returns whether the Guest sleeps. A caller that has `woken` set and
    /// finds no buffer *after* such an answer can wait without a time limit: no
    /// buffer is freed before `run` comes back.
    #[must_use]
    fn wait_for_buffers(&self, woken: bool) -> bool;

    /// How the Guest ended, if it has.
    fn death(&self) -> Option<Death>;

    /// The processor time of each process that belongs to the Guest, with its
    /// number, and that of the Launcher.
    fn processor_times(&self) -> Vec<(i32, Duration)> {
        Vec::new()
    }

    /// Bytes that the Guest takes from the machine: its memory as far as it has
    /// used it, what its processes share, and about what they cost the kernel.
    fn taken_bytes(&self) -> u64 {
        0
    }

    /// The counts for the statistics. They are complete after the Guest's end.
    fn counters(&self) -> EngineCounters;

    /// What the Guest did last, as its Host has noted it. For a person: a Guest
    /// that has taken over its Host can forge it.
    fn last_words(&self) -> Option<LastWords> {
        None
    }

    /// Chooses what is traced from now on: bits of [`lg_wire::trace::group`].
    /// `sample_every` is the time between samples, if they are among them.
    fn set_traced(&self, _groups: u32, _sample_every: Duration) {}

    /// The file with the ring of the trace: see [`crate::trace`]. A Guest that
    /// has taken over its Host can write anything there.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotInitialised`], [`RequestError::Start`].
    fn trace_file(&self) -> Result<OwnedFd, RequestError> {
        Err(RequestError::NotInitialised)
    }
}

/// What an engine needs to know of a Guest before it runs.
#[derive(Debug)]
pub struct Setup {
    /// The four words of LHREQ_INITIALIZE.
    pub request: Initialize,
    /// Which interface the Guest has.
    pub interface: Known,
    /// The format of its page tables.
    pub paging: Format,
    /// The value of esi when the Guest starts: the physical address of its boot
    /// parameters, in generations that use it.
    pub boot_parameters: u32,
    /// The number from which the Guest makes its Ethernet address. `None`: the
    /// Launcher's process number.
    pub guest_id: Option<u16>,
    /// Fast paths that the Host must not take: bits of
    /// [`lg_wire::fast_path`].
    pub slow_paths: u32,
    /// What keeps user code from its kernel.
    pub isolation: Isolation,
    /// Pages of the Guest that lie in other files than its memory.
    pub shared_pages: Vec<SharedPage>,
    /// The files of disks whose reads the Host may answer, opened to read only:
    /// at most [`MAX_DISKS`](lg_wire::disk::MAX_DISKS).
    pub disks: Vec<OwnedFd>,
    /// The devices on its PCI bus, from slot 1 on: at most
    /// [`MAX_DEVICES`](lg_abi::gen3::pci::MAX_DEVICES).
    pub pci: Vec<PciDevice>,
    /// What is traced from the first instruction on.
    pub trace: Tracing,
    /// The state of a Guest that goes on, whose memory is filled already.
    /// Then `request`, `interface`, `paging`, `boot_parameters` and `guest_id`
    /// have no effect.
    pub resumed: Option<Resumed>,
    /// How the clocks of such a Guest differ from those here.
    pub moved: Moved,
}

impl From<Initialize> for Setup {
    fn from(request: Initialize) -> Self {
        Self {
            request,
            interface: Known::default(),
            paging: Format::default(),
            boot_parameters: 0,
            guest_id: None,
            slow_paths: 0,
            isolation: Isolation::default(),
            shared_pages: Vec::new(),
            disks: Vec::new(),
            pci: Vec::new(),
            trace: Tracing::default(),
            resumed: None,
            moved: Moved::default(),
        }
    }
}

/// What is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// How many records the ring has: see [`lg_wire::trace::allowed`].
    pub records: u32,
    /// Which groups of events: bits of [`lg_wire::trace::group`].
    pub groups: u32,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            records: lg_wire::trace::RECORDS,
            groups: 0,
        }
    }
}

/// What protects a Guest's kernel from its user code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Segment limits. They stop accidents, not attacks: outside of the Guest,
    /// user code counts as kernel code.
    #[default]
    Guest,
    /// Processes of its own for user code. They stop attacks.
    User,
}

/// A page that several Guests share. It lies in another file than the Guest's
/// memory.
#[derive(Debug)]
pub struct SharedPage {
    /// Its number.
    pub pfn: u32,
    /// The file whose first page it is. The views inherit a copy.
    pub file: OwnedFd,
    /// Memory in which the Guest posts frames for others ([`lg_wire::outbox`]).
    pub outbox: OwnedFd,
}

/// Registers of a device on the PCI bus, in its BAR 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAccess {
    /// The number of the device, from 0: one less than its slot. Not checked.
    pub device: u32,
    /// Where they are: less than a page.
    pub offset: u32,
    /// How many bytes: 1, 2 or 4.
    pub bytes: u32,
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
    /// NOTIFY: there is something at this address for a device or for the early
    /// console.
    Notify {
        /// A physical address, checked to be there.
        address: u32,
    },
    /// The Guest reads registers of a device on its PCI bus, and waits for
    /// [`Engine::answer`].
    ReadDevice(DeviceAccess),
    /// The Guest writes such registers.
    WriteDevice {
        /// Which.
        access: DeviceAccess,
        /// Their new value.
        value: u32,
    },
    /// The Guest has bound or unbound an array of buffers.
    BindingsChanged,
    /// The Guest may have freed a buffer: see [`Engine::wait_for_buffers`].
    BuffersMayBeFree,
    /// The Guest has stopped for a debugger. It goes on at the next `run`,
    /// unless there is a [`Hold`] by then.
    Stopped(Stopped),
    /// There is a [`Hold`], and the Guest stands at a clean point. `run`
    /// comes back with this as long as it is held.
    Held,
    /// The Guest has ended, and will not run again.
    Dead(Death),
}

/// Counts for the statistics. A Guest that has taken over its Host can falsify
/// the Host's counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// The Host's counts that are not zero, by name.
    pub host: Vec<(String, u64)>,
    /// How many pieces of the Guest's memory have become huge pages.
    pub huge_pages: u64,
}
