//! A run of a Guest, as the command does it.
//!
//! In the order of a run: [`launch()`] does all of it; [`open`] opens what has a
//! name, [`build`] makes a Guest of it, [`run`] serves the Guest until it dies,
//! and [`ending`] knows why it died. Beside the main thread there are three
//! more, which sleep until something happens: [`inputs`] (the devices' files),
//! [`owner`] (parent, output, time) and [`signals`].

pub mod config;

mod launch;
pub use launch::launch;

mod error;
pub use error::LaunchError;

mod open;

pub mod default_guest;

mod disks;

mod hints;

mod attach;

mod build;

mod run;

mod ending;
pub use ending::Ending;

pub mod inputs;

pub mod owner;

pub mod signals;

pub mod crash;

pub mod terminal;

pub mod stats;

mod describe;
pub use describe::describe;
