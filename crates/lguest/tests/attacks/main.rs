//! Attacks by a hostile Guest.
//!
//! `guests/attacks` is the attacker. Its attacks are defined here, mostly as
//! tables that it reads from its initial ram disk. After a boot, more than the
//! exit code is checked. The Guest must have survived, or ended with a known
//! reason. Nothing else may have changed: not the terminal, not an open file or
//! descriptor, not a second Guest beside it. No process may remain.
//!
//! `LGUEST_ATTACKS=all` tries every case of the attacks that are otherwise
//! sampled, which takes hours.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod arena;
mod script;
mod sweep;
mod target;

mod calls;
mod code;
mod devices;
mod frames;
mod hypercalls;
mod input;
mod inside;
mod jumps;
mod lan;
mod maps;
mod pci;
mod races;
mod random;
mod rings;
mod tables;
mod unstoppable;
mod users;
