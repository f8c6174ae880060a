//! All that is known about a Guest, in memory that all of its views share.
//!
//! Registers first, for the Switcher's assembly lives on them; then what the
//! Guest has told us by hypercalls; then the views. Whoever holds the run token
//! owns everything but the atomics, so plain user processes will do; the
//! atomics are written by the Launcher or by signal handlers at any time. Zero
//! is the right beginning for every field.

use crate::counters::Counters;
use crate::cpu::debug::Debug;
use crate::cpu::extended::Threads;
use crate::patch::copies::{MAX_COPIES, MAX_FLIPS, MAX_UNPATCHED};
use crate::patch::direct::{DirectCall, MAX_DIRECT};
use crate::patch::displaced::Displaced;
use crate::patch::enabling::MAX_PLACES;
use crate::turns;
use core::cell::Cell;
use core::sync::atomic::AtomicU32;
use lg_abi::segment::{Descriptor, GDT_ENTRIES};
use lg_abi::shared::IDT_ENTRIES;

/// Page directories that can have a view of their own at the same time.
pub const MAX_VIEWS: usize = 32;

/// How many views a Guest with `limit` bytes of memory may have. A view costs
/// the machine page tables and mappings, so a small Guest has fewer of them.
#[must_use]
pub const fn max_views(limit: u32) -> usize {
    /// Bytes of memory for which there is a view.
    const MEMORY_FOR_A_VIEW: u32 = 2 << 20;
    /// A kernel and the programs of a short pipe do not take views from each
    /// other.
    const MIN_VIEWS: usize = 4;
    let views = (limit / MEMORY_FOR_A_VIEW) as usize;
    if views < MIN_VIEWS {
        MIN_VIEWS
    } else if views > MAX_VIEWS {
        MAX_VIEWS
    } else {
        views
    }
}

/// Changed pages that a view remembers for another before it gives up and
/// says "look at everything".
pub const MAX_CHANGES: usize = 256;

/// Hypercalls without trampolines that are remembered as such.
pub const MAX_REFUSED: usize = 16;

/// Hypercalls with a store in front of them that can have a trampoline.
pub const MAX_STORES: usize = 8;

/// Changed kernel pages that are remembered for all views.
pub const MAX_KERNEL_CHANGES: u32 = 1024;

/// Bits of [`Vm::input_waits`].
pub mod input {
    /// Tell when the Guest has nothing to do.
    pub const WHEN_IDLE: u32 = 1 << 0;
    /// Tell when the Guest has slept, before it goes on.
    pub const WHEN_WOKEN: u32 = 1 << 1;
}

/// The Guest's registers, as the processor has them: the selectors are the
/// real ones.
#[derive(Default)]
#[repr(C)]
#[allow(missing_docs)] // the processor's manual has them all
pub struct Registers {
    pub eax: Cell<u32>,
    pub ebx: Cell<u32>,
    pub ecx: Cell<u32>,
    pub edx: Cell<u32>,
    pub esi: Cell<u32>,
    pub edi: Cell<u32>,
    pub ebp: Cell<u32>,
    pub esp: Cell<u32>,
    pub eip: Cell<u32>,
    pub eflags: Cell<u32>,
    pub ds: Cell<u32>,
    pub es: Cell<u32>,
    pub fs: Cell<u32>,
    pub gs: Cell<u32>,
    pub fs_base: Cell<u32>,
    pub gs_base: Cell<u32>,
    pub ss: Cell<u32>,
    /// 1 = a descriptor has changed: all of them are to be loaded.
    pub reload: Cell<u32>,
}

/// The registers of the floating-point unit, as FXSAVE leaves them.
#[repr(C, align(64))]
pub struct FpuState(pub Cell<[u8; 512]>);

/// One entry of the Guest's interrupt table, once checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Gate {
    /// Where the handler is.
    pub handler: u32,
    /// [`Gate::PRESENT`], [`Gate::INTERRUPT`], and the privilege level needed
    /// to come here by `int`, from [`Gate::DPL_SHIFT`] on.
    pub flags: u32,
}

impl Gate {
    /// There is a handler.
    pub const PRESENT: u32 = 1;
    /// Interrupts are switched off on the way in.
    pub const INTERRUPT: u32 = 2;
    /// How far the privilege level is shifted.
    pub const DPL_SHIFT: u32 = 8;

    /// Whether there is a handler.
    #[must_use]
    pub fn is_present(self) -> bool {
        self.flags & Self::PRESENT != 0
    }

    /// Whether code at privilege level `cpl` may come here by `int`.
    #[must_use]
    pub fn allows(self, cpl: u32) -> bool {
        self.is_present() && cpl <= self.flags >> Self::DPL_SHIFT
    }
}

/// What is known about a view: a process that maps one page directory.
#[repr(C)]
pub struct ViewSlot {
    /// Its page directory; meaningless until it has `last_use`.
    pub cr3: Cell<u32>,
    /// The count of hand-overs when it was last given the run token; 0 = there
    /// is no such process yet.
    pub last_use: Cell<u64>,
    /// What it must look at before it runs again: see [`Changes`].
    pub flush: Cell<u32>,
    /// How many of `changes` are in use.
    pub change_count: Cell<u32>,
    /// Virtual addresses of changed pages; bit 0 set: all of its 4 MiB.
    pub changes: [Cell<u32>; MAX_CHANGES],
    /// 1 = it is this view's turn. A futex.
    pub run_token: AtomicU32,
}

/// Bits of [`ViewSlot::flush`].
pub struct Changes;

impl Changes {
    /// The view belongs to another page directory now: drop the user part.
    pub const DROP_USER: u32 = 1;
    /// Compare the user part.
    pub const USER: u32 = 2;
    /// Compare everything.
    pub const EVERYTHING: u32 = 4;
}

/// `struct lguest`: the Guest.
#[repr(C)]
pub struct Vm {
    /// The registers, while the Guest is not running.
    pub regs: Registers,
    /// Its floating-point registers, while it moves between views.
    pub fpu: FpuState,

    // What the Launcher set up.
    /// Bytes of physical memory, devices' pages included.
    pub limit: Cell<u32>,
    /// Where the kernel maps physical address 0.
    pub page_offset: Cell<u32>,
    /// What to say in `tsc_khz`.
    pub tsc_khz: Cell<u32>,
    /// What to say in `guestid`.
    pub guestid: Cell<u32>,
    /// Paths that must not be taken: for tests, and to find faults.
    pub slow_paths: Cell<u32>,

    // What the Guest believes to be its privilege.
    /// 1 while it runs user code.
    pub user: Cell<u32>,
    /// The code selector that it believes in.
    pub cs: Cell<u32>,
    /// The stack selector that it believes in.
    pub ss: Cell<u32>,

    // What the Guest has told us.
    /// Physical address of its `lguest_data`; 0 before LGUEST_INIT.
    pub lguest_data: Cell<u32>,
    /// From here ...
    pub noirq_start: Cell<u32>,
    /// ... to here, no interrupt may be delivered.
    pub noirq_end: Cell<u32>,
    /// The next entry of the ring to look at.
    pub next_hcall: Cell<u32>,
    /// Its page directory.
    pub cr3: Cell<u32>,
    /// Kernel stack segment for traps from user mode.
    pub ss1: Cell<u32>,
    /// Kernel stack pointer for traps from user mode.
    pub esp1: Cell<u32>,
    /// CR0.TS.
    pub ts: Cell<u32>,
    /// What is known of its thread-local descriptors: see
    /// [`tls`](crate::cpu::tls).
    pub tls: Cell<u32>,
    /// How far user code's segments go: see [`reach`](crate::cpu::reach).
    pub reach: Cell<u32>,
    /// Instructions in a row for which they went further.
    pub steps: Cell<u32>,
    /// It waits for an interrupt.
    pub halted: Cell<u32>,
    /// When interrupt 0 is due, on the monotonic clock; 0 = never.
    pub deadline: Cell<u64>,
    /// When to try again to deliver an interrupt; 0 = never.
    pub retry_at: Cell<u64>,
    /// The handler that the last trap or interrupt went to.
    pub last_handler: Cell<u32>,
    /// Trampolines made so far for its kernel.
    pub trampolines: Cell<u32>,
    /// And for its user code.
    pub user_trampolines: Cell<u32>,
    /// Hypercalls that are jumped into, and so get no trampoline: where their
    /// `int` is.
    pub refused: [Cell<u32>; MAX_REFUSED],
    /// How many were refused.
    pub refused_count: Cell<u32>,
    /// Hypercalls with a store in front of them.
    pub displaced: [Displaced; MAX_STORES],
    /// Places where the kernel switches interrupts on and that have
    /// trampolines, or 0: their virtual addresses.
    pub enabling: [Cell<u32>; MAX_PLACES],
    /// How often an answer has come while it had interrupts off.
    pub answers: Cell<u32>,
    /// The pages that have patched copies: their physical addresses, or 0.
    pub copies: [Cell<u32>; MAX_COPIES],
    /// A bit for each of them, by its number modulo 64: a page whose bit is
    /// clear has no patched copy.
    pub copy_filter: Cell<u64>,
    /// Copies whose pages were written to: a bit each.
    pub stale_copies: Cell<u32>,
    /// Goes up whenever a device may have written to memory.
    pub device_writes: Cell<u32>,
    /// System calls so far when each patched copy was made.
    pub copy_births: [Cell<u64>; MAX_COPIES],
    /// Pages whose patched copies did not live long: address, and how many of
    /// them in the low bits.
    pub flips: [Cell<u32>; MAX_FLIPS],
    /// Where in `flips` the next one goes.
    pub next_flip: Cell<u32>,
    /// `int $0x80` that must not be patched: their physical addresses.
    pub unpatched: [Cell<u32>; MAX_UNPATCHED],
    /// Where each patched copy is mapped: its page, 0 if nowhere, `u32::MAX` if
    /// at several places.
    pub copy_places: [Cell<u32>; MAX_COPIES],
    /// Direct calls in patched copies.
    pub direct: [DirectCall; MAX_DIRECT],
    /// How many patched copies were ever made.
    pub copy_count: Cell<u32>,
    /// When to ask next whether this is still the best processor.
    pub balance_at: Cell<u64>,
    /// Its descriptors.
    pub gdt: [Cell<Descriptor>; GDT_ENTRIES as usize],
    /// Its interrupt table.
    pub idt: [Cell<Gate>; IDT_ENTRIES],

    /// The extended state of its threads.
    pub threads: Threads,

    // The views.
    /// Hand-overs so far.
    pub uses: Cell<u64>,
    /// Kernel pages changed so far.
    pub kernel_change_count: Cell<u32>,
    /// The last of them: virtual addresses.
    pub kernel_changes: [Cell<u32>; MAX_KERNEL_CHANGES as usize],
    /// The views, by slot.
    pub views: [ViewSlot; MAX_VIEWS],
    /// Which of them holds the run token.
    pub current: AtomicU32,

    // What comes from outside.
    /// Interrupts that wait to be delivered, a bit each.
    pub irqs: AtomicU32,
    /// Goes up whenever something has come from outside. A futex.
    pub kick: AtomicU32,
    /// 1 while the current view sleeps on `kick`.
    pub asleep: AtomicU32,
    /// 1 = stop at the next clean point and tell the Launcher.
    pub break_wanted: AtomicU32,
    /// When to tell the Launcher that a buffer may be free, for input that
    /// waits for one: bits of [`input`]. The Launcher sets them, the Host
    /// clears them when it tells.
    pub input_waits: AtomicU32,

    /// Its debug registers.
    pub debug: Debug,

    /// How often what has happened.
    pub counters: Counters,
}

impl Vm {
    /// Whether the Guest runs user code.
    #[must_use]
    pub fn in_user_mode(&self) -> bool {
        self.user.get() != 0
    }

    /// The privilege level that the Guest believes to have.
    #[must_use]
    pub fn cpl(&self) -> u32 {
        if self.in_user_mode() {
            lg_abi::segment::USER_PL
        } else {
            lg_abi::segment::GUEST_PL
        }
    }

    /// Whether LGUEST_INIT has come.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.lguest_data.get() != 0
    }

    /// Raises interrupt `irq`; the caller sees to it that the Guest notices.
    pub fn raise(&self, irq: u32) {
        turns::raise(&self.irqs, irq);
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_VIEWS, max_views};

    #[test]
    fn views_follow_the_memory_within_bounds() {
        assert_eq!(max_views(1 << 20), 4);
        assert_eq!(max_views(16 << 20), 8);
        assert_eq!(max_views(64 << 20), MAX_VIEWS);
        assert_eq!(max_views(u32::MAX), MAX_VIEWS);
    }
}
