//! The Host: a state machine that turns a Guest's traps into what they mean.
//!
//! It runs in the Guest's own process, above 4 GiB. The Switcher enters it
//! whenever the Guest cannot go on alone. It is as untrusted as the Guest: the
//! walls are elsewhere. There is no I/O in this crate and no assembly. The
//! Guest's memory is read and written through [`memory`], what the processor
//! maps is changed through a [`Mapper`](world::Mapper), and everything else
//! that the Host wants is asked of [`World`](world::World). A test gives it a
//! scripted Guest and a pretended world (module `testing`); so does the fuzzer.
//!
//! The modules are in reading order: what the Host works with; what it does
//! between a trap and the next instruction; and then each kind of trap.
//!
//! Most files add a block to `impl Host` ([`host`]), and call what other files
//! have added: a page fault may deliver a trap, and a trap may fault. Such
//! calls need no import. Files that import each other nevertheless are
//! [`state`] and [`world`], which name types of each topic (debug registers,
//! extended state, kinds of trampolines), and the topics, which work on them.

#![no_std]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub(crate) use lg_wire::{fast_path, turns};

pub mod address;

pub mod kill;

pub mod memory;

pub mod state;

pub mod world;

pub mod host;

pub mod run;

mod waiting;

pub mod anchor;

mod trace;

pub mod hypercalls;

pub mod cpu;

pub mod paging;

pub mod patch;

pub mod debugger;

pub mod outbox;

pub mod pci;

pub mod disk;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
