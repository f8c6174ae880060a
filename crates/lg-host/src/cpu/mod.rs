//! What the Guest's processor does: instructions, segments, traps, interrupts.
//!
//! The Guest's code runs on the real processor. Here is what that processor
//! cannot do for it at privilege level 3: instructions that trap, segments that
//! would reach our memory, the delivery of traps and interrupts, `iret`, debug
//! registers, extended state, CPUID.
//!
//! In reading order: how an instruction is read, the instructions that are
//! carried out, segments, and traps.

pub mod registers;

pub(crate) mod accesses;
pub(crate) mod branch;
pub mod instruction;
pub(crate) mod segment_load;

mod counter;
pub mod cpuid;
pub mod debug;
pub mod device_access;
mod early;
mod port_io;

pub mod kernel_segments;
pub(crate) mod reach;
pub mod segments;
pub mod selectors;
pub mod tls;

pub mod extended;
pub mod faults;
pub mod interrupts;
pub mod iret;
pub mod traps;
