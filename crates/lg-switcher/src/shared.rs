//! The state that all views share, and the setup, at their fixed places.
//!
//! A user process has no state, but the page of registers lies where a view has
//! the first page of it.

#![expect(unsafe_code, reason = "memory at a fixed address")]

use crate::layout::{
    STATE, State, TRACE, USER, USER_PAGE, UserPage, UserPages,
};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use lg_abi::gen3::pci::MAX_DEVICES;
use lg_host::state::{FpuState, Registers};
use lg_wire::moved::Moved;
use lg_wire::spawn::MAX_SHARED_PAGES;
use lg_wire::state::ViewSetup;
use lg_wire::trace::{self, Record, Ring, RingHead};

/// The state that all views share.
pub(crate) fn state() -> &'static State {
    // SAFETY: the crate's standing assumption; everything in it is a cell or
    // an atomic.
    unsafe { &*(STATE as *const State) }
}

/// Where the Guest's registers are put while it does not run: the same place
/// in a view and in a user process.
pub(crate) fn registers() -> &'static Registers {
    const AT: usize = STATE + offset_of!(State, vm.regs);
    // SAFETY: as in `state`, and a user process has this page, too.
    unsafe { &*(AT as *const Registers) }
}

/// Where its floating-point registers are put while it moves.
pub(crate) fn fpu() -> &'static FpuState {
    const AT: usize = STATE + offset_of!(State, vm.fpu);
    // SAFETY: as in `registers`.
    unsafe { &*(AT as *const FpuState) }
}

struct TheSetup(UnsafeCell<ViewSetup>);

// SAFETY: there is one thread.
unsafe impl Sync for TheSetup {}

static SETUP: TheSetup = TheSetup(UnsafeCell::new(ViewSetup {
    limit: 0,
    shared_pages: 0,
    disks: 0,
    shared_pfns: [0; MAX_SHARED_PAGES],
    resumed: 0,
    moved: Moved {
        tsc_khz: 0,
        tsc_at_zero: 0,
        later: 0,
    },
    user_processes: 0,
    slow_paths: 0,
    guestid: 0,
    page_offset: 0,
    pgdir: 0,
    interface: 0,
    paging: 0,
    boot_parameters: 0,
    start: 0,
    device_count: 0,
    devices: [0; MAX_DEVICES],
    trace_records: 0,
}));

/// Copies the setup while there is no view yet. Views inherit the copy. A
/// hostile view can change the original, and a later view would use that before
/// it is confined.
pub(crate) fn keep_setup() {
    // SAFETY: the view spawner's first step; there are no references yet.
    unsafe { *SETUP.0.get() = state().vm.wire.setup.get() };
}

/// What the Launcher has written about the Guest.
pub(crate) fn setup() -> &'static ViewSetup {
    // SAFETY: written once, by the view spawner, before it asks for this.
    unsafe { &*SETUP.0.get() }
}

/// The ring of the trace, which only views have.
pub(crate) fn trace() -> Ring<'static> {
    const RECORDS: usize = TRACE + trace::HEAD_SIZE;
    // SAFETY: the view spawner has mapped it; all of it are atomics.
    let head = unsafe { &*(TRACE as *const RingHead) };
    let count = setup().trace_records as usize;
    // SAFETY: as above; that many records are mapped behind the head.
    let records =
        unsafe { core::slice::from_raw_parts(RECORDS as *const Record, count) };
    Ring::new(head, records)
}

/// What a view shares with its user process, as the view sees it, and as the
/// user process sees it until it has moved the first page.
pub(crate) fn user_pages() -> &'static UserPages {
    // SAFETY: mapped before a user process is made; all of it are cells and
    // atomics.
    unsafe { &*(USER as *const UserPages) }
}

/// The first of these pages, as the user process sees it.
pub(crate) fn user_page() -> &'static UserPage {
    // SAFETY: a user process moves the page here before it runs user code; all
    // of it are cells and atomics.
    unsafe { &*(USER_PAGE as *const UserPage) }
}
