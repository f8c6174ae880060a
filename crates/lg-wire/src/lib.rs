//! The wire: memory and numbers that the Launcher shares with other processes.
//!
//! A Guest runs in processes of its own, the *views*. The Launcher starts them,
//! answers their requests and interrupts them. It does all of that through the
//! definitions here. The other side may be a Guest that has taken over its
//! Host. So every word is read once and checked, and references into shared
//! memory are kept only to atomics.
//!
//! - [`spawn`]: how views are started, and what they inherit;
//! - [`state`]: the beginning of the state that all views and the Launcher map;
//! - [`mailbox`]: one request of the Host, and its answer;
//! - [`debug`]: what a debugger asks the Host meanwhile;
//! - [`last`]: what the Guest did last, for an explanation of its end;
//! - [`trace`]: a ring of records about what happens to it;
//! - [`turns`]: the steps by which a process waits for another;
//! - [`disk`]: the ring of a disk while the Host answers its reads;
//! - [`outbox`] and [`port`]: frames between the Guests of one network;
//! - [`clock`], [`counters`], [`fast_path`], [`processor`]: names and numbers
//!   that both sides use.
//!
//! There is no I/O in this crate, and no system call. It depends on nothing but
//! the Guest's interface, so that the Launcher needs nothing of the Host.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod spawn;
pub mod state;

pub mod debug;
pub mod last;
pub mod mailbox;
pub mod trace;

pub mod moved;
pub mod turns;

pub mod disk;
pub mod outbox;
pub mod port;

pub mod clock;
pub mod counters;
pub mod fast_path;
pub mod processor;
