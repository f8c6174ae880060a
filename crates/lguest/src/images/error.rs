//! What can be wrong with an image.
//!
//! Each message says what to do. docs/images.md has the exit codes.

use super::archive::ArchiveError;
use super::contents::cure;
use super::ext4::Ext4Error;
use super::oci::OciError;
use crate::cli::exit::Outcome;
use crate::machines::Name;
use std::io;
use std::path::PathBuf;

/// Why an image cannot be built or used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is none with this name.
    #[error(
        "there is no image '{0}': 'lguest image ls' lists those that there are"
    )]
    NoSuch(Name),
    /// There is one with this name.
    #[error(
        "there is an image '{0}' already: choose another name, or replace it \
         (--replace)"
    )]
    Exists(Name),
    /// It has no agent.
    #[error(
        "the image '{0}' has no agent, by which commands run in it: build it \
         again"
    )]
    NoAgent(Name),
    /// No guest of it could be made ready.
    #[error("the image '{name}' has no snapshot now: {why}")]
    NotWarm {
        /// The image.
        name: Name,
        /// Why.
        why: String,
    },
    /// It is being built.
    #[error(
        "the image '{0}' is being built by another command: wait for its end"
    )]
    Busy(Name),
    /// Changes above it are kept.
    #[error(
        "the image '{0}' is under kept changes ({1}), which cannot be used \
         without it: 'lguest image rm --force {0}' removes all of them"
    )]
    Kept(Name, String),
    /// A file of an image cannot be used.
    #[error(
        "{}: it cannot be used: {error}: {}",
        path.display(),
        cure(error)
    )]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is no place for images.
    #[error(
        "there is no folder for images: set HOME or XDG_DATA_HOME to a folder \
         of your own (an absolute path)"
    )]
    NoHome,
    /// The place for images is not safe.
    #[error(
        "{}: {why}: others could change your images; make it yours ('chmod \
         go-rwx'), or set XDG_DATA_HOME to a folder of your own",
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
        "{}: the folder for images cannot be used: {error}: set XDG_DATA_HOME \
         to a folder of your own",
        path.display()
    )]
    Place {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder or archive cannot be read.
    #[error(
        "{}: it cannot be read: {error}: give a folder or an archive of files",
        path.display()
    )]
    Source {
        /// Its name.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The archive is larger than its files may be.
    #[error(
        "{}: it becomes too large when it is unpacked: give a larger --size",
        .0.display()
    )]
    Large(PathBuf),
    /// The folder or archive is refused.
    #[error("{}: {error}", path.display())]
    Archive {
        /// Its name.
        path: PathBuf,
        /// Why.
        error: ArchiveError,
    },
    /// The archive of an image is refused.
    #[error("{}: {error}", path.display())]
    Oci {
        /// Its name.
        path: PathBuf,
        /// Why.
        error: OciError,
    },
    /// There are no files.
    #[error(
        "{}: there are no files in it: give a folder or an archive with a \
         root file system",
        .0.display()
    )]
    Empty(PathBuf),
    /// The folder is an image of another form.
    #[error(
        "{path}: it is the folder of an OCI image, and no root file system: \
         pack it ('tar c -C {path} .'), and give the archive",
        path = .0.display()
    )]
    OciFolder(PathBuf),
    /// A file system cannot be written.
    #[error("image '{name}': {error}")]
    Disk {
        /// The image.
        name: Name,
        /// Why.
        error: Ext4Error,
    },
    /// The kernel cannot be used.
    #[error("kernel {}: {why}", path.display())]
    Kernel {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is no kernel.
    #[error(
        "{}: there is no kernel in its folder /boot that runs here: give one \
         (--kernel FILE); docs/debian.md says how to build it",
        .0.display()
    )]
    NoKernel(PathBuf),
    /// Its file of settings cannot be used.
    #[error("{}: {why}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Signals cannot be handled.
    #[error("cannot {0}: {1}")]
    Own(&'static str, io::Error),
}

impl ImageError {
    /// The outcome, which has the exit code.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NoSuch(_) => Outcome::NoMachine,
            Self::Exists(_) | Self::Busy(_) | Self::Kept(..) => Outcome::NotNow,
            Self::Disk {
                error: Ext4Error::NoProgram(_),
                ..
            } => Outcome::BadMachine,
            Self::Own(..) => Outcome::Failed,
            _ => Outcome::BadFile,
        }
    }
}
