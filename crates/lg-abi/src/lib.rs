//! The interface between a Guest, the Host and the Launcher: its wire formats.
//!
//! Guests of three generations exist. Each generation has a module of its own
//! ([`gen1`]: 2007, [`gen2`]: up to Linux 3.19, [`gen3`]: up to Linux 4.13);
//! all share the others. Each Guest has an
//! [`Interface`](interface::Interface). The Host uses it to turn numbers and
//! registers into a [`Call`](call::Call), and to find the fields that both
//! sides write.
//!
//! Both sides of the virtual machine are compiled from this crate, one for a
//! 32-bit machine and one for a 64-bit one. So a struct here holds integers of
//! at most 32 bits, spells out its padding, and asserts its size and offsets at
//! compile time. There is no I/O here, no allocation and no unsafe code.
//!
//! In reading order: pages and segments, hypercalls and shared fields as the
//! Host sees them, then the formats of each generation, and last what a
//! Launcher asks of its Host.

#![no_std]
#![forbid(unsafe_code)]

pub mod page;
pub mod segment;

pub mod call;
pub mod interface;
pub mod layout;

pub mod gen1;
pub mod gen2;
pub mod gen3;
pub mod known;

pub mod request;

// Most code works with the formats of generation 1.
pub use gen1::{boot, device, dma, hypercall, shared};
