//! Commands in a Guest: `lguest exec`.
//!
//! An agent in a Linux guest runs commands for clients (docs/exec.md). The
//! [`multiplexer`] is a thread of the Launcher that moves frames between the
//! port of the agent and the sockets of clients. It reads no more of a frame
//! than its length and its stream.
//!
//! The rest is the client that `lguest exec` is, in a process of its own. All
//! that an agent says is checked there, by the crate `lg-exec`. In reading
//! order: [`asked`] is what the command line asks for, [`target`] connects to
//! the machine or starts one, [`session`] passes everything through until the
//! command has ended, and [`result`] says how it has ended.

pub mod multiplexer;

mod asked;
pub use asked::{Asked, Bounds, Target};

mod error;
pub use error::ExecError;

mod target;

mod output;
pub use output::KEPT_MOST;

mod signals;

mod session;

mod result;

use crate::cli::exit::Outcome;

/// Runs a command in a Guest, from its start to its end.
///
/// # Errors
///
/// [`ExecError`], with a message and an exit code.
pub fn run(asked: &Asked) -> Result<Outcome, ExecError> {
    let finished = session::run(asked);
    match asked.json {
        true => finished.print(),
        false => Ok(finished.tell()),
    }
}
