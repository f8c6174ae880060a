//! The Host of one view: what it works with, and why it is entered.
//!
//! What it does is in the other files, each of which has a block of
//! `impl Host` with a topic of its own.

use crate::memory::Memory;
// circle: the Host holds its outboxes, and posting is the Host's work.
use crate::outbox::Outboxes;
use crate::paging::shadow::Shadow;
use crate::patch::TrampolineKind;
use crate::state::Vm;
use crate::world::{Mapper, World};

/// The Host of one view: all that it works with.
pub struct Host<'a> {
    /// What all views share.
    pub vm: &'a Vm,
    /// The Guest's memory.
    pub memory: Memory,
    /// Patched copies of pages of the Guest's ([`crate::patch::copies`]).
    pub copies: Memory,
    /// Frames for other Guests.
    pub outboxes: Outboxes,
    /// What this view maps.
    pub shadow: Shadow<'a>,
    /// Changes what it maps.
    pub mapper: &'a mut dyn Mapper,
    /// Everything else.
    pub world: &'a mut dyn World,
}

/// Why the Host was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The processor trapped.
    Trap {
        /// The vector.
        vector: u8,
        /// The error code, 0 for vectors that have none.
        error: u32,
        /// The address, for a page fault.
        cr2: u32,
    },
    /// `int $0x80`; eip stands behind it.
    SystemCall,
    /// A system call by an instruction that the Guest's processor does not
    /// have: `sysenter` or `syscall`. Where it stood is lost.
    StraySystemCall,
    /// Guest code was found running in 64-bit mode.
    LongMode,
    /// The Guest came through a trampoline.
    Trampoline(TrampolineKind),
    /// The Guest stopped in the middle of a crossing
    /// ([`crate::patch::crossing`]).
    Crossing,
    /// A timer, another view or the Launcher wants attention.
    Kick,
}
