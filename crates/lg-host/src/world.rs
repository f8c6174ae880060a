//! What the Host needs of the world, as two interfaces.
//!
//! A [`Mapper`] changes what the processor maps in this view's low 4 GiB. A
//! [`World`] is everything else: the Launcher, the clocks, the other views, and
//! the trampolines. In a view both make system calls; a test records what they
//! are asked.

use crate::address::{GuestPhys, GuestVirt};
// circle: a view saves this state for the Host, which decides whose it is.
use crate::cpu::extended::Extended;
use crate::kill::Kill;
use crate::patch::TrampolineKind;
use lg_abi::segment::Descriptor;
use lg_wire::trace::Event;

/// What a mapping may be used for. Everything can be executed: page tables of
/// this generation cannot forbid it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// The machine refused to map or unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There are too many mappings, or no memory for more.
    NoRoom,
    /// This address cannot be mapped at all (the first pages, for instance).
    Forbidden,
}

/// Changes what this view maps. Virtual and physical stretches are whole
/// pages.
pub trait Mapper {
    /// Maps `pages` pages from `va` to `pa`, over whatever was there.
    ///
    /// # Errors
    ///
    /// [`MapError`]; then the old mapping may be gone.
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError>;

    /// Changes what the page at `va` may be used for, which is mapped to `pa`
    /// or was when it was hidden. Mapping it again does that, too; most
    /// machines know something faster.
    ///
    /// # Errors
    ///
    /// As [`Self::map`].
    fn protect(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        access: Access,
    ) -> Result<(), MapError> {
        self.map(va, pa, 1, access)
    }

    /// Whether [`Self::hide`] costs less than to unmap and map again.
    fn hides(&self) -> bool {
        false
    }

    /// Takes all rights from `pages` pages from `va`, each of which is mapped
    /// or hidden, until [`Self::protect`] shows them again.
    ///
    /// # Errors
    ///
    /// [`MapError::NoRoom`]; then nothing has changed, or some of it has.
    fn hide(&mut self, _va: GuestVirt, _pages: u32) -> Result<(), MapError> {
        Err(MapError::NoRoom)
    }

    /// Maps nothing any more in `pages` pages from `va`.
    ///
    /// # Errors
    ///
    /// [`MapError::NoRoom`] where a mapping would have to be split; then
    /// nothing has changed.
    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError>;

    /// Sets entry `index` of the local descriptor table with which the mapped
    /// memory is used.
    ///
    /// # Errors
    ///
    /// [`MapError`]; then the entry is as it was.
    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError>;

    /// Does what it has put off, if it does so at all.
    ///
    /// # Errors
    ///
    /// [`MapError`]; then some of it is not done, and never will be.
    fn flush(&mut self) -> Result<(), MapError> {
        Ok(())
    }
}

/// What CPUID answers: eax, ebx, ecx, edx.
pub type CpuidAnswer = [u32; 4];

/// A point in time on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Seconds since 1970.
    pub sec: u32,
    /// And nanoseconds.
    pub nsec: u32,
}

/// Everything but memory.
pub trait World {
    /// SEND_DMA: the Launcher carries it out and writes `used_len`. Blocks
    /// until it has answered.
    ///
    /// # Errors
    ///
    /// A [`Kill`] ends the Guest.
    fn send_dma(&mut self, key: u32, dma: GuestPhys) -> Result<(), Kill>;

    /// Wakes the process that sleeps on the word at `at` of the
    /// [`Outboxes`](crate::outbox::Outboxes).
    fn ring(&mut self, at: u32);

    /// BIND_DMA: `count_irq` as it stood in ecx. Answers whether it worked.
    ///
    /// # Errors
    ///
    /// A [`Kill`] ends the Guest.
    fn bind_dma(
        &mut self,
        key: u32,
        dmas: GuestPhys,
        count_irq: u32,
    ) -> Result<bool, Kill>;

    /// NOTIFY: the Launcher looks at what is at `address`. Blocks until it
    /// has.
    ///
    /// # Errors
    ///
    /// A [`Kill`] ends the Guest.
    fn notify(&mut self, address: GuestPhys) -> Result<(), Kill>;

    /// Reads `bytes` (1, 2 or 4) at `offset` in BAR 0 of a device on the PCI
    /// bus. Blocks until the Launcher has answered.
    ///
    /// # Errors
    ///
    /// A [`Kill`] ends the Guest.
    fn read_device(
        &mut self,
        device: u32,
        offset: u32,
        bytes: u32,
    ) -> Result<u32, Kill>;

    /// Writes there. Blocks until the Launcher has done what follows from it.
    ///
    /// # Errors
    ///
    /// A [`Kill`] ends the Guest.
    fn write_device(
        &mut self,
        device: u32,
        offset: u32,
        bytes: u32,
        value: u32,
    ) -> Result<(), Kill>;

    /// Reads into `pieces` of the Guest's memory, all of which exist, what the
    /// file of disk number `disk` has from byte `offset` on. Does not wait for
    /// a device. Returns whether all of it was read; otherwise, some of it may
    /// have been.
    fn read_disk(
        &mut self,
        disk: usize,
        offset: u64,
        pieces: &[(GuestPhys, u32)],
    ) -> bool;

    /// CRASH: `message` has no NUL. Does not come back in the real world.
    ///
    /// # Errors
    ///
    /// A [`Kill`] ends the Guest.
    fn crash(&mut self, message: &[u8]) -> Result<(), Kill>;

    /// LHREQ_BREAK: tells the Launcher that the Guest stands at a clean point
    /// and blocks until it answers. `report` are the arguments of the request,
    /// the answer is an order ([`lg_wire::debug`]): 0 lets the Guest go on.
    ///
    /// # Errors
    ///
    /// A [`Kill`] ends the Guest.
    fn broken_out(&mut self, report: [u32; 3]) -> Result<u32, Kill>;

    /// Nanoseconds on a clock that never jumps.
    fn monotonic(&mut self) -> u64;

    /// The time of day.
    fn wall_clock(&mut self) -> WallClock;

    /// The processor's time-stamp counter; `None` where the Guest has another
    /// one, or where nothing may be told by it.
    fn counter(&mut self) -> Option<u64> {
        None
    }

    /// Kicks this view at `deadline` on the monotonic clock; 0 = never. Where
    /// an `earlier` kick will do, one that is to come anyway is not put off.
    fn arm(&mut self, deadline: u64, earlier: bool);

    /// Blocks until `Vm::kick` is not `seen` any more.
    fn sleep(&mut self, seen: u32);

    /// Asks the Launcher for a process for view `slot`.
    ///
    /// # Errors
    ///
    /// [`Kill::NoView`] if there can be none.
    fn start_view(&mut self, slot: usize) -> Result<(), Kill>;

    /// Asks the Launcher to put a new process into the place of this view's.
    /// The new one has the run token, and goes on as if it had just come back
    /// to it. Does not come back in the real world.
    ///
    /// # Errors
    ///
    /// [`Kill::NoView`] if there can be none.
    fn renew_view(&mut self) -> Result<(), Kill>;

    /// The Guest has worked for a while: the Launcher may want to move it to
    /// another processor. Does not wait for it.
    fn balance(&mut self);

    /// Input waits for a buffer, and the Guest may have freed one: the
    /// Launcher looks. Meanwhile, interrupts come without a kick.
    fn buffers_may_be_free(&mut self);

    /// Makes a trampoline of this kind, which first does what the `displaced`
    /// instructions do. One of [`TrampolineKind::Hypercall`] puts into eip how
    /// many bytes of `padding` lie behind the far call. Answers its address;
    /// `None` when there can be no more.
    fn make_trampoline(
        &mut self,
        kind: TrampolineKind,
        displaced: &[u8],
        padding: u32,
    ) -> Option<u32>;

    /// Makes a trampoline of [`TrampolineKind::DirectCall`], which puts `back`
    /// into eip. It takes the place of the one that had this `slot` (less than
    /// [`MAX_DIRECT`](crate::patch::limits::MAX_DIRECT)), and can be jumped to
    /// from 32-bit code. Answers its address.
    fn make_call_trampoline(&mut self, slot: usize, back: u32) -> u32;

    /// What the processor says to CPUID; `None` where it does not fault at the
    /// Guest's ([`crate::cpu::cpuid`]).
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Option<CpuidAnswer>;

    /// Whether the thread that has run last in user mode uses extended state
    /// ([`crate::cpu::extended`]).
    fn extended_in_use(&mut self) -> bool;

    /// Saves its extended state.
    fn save_extended(&mut self, to: &Extended);

    /// What the next thread in user mode has; with `None`, the initial state.
    fn load_extended(&mut self, from: Option<&Extended>);

    /// Passes the run token to view `slot`, floating-point registers included,
    /// and blocks until it comes back to this view.
    ///
    /// # Errors
    ///
    /// A [`Kill`] ends the Guest.
    fn hand_over(&mut self, slot: usize) -> Result<(), Kill>;

    /// Records an event in the trace, with the time. Answers the number of the
    /// record. A world without a trace does nothing.
    fn trace(&self, _event: &Event) -> u64 {
        0
    }

    /// What record `number` is about is over now.
    fn trace_end(&self, _number: u64) {}
}
