//! Faults of the machine around a Launcher, and what happens then.
//!
//! Signals at the wrong moment, a terminal that goes away, an output that is
//! not read, a disk that is full, limits of every kind. Expected each time: no
//! acknowledged write is lost, no process remains, the terminal can be used,
//! and a sentence says why. `tests/kills.rs` kills and stops processes at
//! random. It must be alone in its process.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod disks;
mod limits;
mod owner;
mod signals;
mod streams;
mod time;
