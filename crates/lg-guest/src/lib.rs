//! The Guest kit: what a kernel in Rust needs to run under lguest.
//!
//! A Guest of this kind is an ordinary 32-bit kernel that knows it is a Guest.
//! Where another kernel would touch the machine, it asks the Host: it switches
//! interrupts off by a store instead of `cli`, changes its page tables in plain
//! memory and then reports it, and its devices are pages of shared memory. This
//! crate does all of that, for every generation of the interface, so that a
//! Guest can be a `fn main`:
//!
//! ```ignore-x86_64,no_run
//! #![no_std]
//! #![no_main]
//! lg_guest::entry!(main);
//!
//! fn main(boot: &'static lg_guest::boot::Boot) {
//!     lg_guest::println!("{} MiB", boot.memory >> 20);
//! }
//! ```
//!
//! The modules are in reading order: how a Guest starts, how it makes
//! hypercalls, how it is interrupted, its memory, its time, its tasks, its
//! devices. Modules without assembly are compiled on every machine, where their
//! tests run.
//!
//! # Features
//!
//! None is on by default. Each implements the traits of another crate, and
//! brings nothing else: `log` ([`logger`]), `embedded-io` (the console),
//! `smoltcp` (the network), `embassy-time` (the clock and the alarm).
//!
//! # Versions
//!
//! The kit has the version of the `lguest` that it comes with, and follows
//! Semantic Versioning: before 1.0 a change of the second number may break a
//! guest, a change of the third does not. That covers what this documentation
//! shows, but not the crates behind features, whose traits change with their
//! own versions, and not `lg-abi`. A new version may need a newer Rust.
//!
//! # Safety
//!
//! All unsafe code here relies on these rules:
//!
//! 1. There is one CPU, and a trap handler that interrupts it runs to its end
//!    before the interrupted code goes on.
//! 2. Physical memory is mapped linearly at `PAGE_OFFSET`: by the Launcher
//!    at the start, by [`paging`] afterwards. The image, its stack, the heap
//!    and every frame lie there.
//! 3. The Host writes only to memory that was handed to it (a `Dma` that is
//!    bound or being sent, the shared page, a device's page, a ring, and what
//!    its chains name).

#![cfg_attr(not(test), no_std)]
#![allow(
    clippy::needless_doctest_main,
    reason = "a macro names the main function of a guest"
)]

extern crate alloc;

/// A size or an address as the 32-bit word that it is on a Guest's machine.
#[expect(clippy::cast_possible_truncation, reason = "usize has 32 bits there")]
const fn word(number: usize) -> u32 {
    number as u32
}

#[cfg(target_arch = "x86")]
pub mod boot;
pub mod command_line;

#[cfg(target_arch = "x86")]
pub mod interface;

#[cfg(target_arch = "x86")]
pub mod hcall;
pub mod ring;
#[cfg(target_arch = "x86")]
pub mod shared;

#[cfg(target_arch = "x86")]
pub mod irq;
#[cfg(target_arch = "x86")]
pub mod one_cpu;
#[cfg(target_arch = "x86")]
mod segment;
#[cfg(target_arch = "x86")]
pub mod trap;

#[cfg(target_arch = "x86")]
pub mod frame;
#[cfg(target_arch = "x86")]
pub mod heap;
#[cfg(target_arch = "x86")]
pub mod paging;
pub mod walk;

pub mod executor;
#[cfg(target_arch = "x86")]
pub mod task;
#[cfg(target_arch = "x86")]
pub mod time;
#[cfg(target_arch = "x86")]
pub mod user;
#[cfg(any(target_arch = "x86", test))]
mod waiting;

#[cfg(target_arch = "x86")]
pub mod bus;
#[cfg(target_arch = "x86")]
mod virtqueue;

#[cfg(target_arch = "x86")]
pub mod drivers;
pub mod line;

#[cfg(target_arch = "x86")]
pub mod power;
#[cfg(target_arch = "x86")]
pub mod print;

#[cfg(all(target_arch = "x86", feature = "log"))]
pub mod logger;

#[cfg(target_arch = "x86")]
pub mod testing;
