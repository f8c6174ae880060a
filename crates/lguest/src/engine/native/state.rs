//! The state that the views share, as the Launcher sees it.
//!
//! The Launcher fills it in before anything runs. From then on it is the
//! Guest's: we add interrupts and kicks to it, read the mailbox word by word,
//! and believe nothing.

#![expect(unsafe_code, reason = "memory shared with hostile processes")]

use crate::engine::clock;
use crate::engine::interface::{Isolation, Setup};
use crate::memory::sealed_file;
use lg_abi::boot::START_EFLAGS;
use lg_abi::segment::{
    Descriptor, GDT_KERNEL_CS, GDT_KERNEL_DS, GUEST_PL, KERNEL_CS, KERNEL_DS,
};
use lg_host::cpu::segments::set_start_segments;
use lg_host::state::Vm;
use lg_switcher::layout::{STATE_SIZE, State};
use lg_switcher::mailbox::Mailbox;
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// The shared state, mapped.
///
/// # Invariants
///
/// 1. `state` points to [`STATE_SIZE`] bytes, mapped shared until drop, of a
///    file sealed against shrinking.
/// 2. After [`Shared::set_up`], only atomics in it are used through
///    references; everything else is copied out by volatile reads.
pub(super) struct Shared {
    state: NonNull<State>,
    pub(super) file: OwnedFd,
}

// SAFETY: the memory belongs to no thread, and is used as invariant 2 says.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Fresh state, all zero.
    pub(super) fn new() -> io::Result<Self> {
        let file = sealed_file("lguest-state", STATE_SIZE as u64)?;
        // SAFETY: a fresh mapping at a place of the kernel's choice.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                STATE_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }?;
        let state = NonNull::new(at.cast()).expect("mmap never answers null");
        Ok(Self { state, file })
    }

    /// Fills in what the Guest starts with (docs/abi.md, section 3).
    pub(super) fn set_up(&self, guest: &Setup, limit: u32) {
        let request = &guest.request;
        let pages = &guest.shared_pages;
        // SAFETY: nothing else has the file yet.
        let setup = unsafe { &mut (*self.state.as_ptr()).setup };
        setup.limit = limit;
        setup.user_processes = u32::from(guest.isolation == Isolation::User);
        setup.shared_pages =
            u32::try_from(pages.len()).expect("a bus is small");
        for (pfn, page) in setup.shared_pfns.iter_mut().zip(pages) {
            *pfn = page.pfn;
        }
        // SAFETY: as above.
        let vm = unsafe { &(*self.state.as_ptr()).vm };
        vm.limit.set(limit);
        vm.page_offset.set(request.page_offset);
        vm.guestid.set(guest_id(guest));
        vm.slow_paths.set(guest.slow_paths);
        vm.cr3.set(request.pgdir);
        vm.cs.set(u32::from(KERNEL_CS));
        vm.ss.set(u32::from(KERNEL_DS));
        vm.gdt[GDT_KERNEL_CS as usize].set(Descriptor::flat_code(GUEST_PL));
        vm.gdt[GDT_KERNEL_DS as usize].set(Descriptor::flat_data(GUEST_PL));
        vm.regs.eip.set(request.start);
        vm.regs.eflags.set(START_EFLAGS);
        set_start_segments(&vm.regs);
        vm.fpu.0.set(initial_fpu());
        let first = &vm.views[0];
        first.cr3.set(request.pgdir);
        first.last_use.set(1);
        vm.uses.set(1);
    }

    /// The last thing that is filled in, for it takes time to measure.
    pub(super) fn set_tsc_khz(&self) {
        // SAFETY: the first view has not got the run token yet.
        let vm = unsafe { &(*self.state.as_ptr()).vm };
        vm.tsc_khz.set(clock::tsc_khz());
    }

    /// The mailbox: all atomics.
    pub(super) fn mailbox(&self) -> &Mailbox {
        // SAFETY: invariant 1; everything in a mailbox is an atomic.
        unsafe { &(*self.state.as_ptr()).mailbox }
    }

    /// Interrupts that wait.
    pub(super) fn irqs(&self) -> &AtomicU32 {
        self.atomic(|vm| &raw const vm.irqs)
    }

    /// Counts what has come from outside; a futex.
    pub(super) fn kick(&self) -> &AtomicU32 {
        self.atomic(|vm| &raw const vm.kick)
    }

    /// Whether the current view sleeps, or so it says.
    pub(super) fn asleep(&self) -> &AtomicU32 {
        self.atomic(|vm| &raw const vm.asleep)
    }

    /// Which view runs, or so it says.
    pub(super) fn current(&self) -> &AtomicU32 {
        self.atomic(|vm| &raw const vm.current)
    }

    /// "Stop at the next clean point".
    pub(super) fn break_wanted(&self) -> &AtomicU32 {
        self.atomic(|vm| &raw const vm.break_wanted)
    }

    /// When the Host is to tell that a buffer may be free.
    pub(super) fn input_waits(&self) -> &AtomicU32 {
        self.atomic(|vm| &raw const vm.input_waits)
    }

    /// The run token of the first view.
    pub(super) fn first_run_token(&self) -> &AtomicU32 {
        self.atomic(|vm| &raw const vm.views[0].run_token)
    }

    /// All counts that are not zero, by name.
    pub(super) fn counters(&self) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        // SAFETY: only an address is computed, inside the state.
        let counters = unsafe { &raw const (*self.state.as_ptr()).vm.counters };
        // SAFETY: counters are plain numbers, right or wrong; a copy of all
        // of them is made before any is looked at.
        let counters = unsafe { counters.read_volatile() };
        counters.visit(|name, value| all.push((name.to_string(), value)));
        all
    }

    fn atomic(
        &self,
        field: impl FnOnce(&Vm) -> *const AtomicU32,
    ) -> &AtomicU32 {
        // SAFETY: invariant 1. The reference to the whole is used to find a
        // field's address and nothing else; every field is made of user
        // processes.
        let vm = unsafe { &(*self.state.as_ptr()).vm };
        // SAFETY: an atomic inside the mapping.
        unsafe { &*field(vm) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: invariant 1; nobody has references any more.
        // A filter may refuse it; then the memory stays until we end.
        let _ = unsafe {
            rustix::mm::munmap(self.state.as_ptr().cast(), STATE_SIZE)
        };
    }
}

/// The number that the Guest is told to have.
fn guest_id(guest: &Setup) -> u32 {
    guest
        .guest_id
        .map_or_else(|| std::process::id() & 0xFFFF, u32::from)
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
