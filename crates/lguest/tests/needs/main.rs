//! A machine that refuses something: one sentence, one cure, one exit code.
//!
//! Each row takes one thing away from the command: a system call, memory, a
//! number of processes, a part of the file system. Then `run` works, or one
//! sentence says what is missing and why, and it ends with the documented code.
//! After the cure in the sentence, it works again. `doctor` says the same.
//! Nothing panics or hangs, and no message blames the guest.

#![expect(unsafe_code, reason = "a child loses a right before it starts")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod calls;
mod containers;
mod filters;
mod limits;
mod passt;
mod rows;

#[path = "../support/mod.rs"]
mod support;
