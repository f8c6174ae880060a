//! Attacks from inside: a hostile Guest, and what it can harm.
//!
//! `guests/attacks` is the attacker. Its attacks are written down here, mostly
//! as tables that it reads from its initial ram disk. A boot is not judged by
//! its exit code alone. The Guest must have survived, or ended with a reason
//! that a person understands; and nothing else may be affected: not the
//! terminal, not a file or a descriptor that lay about, not a second Guest that
//! runs beside it; and no process may be left.
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
mod races;
mod random;
mod tables;
mod unstoppable;
mod users;
