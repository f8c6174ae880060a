//! The Launcher: the trusted part of a virtual machine, as a library.
//!
//! `main.rs` turns a command line into calls of this library. Somebody who
//! wants another Launcher (a test rig, a cloud of small machines) uses the
//! same pieces: [`memory`] for the Guest's memory, [`loader`] to put a kernel
//! into it, [`devices`] for what hangs on its bus, and [`host`] for the four
//! requests that make it run. The rest is what the command needs: what its
//! words mean, a run from beginning to end, and a terminal that survives it.

pub mod args;

pub mod config;

pub mod launch;

pub mod confine;

pub mod exit;

pub mod memory;

pub mod loader;

pub mod host;

pub mod needs;

pub mod devices;

pub mod inputs;

pub mod signals;

pub mod crash;

pub mod owner;

pub mod terminal;

pub mod stats;

pub mod doctor;

pub mod default_guest;
