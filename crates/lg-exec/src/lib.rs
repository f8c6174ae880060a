//! How commands are run in a Guest: the protocol of its agent.
//!
//! The *agent* is a program in a Linux guest that runs commands for clients
//! outside. A client and the agent exchange frames over a port of a virtio
//! console; the Launcher passes them on and looks at their head only. This
//! crate is what both ends share:
//!
//! - [`frame`]: how frames are cut out of a stream of bytes;
//! - [`command`] and [`report`]: what a client says, and what the agent says;
//! - [`credit`]: how much a sender may send before the receiver has taken it;
//! - [`client`]: the client's side as a state machine, without I/O;
//! - [`printable`]: text of the agent that a terminal may be given.
//!
//! The agent is part of the Guest. All that it says is checked: a frame that is
//! too long, that cannot be read, that comes at the wrong time or without
//! credit ends the connection, and costs no more memory than a frame may have.
//! `docs/exec-protocol.md` describes the bytes and the rule of versions.

#![no_std]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod frame;

pub mod credit;

pub mod command;
pub mod report;

pub mod printable;

pub mod client;

/// The name of the agent's port. A Linux guest has it in
/// `/sys/class/virtio-ports/*/name`.
pub const PORT: &str = "lguest.agent";

/// A word of the kernel's command line, which the kernel passes on to the agent
/// as its first process: it mounts the share [`SHARE_TAG`].
pub const SHARE_WORD: &str = "lguest-share";

/// The tag of a share that has no other.
pub const SHARE_TAG: &str = "share";

/// Where the agent mounts it.
pub const SHARE_FOLDER: &str = "/mnt/share";

/// The version of the protocol that this crate speaks.
pub const VERSION: u32 = 1;

/// The oldest version that this crate speaks.
pub const OLDEST: u32 = 1;

/// The stream of the machine itself. Runs have the numbers after it.
pub const MACHINE: u32 = 0;
