//! A run of a Guest, as the command does it.
//!
//! [`launch()`] does a whole run. In the order of a run, [`open`] opens files,
//! [`build`] makes a Guest of them, [`run`] serves the Guest until it dies, and
//! [`ending`] has the reason. Beside the main thread there are three threads,
//! which sleep until something happens: [`inputs`] (the devices' files),
//! [`owner`] (parent, output, time) and [`signals`].

pub mod config;

mod debugger;

mod launch;
pub use launch::launch;

mod restore;
pub use restore::{Restore, restore};

mod error;
pub use error::LaunchError;

mod beginning;

mod open;

pub mod default_guest;

mod disks;

mod captures;

mod hints;

mod attach;

mod autopsy;

mod tracing;

mod build;

mod detach;

mod notify;

mod throttle;

mod memory_limit;

mod counted;

mod metrics;

mod freeze;

mod taken;

mod processors;

mod named;

mod run;

mod ending;
pub use ending::Ending;

pub mod inputs;

pub mod quiet;

pub mod owner;

pub mod signals;

pub mod crash;

pub mod terminal;

pub mod stats;

mod describe;
pub use describe::describe;
