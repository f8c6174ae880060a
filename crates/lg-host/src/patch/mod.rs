//! Patches: where the Guest comes to the Host without a trap.
//!
//! A trap costs two microseconds. A far jump into 64-bit code costs a fiftieth
//! of that. So a trapping instruction is replaced by a far jump to a
//! *trampoline* in the Switcher's pages, which enters the Host. The places are:
//! the `iret` of the Guest's kernel, its hypercalls, the stores by which it
//! switches interrupts on, the functions by which it reaches devices, and the
//! entry page that it gives to programs for system calls. Another patch needs
//! no trampoline: where a trap handler loads a data segment, the constant
//! becomes the selector that is really meant. A page of a program's code
//! belongs to a file and is not patched. Programs execute a patched copy of it
//! instead ([`copies`]).
//!
//! Every patch is made late, at a trap that came from its very place, and only
//! if the code there is what it should be: the registers must agree with the
//! instructions in front of it. A place that is refused goes on trapping, which
//! is always right. A Guest that reads its own code sees the patch. For a Guest
//! that must not see it, there are slow paths
//! ([`fast_path`](lg_wire::fast_path)).
//!
//! All patches are in a ledger, and can be taken back ([`ledger`]).

mod accessors;
mod arrivals;
pub mod breakpoints;
pub mod copies;
pub mod crossing;
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
mod near;
mod segment_loads;
mod sites;
pub mod tables;
mod trampoline;

pub use trampoline::TrampolineKind;

#[cfg(test)]
mod tests;
