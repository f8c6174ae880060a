//! The debugger: sessions by GDB's remote protocol with the built-in guest.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod kernel;
mod session;
mod threads;
mod user;
