//! All that is known about a Guest, in memory that all of its views share.
//!
//! The head comes first, which is all that the Launcher maps
//! ([`lg_wire::state`]); then the registers, on which the Switcher's assembly
//! works; then what the Guest has told the Host by hypercalls; then the views.
//! The view that holds the run token is the only one that touches any of it, so
//! plain cells will do for everything but the head: the Launcher and signal
//! handlers write the atomics there at any time. Zero is the right beginning
//! for every field.

// circle: the state holds the table of each topic, and the topic works on it.
use crate::anchor::Anchors;
// circle: as above.
use crate::cpu::debug::Debug;
// circle: as above.
use crate::cpu::extended::Threads;
// circle: as above.
use crate::cpu::kernel_segments::KernelSegments;
// circle: the first registers have the segments that `segments` loads.
use crate::cpu::segments::set_start_segments;
// circle: as above.
use crate::debugger::Debugger;
use crate::patch::crossing::words::Crossing;
use crate::patch::ledger::table::Ledger;
use crate::patch::tables::Patches;
// circle: as above.
use crate::pci::Pci;
use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use lg_abi::boot::START_EFLAGS;
use lg_abi::segment::{
    Descriptor, GDT_ENTRIES, GDT_KERNEL_CS, GDT_KERNEL_DS, GUEST_PL, KERNEL_CS,
    KERNEL_DS,
};
use lg_abi::shared::IDT_ENTRIES;
use lg_wire::counters::Counters;
use lg_wire::moved::Moved;
use lg_wire::state::{Head, MAX_VIEWS, ViewSetup, Wire};
use lg_wire::turns;

/// Changed pages that a view remembers for another before it gives up and
/// says "look at everything".
pub const MAX_CHANGES: usize = 256;

/// Changed kernel pages that are remembered for all views.
pub const MAX_KERNEL_CHANGES: u32 = 1024;

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

    /// Whether interrupts are switched off on the way in.
    #[must_use]
    pub fn switches_interrupts_off(self) -> bool {
        self.flags & Self::INTERRUPT != 0
    }

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
    /// How many of its [notes](Notes) are in use.
    pub change_count: Cell<u32>,
}

/// What has changed for a view: virtual addresses of pages; bit 0 set: all of
/// its 4 MiB. They are apart from the slots: each change of directory looks at
/// all slots, and these are in one page.
pub type Notes = [Cell<u32>; MAX_CHANGES];

/// Bits of [`ViewSlot::flush`].
pub struct Changes;

impl Changes {
    /// The view belongs to another page directory now.
    pub const OTHER_DIRECTORY: u32 = 1;
    /// Compare the user part.
    pub const USER: u32 = 2;
    /// Compare everything.
    pub const EVERYTHING: u32 = 4;
}

/// `struct lguest`: the Guest.
#[repr(C)]
pub struct Vm {
    // The head of the state, which is all that the Launcher maps. These two are
    // a `Head`, written out here because the Host counts in so many places.
    /// The words that the Launcher reads and writes.
    pub wire: Wire,
    /// How often what has happened.
    pub counters: Counters,

    /// The registers, while the Guest is not running.
    pub regs: Registers,
    /// Its floating-point registers, while it moves between views.
    pub fpu: FpuState,

    // What the Launcher set up.
    /// Bytes of physical memory, devices' pages included.
    pub limit: Cell<u32>,
    /// Where the kernel maps physical address 0.
    pub page_offset: Cell<u32>,
    /// The number of its interface ([`Known`](lg_abi::known::Known)).
    pub interface: Cell<u32>,
    /// The number of the format of its page tables
    /// ([`Format`](lg_abi::page::Format)).
    pub paging: Cell<u32>,
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
    /// How its clocks differ from those here.
    pub moved: Cell<Moved>,
    /// The last readings of clocks.
    pub anchors: Anchors,
    /// The handler that the last trap or interrupt went to.
    pub last_handler: Cell<u32>,
    /// What is known of patches, beside the ledger.
    pub patches: Patches,
    /// When to ask next whether this is still the best processor.
    pub balance_at: Cell<u64>,
    /// The number of the last [exit](lg_wire::trace::Kind::Exit) in the trace,
    /// plus one; 0 = it is over.
    pub exit_traced: Cell<u64>,
    /// When the next sample of a profile is due; 0 = not known.
    pub sample_at: Cell<u64>,
    /// Samples so far.
    pub samples: Cell<u16>,
    /// Its debug registers.
    pub debug: Debug,
    /// Hand-overs so far.
    pub uses: Cell<u64>,
    /// Kernel pages changed so far.
    pub kernel_change_count: Cell<u32>,
    /// What the tables of all views have for its kernel's own segments.
    pub kernel_segments: KernelSegments,
    /// Its descriptors.
    pub gdt: [Cell<Descriptor>; GDT_ENTRIES as usize],
    /// Its interrupt table.
    pub idt: [Cell<Gate>; IDT_ENTRIES],

    // What is large stands behind what each entry needs: the Host is in few
    // pages then, which counts after a change of process.
    /// All patches, with what stood there.
    pub ledger: Ledger,
    /// The extended state of its threads.
    pub threads: Threads,
    /// Its PCI bus.
    pub pci: Pci,
    /// What a debugger wants of it.
    pub debugger: Debugger,

    // The views.
    /// The last changed kernel pages: virtual addresses.
    pub kernel_changes: [Cell<u32>; MAX_KERNEL_CHANGES as usize],
    /// The views, by slot.
    pub views: [ViewSlot; MAX_VIEWS],
    /// Their notes.
    pub notes: [Notes; MAX_VIEWS],
    /// Its crossings between user mode and kernel.
    pub crossing: Crossing,
}

impl Vm {
    /// Fills in what the Guest starts with (docs/abi.md, section 3). All of it
    /// is zero before.
    pub fn begin(&self, setup: &ViewSetup) {
        self.limit.set(setup.limit);
        self.page_offset.set(setup.page_offset);
        self.guestid.set(setup.guestid);
        self.slow_paths.set(setup.slow_paths);
        self.interface.set(setup.interface);
        self.paging.set(setup.paging);
        self.pci.begin(setup);
        self.cr3.set(setup.pgdir);
        self.cs.set(u32::from(KERNEL_CS));
        self.ss.set(u32::from(KERNEL_DS));
        let gdt = |index: u32| &self.gdt[index as usize];
        gdt(GDT_KERNEL_CS).set(Descriptor::flat_code(GUEST_PL));
        gdt(GDT_KERNEL_DS).set(Descriptor::flat_data(GUEST_PL));
        self.regs.eip.set(setup.start);
        self.regs.esi.set(setup.boot_parameters);
        self.regs.eflags.set(START_EFLAGS);
        set_start_segments(&self.regs, setup.boot_parameters);
        self.fpu.0.set(initial_fpu());
        let first = &self.views[0];
        first.cr3.set(setup.pgdir);
        first.last_use.set(1);
        self.uses.set(1);
    }

    /// The rest of the state is that of a Guest that stood in other processes:
    /// makes it right for one whose first view has just been made, and maps
    /// nothing. What the Guest has told us stays, and so do its patches, their
    /// copies and their trampolines.
    pub fn resume(&self, setup: &ViewSetup) {
        self.limit.set(setup.limit);
        self.slow_paths.set(setup.slow_paths);
        self.moved.set(setup.moved);
        self.anchors.forget();
        for at in [&self.deadline, &self.retry_at] {
            if at.get() != 0 {
                at.set(setup.moved.deadline(at.get()));
            }
        }
        for view in &self.views {
            view.last_use.set(0);
            view.flush.set(0);
            view.change_count.set(0);
        }
        // A view that maps nothing has missed no change.
        self.kernel_change_count.set(0);
        let first = &self.views[0];
        first.cr3.set(self.cr3.get());
        first.last_use.set(1);
        self.uses.set(1);
        self.regs.reload.set(1);
        self.balance_at.set(0);
        self.exit_traced.set(0);
        self.sample_at.set(0);
        // What it waits for may have come meanwhile, or be due.
        self.wire.kick.store(1, Ordering::SeqCst);
    }

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
        turns::raise(&self.wire.irqs, irq);
    }
}

/// The floating-point unit after FNINIT (Intel SDM volume 1, "x87 FPU State"
/// and "MXCSR"), as FXSAVE would leave it.
fn initial_fpu() -> [u8; 512] {
    const FCW: u16 = 0x037F;
    const MXCSR: u32 = 0x1F80;
    let mut area = [0; 512];
    area[..2].copy_from_slice(&FCW.to_le_bytes());
    area[24..28].copy_from_slice(&MXCSR.to_le_bytes());
    area
}

const _: () = {
    assert!(offset_of!(Vm, wire) == offset_of!(Head, wire));
    assert!(offset_of!(Vm, counters) == offset_of!(Head, counters));
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;
    use lg_abi::shared::LGUEST_IRQS;

    #[test]
    fn a_guest_that_goes_on_has_one_view_and_all_else() {
        let m = Machine::new();
        let vm = &m.vm;
        vm.cr3.set(0x5000);
        vm.kernel_change_count.set(9);
        for (slot, view) in (1..).zip(&vm.views) {
            view.cr3.set(slot << 12);
            view.last_use.set(slot.into());
            view.flush.set(Changes::EVERYTHING);
            view.change_count.set(3);
        }
        vm.regs.eip.set(0xC010_0000);
        vm.deadline.set(77);
        vm.halted.set(1);
        vm.raise(LGUEST_IRQS - 1);
        let mut setup = crate::pci::tests::setup();
        (setup.limit, setup.slow_paths) = (0x40_0000, 5);
        vm.resume(&setup);
        let first = &vm.views[0];
        assert_eq!((first.cr3.get(), first.last_use.get()), (0x5000, 1));
        let used = |view: &&ViewSlot| view.last_use.get() != 0;
        assert_eq!(vm.views.iter().filter(used).count(), 1);
        let told = |view: &ViewSlot| view.flush.get() | view.change_count.get();
        assert!(vm.views.iter().all(|view| told(view) == 0));
        assert_eq!((vm.limit.get(), vm.slow_paths.get()), (0x40_0000, 5));
        assert_eq!(vm.kernel_change_count.get(), 0);
        // It has these still.
        assert_eq!(vm.regs.eip.get(), 0xC010_0000);
        assert_eq!((vm.deadline.get(), vm.halted.get()), (77, 1));
        setup.moved.later = -7;
        vm.resume(&setup);
        assert_eq!((vm.deadline.get(), vm.retry_at.get()), (70, 0));
        let irqs = vm.wire.irqs.load(Ordering::SeqCst);
        assert_eq!(irqs, 1 << (LGUEST_IRQS - 1));
        // And the first look around asks the clock.
        assert_ne!(vm.wire.kick.load(Ordering::SeqCst), 0);
    }
}
