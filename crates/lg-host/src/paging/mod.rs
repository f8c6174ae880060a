//! Shadow paging: making the processor map what the Guest's tables say.
//!
//! The Guest keeps page tables that no processor ever reads. We read them, at
//! each page fault, and map the page of the memory file that they mean. The
//! rule for every page: mapped only if its entry is Present and Accessed,
//! writable only if it is Writable and Dirty. So the first use of a page and
//! the first write to it come to us, and we set the bit that a processor would
//! have set ([`Host::demand_page`]). What is mapped is on record ([`view`]), so
//! that a change of the tables can be compared with it and only the difference
//! touched ([`changes`]). User code may have an address space of its own
//! ([`user`]).
//!
//! [`Host::demand_page`]: crate::run::Host::demand_page

pub mod walk;

pub mod shadow;

pub mod user;

mod changes;
mod demand;

pub use demand::Fault;
pub use shadow::{Shadow, ShadowMemory, ShadowPte};
pub use user::UserSpace;

#[cfg(test)]
mod tests;
