//! Guest memory: every access is checked, and made exactly once.
//!
//! The Launcher and the Host read and write memory that a hostile Guest, its
//! views and other Launchers change at any moment. All of them do it through
//! [`Region`]: it checks each address against the size of the memory, copies
//! bytes in or out, and never lends a reference to them. The accesses
//! themselves are instructions that the compiler cannot repeat, split or
//! leave out ([`access`]), so a value that was copied once stays what it was
//! when it was checked.

#![no_std]

#[cfg(test)]
extern crate std;

mod access;
mod region;

pub use region::{BadAddress, Region};
