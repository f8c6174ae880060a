//! Shadow paging: making the processor map what the Guest's tables say.
//!
//! The Guest keeps page tables that no processor ever reads. We read them, at
//! each page fault, and map the page of the memory file that they mean. The
//! rule for every page: mapped only if its entry is Present and Accessed,
//! writable only if it is Writable and Dirty. So the first use of a page and
//! the first write to it come to us, and we set the bit that a processor would
//! have set ([`Host::demand_page`]). What is mapped is on record ([`record`]),
//! so that a change of the tables ([`changes`]) can be compared with it
//! ([`compare`]) and only the difference touched. User code may have an address
//! space of its own ([`user`]).
//!
//! In reading order: the Guest's tables, the record of what is mapped, mapping,
//! and then page faults and changes of the tables.
//!
//! [`Host::demand_page`]: crate::host::Host::demand_page

pub mod walk;

pub mod pte;
pub mod record;
pub mod shadow;

mod linear;
mod mapping;

mod demand;

mod changes;
mod compare;

pub mod user;

pub use demand::Fault;
pub use pte::ShadowPte;
pub use record::ShadowMemory;
pub use shadow::{Shadow, UserSpace};

#[cfg(test)]
mod tests;
