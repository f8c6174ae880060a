//! The Switcher: how the processor gets into the Guest and out again.
//!
//! A view is a process with the Guest's page directory in its low 4 GiB and
//! this code above them. The Launcher starts it, and it locks itself in
//! ([`confine`]). From then on it does two things: it leaves into the Guest
//! (`leave`), and it comes back when a signal says that the Guest trapped
//! (`signals`), or when the Guest jumps through a trampoline (`trampolines`),
//! to ask the Host what that means. User code may have a process of its own, a
//! `user` process, which its view drives (`user_driver`).
//!
//! What the Launcher has to know, too, is in [`lg_wire`].
//!
//! The modules below are in layers. A module uses modules above it in the list,
//! and none below it. Where something at the bottom has to call upwards, it
//! calls the process's role (`role`): a view asks its Host, a user process
//! tells its view.
//!
//! # Safety
//!
//! All unsafe code here rests on three standing assumptions. The process has
//! one thread. The addresses in [`layout`] are mapped as it says, from
//! [`view::main`] on until the process ends. Only the Guest, to which this
//! process belongs, can corrupt them, and it damages only itself.

#![cfg_attr(not(test), no_std)]

// Places and numbers.
pub mod layout;
pub mod own;
mod syscall;

// What lies at those places, and what one system call does.
mod clock;
mod cpuid;
mod disks;
mod leftovers;
mod process;
mod shared;
mod trial;
pub mod vdso;

mod apart;
mod ask;
pub use ask::die_of;
mod extended;
mod mapper;
mod notify;
mod segments;

// The wall around the process.
pub mod confine;

// Out into the Guest, and back.
mod fpu;
mod role;

mod leave;

mod signals;
mod trampolines;

// What a process does when the Guest has stopped.
mod user;
mod user_driver;
mod world;

mod entry;

// How a process begins.
pub mod view;
