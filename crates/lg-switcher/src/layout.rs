//! Where everything is in a view.
//!
//! Everything is at a fixed place, above the 4 GiB that are the Guest's. One
//! load of a constant reaches it, from any code, in any state. Fixed places
//! make an attack from inside the view easier. Such an attack gains nothing: a
//! view holds nothing except the Guest itself.

use core::cell::Cell;
use core::mem::offset_of;
use core::sync::atomic::AtomicU32;
use lg_abi::page::{PAGE_SIZE, SWITCHER_ADDR};
use lg_host::cpu::extended::Extended;
use lg_host::paging::ShadowMemory;
use lg_host::patch::crossing::CODE_SIZE;
use lg_host::patch::crossing::words::{CODE_ADDRESS, WORDS};
use lg_host::patch::limits::MAX_DIRECT;
use lg_host::state::{FpuState, Registers, Vm};
use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::spawn::MAX_SHARED_PAGES;
use lg_wire::state::{Head, PROCESS_SIZE, STATE_SIZE};

/// What all views and the Launcher share: a [`State`].
pub const STATE: usize = 0x1000_0000_0000;

/// All of the Guest's physical memory.
pub const MEMORY: usize = 0x2000_0000_0000;

/// The trace: a [`RingHead`](lg_wire::trace::RingHead), and the records.
pub const TRACE: usize = 0x1800_0000_0000;

/// Patched copies of pages of the Guest's ([`lg_host::patch::copies`]).
pub const COPIES: usize = 0x2800_0000_0000;

/// The outboxes ([`lg_wire::outbox`]), one behind the other in the order of the
/// networks' pages. The high word of all their addresses is the same.
pub const OUTBOXES: usize = 0x2A00_0000_0000;

/// This view's own record of what it maps: a [`ShadowMemory`].
pub const RECORD: usize = 0x3000_0000_0000;

/// Its record of what its user process maps, another [`ShadowMemory`].
pub const USER_RECORD: usize = 0x3080_0000_0000;

/// What a view shares with its user process, as the view sees it:
/// [`UserPages`].
pub const USER: usize = 0x3200_0000_0000;

/// Where the user process sees the first of these pages: where a view has the
/// first page of its state, so that the same code finds the registers.
pub const USER_PAGE: usize = STATE;

/// The pages of orders, which view and mapper see at the same address.
pub const COMMANDS: usize = USER + offset_of!(UserPages, commands);

/// What a process keeps for itself: an [`Own`](crate::own::Own).
pub const OWN: usize = 0x30C0_0000_0000;

/// The stack on which signals arrive.
pub const STACK: usize = 0x3100_0000_0000;

/// Bytes of it.
pub const STACK_SIZE: usize = 0x2_0000;

/// How far above the lower end of the stack the frame is from which the
/// processor leaves into the Guest. A signal at the last moment uses the stack
/// below this frame, and what is above stays whole.
pub const EXIT_FRAME: usize = 0xA000;

/// Where this program itself was linked to.
pub const IMAGE: usize = 0x4000_0000_0000;

/// More bytes than it has.
pub const IMAGE_SIZE: usize = 0x40_0000;

/// From here up, a view needs nothing.
pub const BEYOND: usize = IMAGE + IMAGE_SIZE;

/// The end of what a process may map.
pub const TASK_SIZE: usize = 0x7FFF_FFFF_F000;

/// Where the Guest sees the trampolines: in the Switcher's part of its address
/// space, but not at its very beginning, where accesses behind the end of the
/// Guest's kernel would hit them.
pub const TRAMPOLINES: usize = 0xFFFE_0000;

/// Where the kernel lets 32-bit code go on behind a `sysenter` or `syscall`
/// ([`crate::vdso`]): in the Switcher's part, where nothing is mapped.
pub const LANDING: usize = 0xFFD0_0000;

/// Bytes of it: more than a vDSO has.
pub const LANDING_SIZE: usize = 0x8000;

/// Where the vDSO is for a moment, before it is unmapped. Its low half is
/// [`LANDING`].
pub const VDSO: usize = 0x5000_0000_0000 + LANDING;

/// Bytes of a trampoline.
pub(crate) const TRAMPOLINE_SIZE: usize = 64;

/// Trampolines for user code, with the table. They have a page to themselves
/// because a user process sees no others.
pub(crate) const USER_TRAMPOLINES: usize =
    USER_TRAMPOLINES_SIZE / TRAMPOLINE_SIZE;

/// Bytes of that page.
pub const USER_TRAMPOLINES_SIZE: usize = 4096;

/// The number of the first trampoline. The table is in the place of number 0.
pub(crate) const FIRST_TRAMPOLINE: usize = 1;

/// The number of the first trampoline for a direct call.
pub(crate) const FIRST_DIRECT: usize = USER_TRAMPOLINES - MAX_DIRECT;

/// Trampolines that there is room for, user code's and the table among them.
pub(crate) const MAX_TRAMPOLINES: usize = 3 * USER_TRAMPOLINES;

/// The memory of the trampolines, which the Guest sees read-only at
/// [`TRAMPOLINES`].
#[repr(C, align(4096))]
pub struct TrampolinePages {
    pub(crate) table: TrampolineTable,
    pub(crate) trampolines:
        [[Cell<u8>; TRAMPOLINE_SIZE]; MAX_TRAMPOLINES - FIRST_TRAMPOLINE],
}

/// Where trampolines find this program.
#[repr(C, align(64))]
pub(crate) struct TrampolineTable {
    /// Where they go on.
    pub(crate) common: Cell<u64>,
    /// Where they save registers.
    pub(crate) registers: Cell<u64>,
}

/// What all views share. The Launcher maps the head of it, which is that of
/// [`Vm`].
#[repr(C)]
pub struct State {
    /// The Guest.
    pub vm: Vm,
    /// Code at which the Guest enters the Host.
    pub trampolines: TrampolinePages,
    /// Code of crossings ([`lg_host::patch::crossing`]).
    pub crossing: CrossingPage,
}

/// The page with the code of crossings, which the Guest sees read-only.
#[repr(C, align(4096))]
pub struct CrossingPage(pub(crate) [Cell<u8>; CODE_SIZE]);

/// What a view shares with its user process and with the user process's mapper.
/// All zero is right at the beginning.
#[repr(C, align(4096))]
pub struct UserPages {
    /// Both sides write here.
    pub page: UserPage,
    /// The mapper's orders; only the view can write them.
    pub commands: Commands,
}

/// The page that a user process can write: registers, and the words by which it
/// starts. The registers are where a [`State`] has them.
#[repr(C, align(4096))]
pub struct UserPage {
    unused: [Cell<u8>; offset_of!(State, vm.regs)],
    /// The registers of user code, while it does not run.
    pub regs: Registers,
    /// Its floating-point registers, likewise.
    pub fpu: FpuState,
    /// Its extended state, likewise.
    pub extended: Extended,
    /// 1 = another thread runs than before: the user process wipes what the
    /// last one has left in its memory.
    pub wipe: Cell<u32>,
    /// An errno, if the user process could not be made.
    pub failed: AtomicU32,
    /// The process numbers of user process and mapper.
    pub processes: [AtomicU32; 2],
    /// Their listeners ([`crate::notify`]), plus one; 0 = not there yet.
    pub listeners: [AtomicU32; 2],
}

/// A system call that the mapper is to make: number and arguments.
pub type Command = [Cell<u64>; 7];

/// How many there may be at the same time.
pub const MAX_COMMANDS: usize = 2 * 4096 / size_of::<Command>();

/// The mapper's orders.
#[repr(C, align(4096))]
pub struct Commands(pub [Command; MAX_COMMANDS]);

/// Bytes of the record, in whole pages.
pub const RECORD_SIZE: usize = size_of::<ShadowMemory>().next_multiple_of(4096);

const _: () = {
    assert!(size_of::<State>() <= STATE_SIZE);
    let trampolines = MAX_TRAMPOLINES * TRAMPOLINE_SIZE;
    assert!(size_of::<TrampolinePages>() == trampolines);
    assert!(TRAMPOLINES + trampolines == CODE_ADDRESS as usize);
    assert!(CODE_ADDRESS + PAGE_SIZE == WORDS);
    assert!(offset_of!(State, vm.crossing.words).is_multiple_of(4096));
    assert!(offset_of!(State, vm) == 0 && size_of::<Head>() <= size_of::<Vm>());
    let own = 2 * RECORD_SIZE + STACK_SIZE + IMAGE_SIZE + PAGE_SIZE as usize;
    assert!(own <= PROCESS_SIZE);
    let outboxes = MAX_SHARED_PAGES as u64 * OUTBOX_SIZE as u64;
    assert!(outboxes < 1 << 32 && (OUTBOXES as u64).is_multiple_of(1 << 32));
    assert!(RECORD + RECORD_SIZE <= USER_RECORD);
    assert!(USER_RECORD + RECORD_SIZE <= OWN);
    assert!(OWN + PAGE_SIZE as usize <= STACK);
    assert!(size_of::<UserPage>() == 4096);
    assert!(USER + size_of::<UserPages>() <= IMAGE);
    assert!(BEYOND <= VDSO && VDSO + LANDING_SIZE <= TASK_SIZE);
    assert!(LANDING >= SWITCHER_ADDR as usize);
    assert!(LANDING + LANDING_SIZE <= TRAMPOLINES);
    // The registers of a user process are found where those of a view are.
    assert!(offset_of!(UserPage, regs) == offset_of!(State, vm.regs));
    assert!(offset_of!(UserPage, fpu) == offset_of!(State, vm.fpu));
    assert!(EXIT_FRAME.is_multiple_of(16) && EXIT_FRAME < STACK_SIZE / 2);
};
