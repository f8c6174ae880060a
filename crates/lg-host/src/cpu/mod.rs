//! What the Guest's processor does: instructions, segments, traps, interrupts.
//!
//! The Guest's code runs on the real processor. Here is what that processor
//! cannot do for it at privilege level 3: instructions that trap, segments
//! that would reach our memory, the delivery of traps and interrupts, `iret`,
//! debug registers, extended state, CPUID.

pub mod cpuid;
pub mod debug;
pub mod emulate;
pub mod extended;
pub mod interrupts;
pub mod iret;
pub(crate) mod reach;
pub mod segments;
pub mod tls;
pub mod traps;
