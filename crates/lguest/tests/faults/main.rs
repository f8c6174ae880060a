//! Faults: what the machine does to a Launcher, and what happens then.
//!
//! Signals at the wrong moment, a terminal that goes away, an output that is
//! not read, a disk that is full, limits of every kind. Expected each time:
//! nothing that was acknowledged is lost, no process is left behind, no
//! terminal is stuck, and a sentence says why. Processes that are killed or
//! stopped at random are in `tests/kills.rs`, which has to be alone in its
//! process.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod disks;
mod limits;
mod owner;
mod signals;
mod streams;
mod time;
