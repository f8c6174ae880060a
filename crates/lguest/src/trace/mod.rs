//! The trace of a Guest, and its profile.
//!
//! The Host and the Launcher write into a ring ([`lg_wire::trace`]). In reading
//! order: [`copy`] is how the ring is read, [`names`] gives words to what is in
//! it, [`events`] writes a file for a viewer, and [`profile`] makes stacks of
//! samples.
//!
//! A Guest that has taken over its Host can write anything into the ring. So it
//! is copied, in pieces of a bounded size, and every number in the copy is
//! checked. What is read is shown to a person, and nothing depends on it.

pub mod copy;

mod names;
pub use names::{GROUPS, groups};

pub mod events;

pub mod profile;
