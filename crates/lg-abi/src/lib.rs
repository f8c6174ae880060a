//! The interface between a Guest, the Host and the Launcher, byte for byte.
//!
//! This crate is `lguest_launcher.h` of Linux 2.6.23 and its companions,
//! written as Rust types: what the header says, what the Guest's hypercalls
//! look like, and where the boot parameters lie. Both sides of the virtual
//! machine are compiled from it, one for a 32-bit machine and one for a
//! 64-bit one, so a struct here holds integers of at most 32 bits, spells out
//! its padding, and asserts its size and offsets at compile time. Nothing in
//! here does anything: no I/O, no allocation, no unsafe code.
//!
//! The modules are in the order in which a reader meets the things they
//! describe: pages first, then how a Guest starts, what it may ask for, the
//! page it shares with the Host, how it moves data, and which devices it finds.

#![no_std]
#![forbid(unsafe_code)]

pub mod page;

pub mod boot;
pub mod segment;

pub mod hypercall;
pub mod shared;

pub mod dma;

pub mod device;

pub mod request;
