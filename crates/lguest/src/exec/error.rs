//! What can go wrong with `lguest exec` itself.
//!
//! Each message says what to do. docs/exec.md has the exit codes.

use crate::cli::exit::Outcome;
use crate::machines::MachineError;
use lg_exec::client::Violation;
use lg_exec::report::Failure;
use std::io;
use std::time::Duration;

/// Why there is no result of a command.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The machine is not there, or does not answer.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The agent has not answered.
    #[error(
        "the agent in the guest has not answered within {0:?}: the guest has \
         to start it ('lg-agent', docs/exec.md), or needs more time \
         (--patience)"
    )]
    NoAgent(Duration),
    /// The agent says that the command cannot be run.
    #[error("{1}")]
    Failed(Failure, String),
    /// The share in which the command runs is not mounted.
    #[error(
        "{0}: the guest has not mounted the share: its kernel needs 9P \
         (docs/shares.md), and its image the agent of this lguest ('lguest \
         image build --replace'); or give the share a tag, and mount it \
         yourself ('--share DIR,TAG')"
    )]
    NotMounted(String),
    /// The agent has broken the protocol.
    #[error(
        "the agent in the guest is broken or hostile: {0}: its output so far \
         may be wrong"
    )]
    Broken(#[from] Violation),
    /// The machine has ended.
    #[error("the machine has ended before the command: {0}")]
    Lost(String),
    /// The Launcher of a new machine has ended with this code, and has said
    /// why.
    #[error("{1}")]
    Launcher(u8, String),
    /// Arguments and environment are too long.
    #[error(
        "the arguments and the environment have more than 64 KiB: write them \
         into a file and pass that by standard input"
    )]
    TooLong,
    /// It took too long.
    #[error("ended by --timeout after {0:?}")]
    TimedOut(Duration),
    /// More output than was allowed.
    #[error(
        "ended because its output is longer than {0} bytes: a larger \
             --output-limit allows more"
    )]
    TooMuchOutput(u64),
    /// This signal asks for the end.
    #[error("ended by signal {0}")]
    Signal(u8),
    /// Standard output has no reader any more.
    #[error("ended because its output has no reader any more")]
    NoReader,
    /// The process that has started this one has ended.
    #[error("ended because its parent has ended (--outlive-parent)")]
    Orphan,
    /// A system call failed that should not fail.
    #[error("cannot {0}: {1}")]
    Own(&'static str, io::Error),
}

/// As shells: the program is there, and cannot be run.
const CANNOT_RUN: u8 = 126;

/// As shells: there is no such program.
const NOT_FOUND: u8 = 127;

/// More output than was allowed.
pub(super) const TOO_MUCH_OUTPUT: u8 = 125;

/// An output without a reader counts as this signal.
const BROKEN_PIPE: u8 = 13;

/// The end of the parent counts as this signal.
const TERMINATED: u8 = 15;

impl ExecError {
    /// The outcome, which has the exit code.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Machine(error) => error.outcome(),
            Self::NoAgent(_) => Outcome::NotNow,
            Self::Failed(failure, _) => match failure {
                Failure::NotFound => Outcome::OfMachine(NOT_FOUND),
                Failure::Protocol | Failure::HangUp => Outcome::Lost,
                _ => Outcome::OfMachine(CANNOT_RUN),
            },
            Self::NotMounted(_) => Outcome::OfMachine(CANNOT_RUN),
            Self::Broken(_) | Self::Lost(_) => Outcome::Lost,
            Self::Launcher(code, _) => Outcome::OfMachine(*code),
            Self::TimedOut(_) => Outcome::TimedOut,
            Self::TooMuchOutput(_) => Outcome::OfMachine(TOO_MUCH_OUTPUT),
            Self::Signal(number) => Outcome::Signal(*number),
            Self::NoReader => Outcome::Signal(BROKEN_PIPE),
            Self::TooLong => Outcome::Usage,
            Self::Orphan => Outcome::Signal(TERMINATED),
            Self::Own(..) => Outcome::Failed,
        }
    }
}

/// Converts errors of `doing` something that does not fail.
pub(super) fn own<E: Into<io::Error>>(
    doing: &'static str,
) -> impl Fn(E) -> ExecError {
    move |error| ExecError::Own(doing, error.into())
}
