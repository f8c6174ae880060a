//! Machines with a name: found again, looked at, ended.
//!
//! Each test has a place of its own for its machines, and checks that nothing
//! is left there.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod console;
mod deploy;
mod devices;
mod docker;
mod errors;
mod escapes;
mod life;
mod many;
mod metrics;
mod place;
mod settings;
mod snapshots;
mod strangers;
mod top;
mod traces;
