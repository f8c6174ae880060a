//! A machine that refuses something: one sentence, one cure, one exit code.
//!
//! Each row takes one thing away from the command: a system call, memory, a
//! number of processes, a part of the file system. `run` then works, or says
//! in one sentence what is missing and why, ends with the documented code, and
//! works again when the cure of the sentence is carried out. `doctor` says the
//! same. Nothing panics, hangs, or blames the guest.

#![expect(unsafe_code, reason = "a child loses something before it starts")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod calls;
mod containers;
mod filters;
mod limits;
mod rows;

#[path = "../support/mod.rs"]
mod support;
