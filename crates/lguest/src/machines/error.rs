//! What can be wrong with a machine's name, its folder, or its socket.
//!
//! Each message says what to do. docs/machines.md has the exit codes.

use super::name::Name;
use super::protocol::State;
use crate::cli::exit::Outcome;
use crate::snapshot::SnapshotError;
use std::io;
use std::path::PathBuf;

/// Why a command about a machine cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The name of a clone, and what is wrong with it.
    #[error("'{0}': {1}: give another name ('--name PREFIX')")]
    NotAName(String, String),
    /// No machine has this name.
    #[error(
        "there is no machine '{0}': 'lguest ps' lists those that there are"
    )]
    NoSuch(Name),
    /// It has ended.
    #[error(
        "machine '{0}' has ended ({1}): 'lguest logs {0}' shows its last \
         output, 'lguest rm {0}' removes it"
    )]
    Ended(Name, String),
    /// It runs.
    #[error("machine '{0}' runs: end it first ('lguest stop {0}')")]
    Runs(Name),
    /// It is not ready.
    #[error("machine '{0}' is not ready: it is {1}")]
    NotRunning(Name, State),
    /// Its name is taken.
    #[error(
        "a machine '{0}' runs already: choose another name, or end it \
         ('lguest stop {0}')"
    )]
    NameTaken(Name),
    /// Its socket does not answer.
    #[error(
        "machine '{0}' does not answer ({1}): its launcher may be stopped or \
         busy; try again, or end it ('lguest kill {0}')"
    )]
    NoAnswer(Name, String),
    /// It answers with an error.
    #[error("machine '{0}' cannot do that: {1}")]
    Refused(Name, String),
    /// It was not ended in time.
    #[error("machine '{0}' does not end: kill its process {1}")]
    DoesNotEnd(Name, u32),
    /// It has ended before it was ready.
    #[error(
        "machine '{0}' has ended before it was ready: 'lguest logs {0}' shows \
         its last output"
    )]
    NotReady(Name),
    /// The place of the machines' folders is not safe.
    #[error(
        "{}: {why}: others could take part in your machines; remove it, or \
         set XDG_RUNTIME_DIR to a folder of your own",
        path.display()
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The place cannot be used.
    #[error(
        "{}: the folder for machines cannot be used: {error}: set \
         XDG_RUNTIME_DIR to a folder of your own",
        path.display()
    )]
    Place {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The path of a socket is too long.
    #[error(
        "{}: the path is too long for a socket: choose a shorter name, or set \
         XDG_RUNTIME_DIR to a folder with a shorter path",
        .0.display()
    )]
    TooLong(PathBuf),
    /// A file of a machine cannot be used.
    #[error("machine '{name}': cannot {doing}: {error}")]
    File {
        /// The machine.
        name: Name,
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// A file for a trace or a profile cannot be used.
    #[error("{what} {}: {error}", path.display())]
    Output {
        /// Its name.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// A snapshot cannot be used or made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Standard input or output of the command itself fails.
    #[error("cannot {0}: {1}")]
    Own(&'static str, io::Error),
}

impl MachineError {
    /// The outcome, which has the exit code.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotAName(..) => Outcome::Usage,
            Self::NoSuch(_) => Outcome::NoMachine,
            Self::Ended(..)
            | Self::Runs(_)
            | Self::NotRunning(..)
            | Self::NameTaken(_)
            | Self::NoAnswer(..)
            | Self::Refused(..)
            | Self::DoesNotEnd(..) => Outcome::NotNow,
            Self::NotReady(..) => Outcome::Died,
            Self::NotOurs { .. }
            | Self::Place { .. }
            | Self::TooLong(_)
            | Self::Snapshot(_)
            | Self::Output { .. }
            | Self::File { .. } => Outcome::BadFile,
            Self::Own(..) => Outcome::Failed,
        }
    }
}
