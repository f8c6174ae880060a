//! The Switcher: how the processor gets into the Guest and out again.
//!
//! A view is a process with the Guest's page directory in its low 4 GiB and
//! this code above them. It was started by the Launcher, locked itself in
//! ([`confine`]), and from then on does two things: it leaves into the Guest
//! ([`entry`]), and it comes back when a signal says that the Guest trapped
//! ([`signals`]) or when the Guest jumps through a trampoline
//! ([`trampolines`]), to ask the Host what that means. What the Host wants of
//! the world is done by system calls ([`mapper`], [`world`]), from one single
//! place ([`syscall`]), so that the filter can tell it from any other. User
//! code may have a process of its own, a [`user`], that its view keeps
//! ([`driver`]).
//!
//! What the Launcher has to know, too, is in [`lg_wire`].
//!
//! # Safety
//!
//! All unsafe code here rests on three standing assumptions. The process has
//! one thread. The addresses in [`layout`] are mapped as it says, from
//! [`view::main`] on until the process ends. And whoever corrupts them is the
//! Guest, to which this process belongs: it hurts itself.

#![cfg_attr(not(test), no_std)]

pub mod layout;
pub mod own;

pub mod confine;
pub mod trial;
pub mod view;

mod leftovers;
mod segments;

pub mod entry;
pub mod extended;
pub mod signals;
pub mod trampolines;

pub mod cpuid;
pub mod user;
pub mod user_driver;

pub mod mapper;
pub mod syscall;
pub mod vdso;
pub mod world;
