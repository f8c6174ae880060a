//! Why a folder cannot be shared, and what to do.
//!
//! Either the folder is another than its user believes, or the machine lacks
//! something that a share server needs.

use crate::needs::Lack;
use std::io;
use std::time::Duration;

/// A folder that cannot be shared. Each message names the cure.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// There is nothing of this name.
    #[error("there is no such folder: make it, or name another one")]
    Missing,
    /// It is something else.
    #[error("it is not a folder: name a folder, and give a disk as '--disk'")]
    NotAFolder,
    /// Its entries may not be read.
    #[error(
        "you may not read it: allow it (`chmod u+rx`), or name another folder"
    )]
    Unreadable,
    /// Nothing may be made in it.
    #[error(
        "you may not write to it: allow it (`chmod u+w`), or share it \
         read-only ('--share DIR,TAG,ro')"
    )]
    Unwritable,
    /// It cannot be opened for another reason.
    #[error("it cannot be opened: {0}")]
    Open(io::Error),
    /// The server finds no `/proc`, by which it opens files.
    #[error(
        "its server needs /proc, and there is none ({0}): mount it \
         (`mount -t proc proc /proc`), or run without --share"
    )]
    NoProc(io::Error),
    /// The machine lacks something.
    #[error(transparent)]
    Lacks(#[from] Lack),
    /// The server has ended at once.
    #[error("its server has ended ({0}): try '--no-confine=all'")]
    Ended(String),
    /// The server takes too long to start.
    #[error(
        "its server is not ready after {} s: try again when the machine is \
         less busy", .0.as_secs()
    )]
    NotReady(Duration),
}

impl ShareError {
    /// Whether it is the machine that lacks something, and not the folder that
    /// is wrong.
    #[must_use]
    pub fn is_of_machine(&self) -> bool {
        matches!(
            self,
            Self::NoProc(_)
                | Self::Lacks(_)
                | Self::Ended(_)
                | Self::NotReady(_)
        )
    }
}
