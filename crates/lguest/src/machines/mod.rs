//! Machines with a name: they are found again, looked at, and ended.
//!
//! `lguest run --name NAME` makes a [`folder`] for the machine, and a thread of
//! its Launcher serves a control socket in it ([`server`], [`protocol`]). The
//! commands about machines ([`verbs`]) find the folder and call the socket by a
//! [`link`]. There is no other process. docs/machines.md shows it from outside.

mod name;
pub use name::Name;

mod printed;
pub(crate) use printed::without_controls;

pub(crate) mod metrics;

pub mod settings;

pub mod record;

mod error;
pub use error::MachineError;

pub mod folder;

pub mod claim;

pub mod protocol;

pub mod server;

pub mod link;

pub mod verbs;
