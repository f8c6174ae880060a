//! Fast paths, and the bits that switch them off.
//!
//! Each fast path has a slow path that does the same. The bits of
//! [`ViewSetup::slow_paths`](crate::state::ViewSetup) and `--no-fast-path=NAME`
//! choose the slow one, for tests and to find faults.

/// The trampoline at the kernel's `iret`.
pub const IRET: u32 = 1;
/// The trampolines at hypercalls.
pub const HYPERCALL: u32 = 2;
/// The trampoline in the entry page.
pub const ENTRY_PAGE: u32 = 4;
/// The segments that trap handlers load.
pub const SEGMENTS: u32 = 8;
/// Mapping a page at once when SET_PTE names it.
pub const EAGER: u32 = 16;
/// Mapping the kernel's memory in pieces of 4 MiB.
pub const LINEAR: u32 = 32;
/// Keeping all views on one processor. The Launcher does this.
pub const ONE_PROCESSOR: u32 = 64;
/// Copies of pages with `int $0x80`.
pub const INT80: u32 = 128;
/// User code without an end of its code segment.
pub const FLAT_CODE: u32 = 256;
/// Not putting off a timer that goes off too early.
pub const LAZY_TIMER: u32 = 512;
/// Hiding pages that are read only instead of unmapping them.
pub const HIDE: u32 = 1024;
/// The trampolines where a driver switches interrupts on.
pub const ENABLING: u32 = 2048;
/// Posting frames for other Guests without asking the Launcher.
pub const OUTBOX: u32 = 4096;
/// Going from `int $0x80` straight to a trampoline. Needs [`INT80`] and
/// [`FLAT_CODE`].
pub const DIRECT: u32 = 8192;
/// The trampolines in accessors of devices on the PCI bus.
pub const ACCESSORS: u32 = 1 << 14;
/// Going from user mode to the kernel and back in 32-bit code. Needs [`IRET`]
/// or [`ENTRY_PAGE`].
pub const CROSSING: u32 = 1 << 15;
/// Answering reads of a disk without asking the Launcher. Needs
/// [`DISK_AT_ONCE`].
pub const DISK_READS: u32 = 1 << 16;
/// Telling clocks by the time-stamp counter.
pub const CLOCK: u32 = 1 << 17;
/// Going from an interrupt back to the kernel in 32-bit code. Needs
/// [`CROSSING`].
pub const BACK: u32 = 1 << 18;
/// Keeping pages that can be hidden mappings of their own.
pub const APART: u32 = 1 << 19;
/// Running a new program in the view of the one that it replaces.
pub const TRADE: u32 = 1 << 20;
/// Answering hypercalls that ask for nothing in 32-bit code. Needs
/// [`CROSSING`] and [`HYPERCALL`].
pub const NEAR: u32 = 1 << 21;

/// Completing a disk's request while the Guest is stopped. The Launcher does
/// this, and all of the following.
pub const DISK_AT_ONCE: u32 = 1 << 24;
/// Raising an interrupt without a kick while the Guest is stopped.
pub const NO_KICK: u32 = 1 << 25;
/// One interrupt for several frames of a stream.
pub const BATCHES: u32 = 1 << 26;
/// Large pages where the Guest has used all of the small ones.
pub const HUGE_PAGES: u32 = 1 << 27;
/// Reading a disk ahead.
pub const READ_AHEAD: u32 = 1 << 28;
/// Answering a share's request while the Guest is stopped.
pub const SHARE_AT_ONCE: u32 = 1 << 29;

/// All of them, by name.
pub const ALL: [(&str, u32); 28] = [
    ("iret", IRET),
    ("hypercall", HYPERCALL),
    ("entry-page", ENTRY_PAGE),
    ("segments", SEGMENTS),
    ("eager", EAGER),
    ("linear", LINEAR),
    ("one-processor", ONE_PROCESSOR),
    ("int80", INT80),
    ("flat-code", FLAT_CODE),
    ("lazy-timer", LAZY_TIMER),
    ("outbox", OUTBOX),
    ("hide", HIDE),
    ("direct", DIRECT),
    ("enabling", ENABLING),
    ("accessors", ACCESSORS),
    ("crossing", CROSSING),
    ("back", BACK),
    ("disk-reads", DISK_READS),
    ("clock", CLOCK),
    ("apart", APART),
    ("trade", TRADE),
    ("near", NEAR),
    ("disk-at-once", DISK_AT_ONCE),
    ("read-ahead", READ_AHEAD),
    ("share-at-once", SHARE_AT_ONCE),
    ("no-kick", NO_KICK),
    ("batches", BATCHES),
    ("huge-pages", HUGE_PAGES),
];
