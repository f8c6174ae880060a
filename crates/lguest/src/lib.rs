//! The Launcher: the trusted part of a virtual machine, as a library.
//!
//! `main.rs` turns a command line into calls of this library. Another Launcher
//! (a test rig, a service that runs many small machines) uses the same parts:
//! [`memory`] for the Guest's memory, [`loader`] to put a kernel into it,
//! [`devices`] and the [`transport`] by which the Guest reaches them, and
//! [`engine`] for the requests that make it run. The rest is for the command:
//! [`cli`] for its command line, [`machine`] for a run from beginning to end,
//! [`debugger`] for GDB, [`exec`] for commands in a guest, [`explain`] for the
//! end of a Guest, [`trace`] for what it did before, [`needs`] and [`doctor`]
//! for what the machine offers, [`confine`] for the rights that the Launcher
//! gives up before a Guest runs, [`machines`] for machines with a name,
//! [`snapshot`] for guests in a folder, [`images`] for disks that guests start
//! from, [`agent`] for the program that runs commands in them, [`project`] for
//! crates of guests.

pub mod agent;
pub mod cli;
pub mod confine;
mod credentials;
pub mod debugger;
pub mod devices;
pub mod doctor;
pub mod engine;
pub mod exec;
pub mod explain;
pub mod images;
mod killer;
pub mod loader;
mod lock;
pub mod machine;
pub mod machines;
pub mod memory;
pub mod needs;
pub mod project;
mod random;
mod replace;
pub mod snapshot;
mod thread;
pub mod trace;
pub mod transport;
