//! What a run needs of the machine, and the messages when it is missing.
//!
//! Every refusal becomes a [`Lack`]: what could not be done, why, and what to
//! do. `lguest run` ends with it. `lguest doctor` prints it, because its probe
//! of a guest is a run. What a machine can refuse is one table of causes
//! ([`Cause`]). docs/faults.md shows the whole table, and a test keeps the two
//! equal. System calls are tried before anything else ([`calls`]), because a
//! call that is refused in the middle of a run looks like a guest that has
//! crashed.

mod allocator;
pub use allocator::Allocator;

mod calls;
pub(crate) use calls::{
    killed_for, name_of, prefer_clone, refused, refused_for_a_share,
    refused_on_a_network, refused_with_a_name, refused_with_an_agent,
};

mod cause;
pub use cause::Cause;

mod lack;
pub use lack::Lack;

mod limits;
pub use limits::stack;
pub(crate) use limits::{
    killed, limit, look_around, processes_of_group, room_for_a_thread,
};

#[cfg(test)]
mod tests;
