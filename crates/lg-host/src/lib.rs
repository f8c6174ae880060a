//! The Host: a state machine that turns a Guest's traps into what they mean.
//!
//! It runs in the Guest's own process, above 4 GiB, entered by the Switcher
//! whenever the Guest cannot go on alone, and it is as untrusted as the Guest
//! itself: the walls are elsewhere. What matters here is being right. So there
//! is no I/O in this crate and no assembly. The Guest's memory is read and
//! written through [`memory`]; what the processor maps is changed through a
//! [`Mapper`](world::Mapper); everything else that the Host wants of the world
//! goes through [`World`](world::World). A test gives it a scripted Guest and
//! a pretended world, and a fuzzer gives it nonsense.
//!
//! The modules are in reading order: first what the Host has to work with,
//! then what it does, from the moment a trap arrives.

#![no_std]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub(crate) use lg_wire::{fast_path, turns};

pub mod address;
pub mod kill;
pub mod memory;
pub mod state;
pub mod world;

pub mod cpu;
pub mod hypercalls;
pub mod outbox;
pub mod paging;
pub mod patch;
pub mod run;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
