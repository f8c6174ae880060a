//! Where everything lies in a view, and which descriptors it is born with.
//!
//! Everything is at a fixed place, above the 4 GiB that are the Guest's: one
//! load of a constant reaches it, from any code, in any state. That helps an
//! attacker inside, and it does not matter: what he finds here is his own.

use crate::gates::GatePages;
use crate::mailbox::Mailbox;
use lg_host::paging::ViewMemory;
use lg_host::state::Vm;

/// What all views and the Launcher share: a [`State`].
pub const STATE: usize = 0x1000_0000_0000;

/// All of the Guest's physical memory.
pub const MEMORY: usize = 0x2000_0000_0000;

/// This view's own record of what it maps: a [`ViewMemory`].
pub const RECORD: usize = 0x3000_0000_0000;

/// The stack on which signals arrive.
pub const STACK: usize = 0x3100_0000_0000;

/// Bytes of it.
pub const STACK_SIZE: usize = 0x2_0000;

/// How far above the lower end of the stack the frame lies from which the
/// processor leaves into the Guest. A signal that comes at the last moment
/// finds its stack below this frame, and what lies above stays whole.
pub const EXIT_FRAME: usize = 0xA000;

/// Where this program itself was linked to.
pub const IMAGE: usize = 0x4000_0000_0000;

/// More than it has bytes.
pub const IMAGE_SIZE: usize = 0x40_0000;

/// From here up there is nothing that we want to keep.
pub const BEYOND: usize = IMAGE + IMAGE_SIZE;

/// The end of what a process may map.
pub const TASK_SIZE: usize = 0x7FFF_FFFF_F000;

/// Where the Guest sees the gates: in the Switcher's part of its address
/// space, but not at its very beginning, where a pointer that has run away
/// would land.
pub const GATES: usize = 0xFFFE_0000;

/// The Guest's memory file.
pub const MEMORY_FD: i32 = 3;

/// The file of [`State`]. Closed once it is mapped.
pub const STATE_FD: i32 = 4;

/// The nursery's end of the socket on which the Launcher asks for views.
pub const COMMAND_FD: i32 = 5;

/// The files of pages that are shared with other Guests, from here on.
pub const SHARED_PAGE_FD: i32 = 6;

/// How many such pages a Guest may have: as many as devices.
pub const MAX_SHARED_PAGES: usize = lg_abi::device::LGUEST_MAX_DEVICES;

/// What the Launcher tells a view before it runs anything.
#[repr(C)]
pub struct Setup {
    /// Bytes of the memory file.
    pub limit: u32,
    /// How many of `shared_pfns` are in use.
    pub shared_pages: u32,
    /// Page numbers that lie in files of their own.
    pub shared_pfns: [u32; MAX_SHARED_PAGES],
}

/// What all views and the Launcher share.
#[repr(C)]
pub struct State {
    /// From the Launcher, before anything runs.
    pub setup: Setup,
    /// The conversation between Host and Launcher.
    pub mailbox: Mailbox,
    /// The Guest.
    pub vm: Vm,
    /// Code at which the Guest enters the Host.
    pub gates: GatePages,
}

/// Bytes of [`State`], in whole pages.
pub const STATE_SIZE: usize = size_of::<State>().next_multiple_of(4096);

/// Bytes of the record, in whole pages.
pub const RECORD_SIZE: usize = size_of::<ViewMemory>().next_multiple_of(4096);

const _: () = {
    assert!(STATE_SIZE < 1 << 20);
    assert!(EXIT_FRAME.is_multiple_of(16) && EXIT_FRAME < STACK_SIZE / 2);
};
