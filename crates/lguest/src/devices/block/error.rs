//! What can be wrong with the files of a disk.
//!
//! Each message says what is wrong with a file, and what to do. The names of
//! the files are added by the caller.

use super::format::Format;
use super::image::BadImage;
use crate::needs::Lack;
use std::io;
use std::path::PathBuf;

/// A file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It is not there, or this user may not read it.
    #[error("it cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// This user may read it, but not write.
    #[error(
        "it cannot be written ({0}): to use it read-only, give it by 'lguest \
         run --disk FILE,ro'"
    )]
    ReadOnly(#[source] io::Error),
    /// A directory, a pipe, a terminal.
    #[error("it is neither a file nor a block device")]
    NotADisk,
    /// Another Launcher writes to it; or this one would write, and another one
    /// reads. Any other process that may read the file can have locked it, too.
    #[error(
        "another guest uses it, or a program has locked it that may only read \
         it: end that one first (`lslocks` names it), or give it to both \
         guests by 'lguest run --disk FILE,ro'; `chmod go-r FILE` keeps other \
         users from locking it"
    )]
    InUse,
    /// It cannot be locked at all.
    #[error("{0}")]
    Lock(Lack),
    /// It is on the command line twice.
    #[error(
        "it is given twice: leave one out, or give it as '--disk FILE,ro' \
         both times"
    )]
    Twice,
    /// A qcow2 image that cannot be used.
    #[error(transparent)]
    Image(#[from] BadImage),
    /// An image that was checked, and cannot be used all the same.
    #[error("it cannot be used as a qcow2 image: {0}")]
    Tables(#[source] io::Error),
    /// It is above an image that was not given.
    #[error(
        "it lies above {0:?}, and an image is opened only if you name it: give \
         '--disk {0},overlay=FILE' with the name of this one for FILE"
    )]
    NeedsBase(String),
    /// The file above it cannot be used.
    #[error("its overlay {}: {error}", path.display())]
    Overlay {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: LayerError,
    },
    /// There is no place for changes that are thrown away.
    #[error(
        "its changes cannot be kept in {}: {error}: set TMPDIR to a folder \
         that you may write to", folder.display()
    )]
    Temporary {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// An image of another kind.
    #[error("{0}; if it is one all the same, give it as '--disk FILE,raw'")]
    NotRaw(Format),
    /// Less than a sector.
    #[error("it has {0} bytes: a disk has one sector of 512 at least")]
    TooSmall(u64),
    /// More sectors than a sector number can name.
    #[error("it has {0} bytes: a disk ends before 2 TiB")]
    TooBig(u64),
}

/// The file above a base cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It is there, and is not a qcow2 image.
    #[error(
        "it is no qcow2 image: name a file that does not exist, and it is made"
    )]
    NotAnImage,
    /// It lies above another image, or above none.
    #[error(
        "it was made above {0}: name that one, or say by `qemu-img rebase -u \
         -F raw -b BASE FILE` that it is the same (qcow2 for raw where the \
         base is a qcow2 image)"
    )]
    OtherBase(String),
    /// Another Launcher uses it.
    #[error("another guest uses it: end that one, or name another file")]
    InUse,
    /// Its base has a name that cannot be written into it.
    #[error(
        "the name of its base cannot be in a qcow2 image: it is not UTF-8, or \
         longer than 1023 bytes: give the base another name"
    )]
    Name,
    /// It is not there and cannot be made.
    #[error("it cannot be made: {0}")]
    Make(#[source] io::Error),
    /// It is an image that cannot be used.
    #[error(transparent)]
    Image(#[from] BadImage),
    /// It is an image that was checked, and cannot be used all the same.
    #[error("it cannot be used as a qcow2 image: {0}")]
    Tables(#[source] io::Error),
    /// It is there and cannot be opened.
    #[error("{0}")]
    Open(#[source] Box<DiskError>),
}
