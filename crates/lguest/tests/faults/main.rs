//! Faults: what the machine does to a Launcher, and what then becomes of it.
//!
//! Signals at the wrong moment, a terminal that goes away, an output that
//! nobody takes, a disk that is full, limits of every kind. Expected each
//! time: nothing that was acknowledged is lost, nobody is left behind, no
//! terminal is stuck, and a sentence says why. What happens when processes
//! are killed or stopped at random is in `tests/kills.rs`, which cannot share
//! its process with anybody.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod disks;
mod limits;
mod owner;
mod signals;
mod streams;
mod time;
