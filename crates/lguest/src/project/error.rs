//! Errors of the commands about crates.
//!
//! Each has a message, which names the cure, and an exit code.

use super::files::TARGET;
use crate::cli::exit::Outcome;
use std::io;
use std::path::PathBuf;

/// Why a crate was not made, or its tests not run.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// Cargo would not take the name.
    #[error(
        "{0:?} cannot be the name of a crate, because {1}: give letters, digits \
         and '-', and begin with a letter"
    )]
    Name(String, &'static str),
    /// The folder is in use.
    #[error("{}: it exists: give another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error(
        "{}: it cannot be written: {error}: give a folder that you may write to",
        path.display()
    )]
    Write {
        /// Its name.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A path is no text, and cargo's files are text.
    #[error(
        "{}: cargo cannot have this path in a file: install lguest and the \
         compiler in folders with UTF-8 names",
        .0.display()
    )]
    NoText(PathBuf),
    /// There is no cargo.
    #[error(
        "no cargo is here, which builds guests: install Rust 1.85 or later \
         (https://rustup.rs, or the package cargo)"
    )]
    NoCargo,
    /// The compiler that the user has named cannot be used.
    #[error(
        "LGUEST_I686_RUSTC is {}, which does not compile for {TARGET} with Rust \
         1.85 or later: unset it, or name a rustc that does",
        .0.display()
    )]
    Named(PathBuf),
    /// There is no compiler for guests.
    #[error(
        "no Rust compiler for {TARGET} is here, and none could be fetched: run \
         'rustup target add {TARGET}', or set LGUEST_I686_RUSTC to a rustc that \
         has it"
    )]
    NoCompiler,
    /// There is no linker for guests.
    #[error(
        "the compiler {} comes without a linker for guests: install lld, or Rust \
         by rustup, which has one",
        .0.display()
    )]
    NoLinker(PathBuf),
    /// The image of tests does not answer.
    #[error("tests {}: {why}", image.display())]
    Tests {
        /// Its file.
        image: PathBuf,
        /// What it does instead.
        why: String,
    },
    /// A process cannot be started or watched.
    #[error("cannot {0}: {1}")]
    Process(&'static str, io::Error),
}

impl ProjectError {
    /// The outcome with its exit code.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Name(..) | Self::Exists(_) => Outcome::Usage,
            Self::Write { .. } | Self::NoText(_) | Self::Tests { .. } => {
                Outcome::BadFile
            }
            Self::NoCargo
            | Self::Named(_)
            | Self::NoCompiler
            | Self::NoLinker(_) => Outcome::BadMachine,
            Self::Process(..) => Outcome::Failed,
        }
    }
}
