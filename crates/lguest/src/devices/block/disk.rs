//! The file behind a disk: opened, locked, and measured.
//!
//! A lock of the file (flock) keeps a second Guest from writing to it. A disk
//! consists of the file's whole sectors; bytes after the last one stay as they
//! are.

use super::faults::Faults;
use super::format::{self, Format};
use crate::needs::Lack;
use lg_abi::device::SECTOR_SIZE;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom};
use std::fs::File;
use std::io;
use std::path::Path;

/// A file that can be a disk, open and locked.
#[derive(Debug)]
pub struct Disk {
    pub(super) file: File,
    pub(super) sectors: u32,
    /// Bytes after the last whole sector.
    rest: u64,
    pub(super) read_only: bool,
    pub(super) faults: Option<Faults>,
    /// A second opening of the file, to read ahead by.
    pub(super) again: Option<File>,
}

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

impl Disk {
    /// The format that the file seems to have, if it is not a raw image.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        format::of(&self.file)
    }

    /// How many bytes are after its last whole sector. A Guest cannot reach
    /// them.
    #[must_use]
    pub fn beyond_last_sector(&self) -> u64 {
        self.rest
    }

    /// Opens and locks the file at `path`, and changes nothing in it.
    ///
    /// # Errors
    ///
    /// [`DiskError`] says what is wrong with it.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let mode = if read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        // Without O_NONBLOCK the open of a pipe would wait for its other end.
        let flags = mode | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(error) => return Err(refused(path, error.into())),
        };
        let stat = rustix::fs::fstat(&file)
            .map_err(|error| DiskError::Open(error.into()))?;
        let bytes = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::BlockDevice => rustix::fs::seek(&file, SeekFrom::End(0))
                .map_err(|error| DiskError::Open(error.into()))?,
            _ => return Err(DiskError::NotADisk),
        };
        let sectors = match u32::try_from(bytes / u64::from(SECTOR_SIZE)) {
            Ok(0) => return Err(DiskError::TooSmall(bytes)),
            Ok(sectors) => sectors,
            Err(_) => return Err(DiskError::TooBig(bytes)),
        };
        let lock = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        match rustix::fs::flock(&file, lock) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DiskError::InUse),
            Err(error) => return Err(DiskError::Lock(Lack::of_lock(error))),
        }
        let flags = flags.difference(OFlags::RWMODE) | OFlags::RDONLY;
        let again = rustix::fs::open(path, flags, Mode::empty());
        Ok(Self {
            file,
            sectors,
            rest: bytes % u64::from(SECTOR_SIZE),
            read_only,
            faults: None,
            // Without it the disk only reads more slowly.
            again: again.ok().map(File::from),
        })
    }

    /// Makes one request in `one_in` fail, at random.
    #[must_use]
    pub fn failing(mut self, one_in: u32) -> Self {
        self.faults = Some(Faults::new(one_in));
        self
    }

    /// How many sectors it has.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        self.sectors
    }
}

/// Why `path` could not be opened: only for writing, or at all.
fn refused(path: &Path, error: io::Error) -> DiskError {
    use io::ErrorKind::{IsADirectory, PermissionDenied, ReadOnlyFilesystem};
    match error.kind() {
        IsADirectory => DiskError::NotADisk,
        PermissionDenied | ReadOnlyFilesystem if File::open(path).is_ok() => {
            DiskError::ReadOnly(error)
        }
        _ => DiskError::Open(error),
    }
}
