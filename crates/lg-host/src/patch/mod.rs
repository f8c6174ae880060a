//! Gates: the places where a Guest may come to us without a trap.
//!
//! A trap costs two microseconds, a far jump into 64-bit code costs a fiftieth
//! of that. So where the Guest's code is about to trap anyway, and where we are
//! sure what it does there, the trapping instruction is replaced by a far jump
//! to a *trampoline* in the Switcher's pages, which comes straight here. There
//! are three such places: the `iret` of the Guest's kernel, whose stretch it
//! has told us; its hypercalls; and the entry page that it gives its user
//! programs for system calls. A fourth patch is no trampoline: the instruction
//! with which its trap handlers load a data segment that means something else
//! here is made to load the right one. And where a program's code is not ours
//! to patch, it gets a copy that traps for less ([`patched copies`]).
//!
//! Everything is patched late, at a trap that came from the very place, and
//! only if what stands there is what we think: the registers must agree with
//! the instructions in front of it. A place that is refused goes on trapping,
//! which is always right. A Guest that reads its own code sees the patch; that
//! is the price, and `slow_paths` is for whoever cannot pay it.

mod arrivals;
pub mod copies;
pub mod direct;
mod displaced;
mod enabling;
mod entry_page;
mod far;
mod hypercalls;
mod iret;
mod jumps;
pub mod ledger;
pub mod limits;
mod segment_loads;
mod sites;
pub mod tables;
mod trampoline;

pub use trampoline::TrampolineKind;

#[cfg(test)]
mod tests;
