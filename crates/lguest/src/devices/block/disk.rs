//! The file behind a disk: opened, locked, and measured.
//!
//! A lock of the file (flock) keeps a second Guest from writing to it. A raw
//! disk consists of the file's whole sectors; bytes after the last one stay as
//! they are.

use super::backing::Backing;
use super::error::DiskError;
use super::faults::Faults;
use super::format::{self, Format};
use crate::needs::Lack;
use lg_abi::device::SECTOR_SIZE;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A file that can be a disk, open and locked.
#[derive(Debug)]
pub struct Disk {
    pub(super) backing: Backing,
    pub(super) sectors: u32,
    /// Bytes after the last whole sector.
    rest: u64,
    pub(super) read_only: bool,
    pub(super) faults: Option<Faults>,
    /// A second opening of a raw file, to read ahead by.
    pub(super) again: Option<File>,
    /// A third opening of a raw file, to read only, for the Guest's views.
    pub(super) for_host: Option<OwnedFd>,
    /// Its files for a snapshot, the lowest layer first.
    pub(super) files: Vec<OwnedFd>,
}

/// A file, open and locked.
pub(super) struct Opened {
    pub(super) file: File,
    /// A second opening, to read ahead by. Without it the disk only reads more
    /// slowly.
    pub(super) again: Option<File>,
    bytes: u64,
}

impl Opened {
    /// Opens and locks the file at `path`, and changes nothing in it.
    pub(super) fn open(
        path: &Path,
        read_only: bool,
    ) -> Result<Self, DiskError> {
        let mode = if read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        match rustix::fs::open(path, FLAGS | mode, Mode::empty()) {
            Ok(file) => Self::lock(file.into(), path, read_only),
            Err(error) => Err(refused(path, error.into())),
        }
    }

    /// Locks `file`, which was opened at `path`.
    pub(super) fn lock(
        file: File,
        path: &Path,
        read_only: bool,
    ) -> Result<Self, DiskError> {
        let stat = rustix::fs::fstat(&file)
            .map_err(|error| DiskError::Open(error.into()))?;
        let bytes = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::BlockDevice => rustix::fs::seek(&file, SeekFrom::End(0))
                .map_err(|error| DiskError::Open(error.into()))?,
            _ => return Err(DiskError::NotADisk),
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
        let flags = FLAGS | OFlags::RDONLY;
        let again = rustix::fs::open(path, flags, Mode::empty());
        Ok(Self {
            file,
            again: again.ok().map(File::from),
            bytes,
        })
    }

    /// The same file, opened at `path` once more, to read only. `None` if
    /// another file is there now, or none.
    fn to_read_only(&self, path: &Path) -> Option<OwnedFd> {
        let flags = FLAGS | OFlags::RDONLY;
        let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let is = |file: BorrowedFd<'_>| {
            let stat = rustix::fs::fstat(file).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let same = is(file.as_fd())? == is(self.file.as_fd())?;
        same.then_some(file)
    }

    /// The file once more, for a snapshot.
    pub(super) fn handed(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }
}

/// Without O_NONBLOCK the open of a pipe would wait for its other end.
const FLAGS: OFlags = OFlags::CLOEXEC
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// The sectors of a disk of so many bytes.
fn sectors(bytes: u64) -> Result<u32, DiskError> {
    match u32::try_from(bytes / u64::from(SECTOR_SIZE)) {
        Ok(0) => Err(DiskError::TooSmall(bytes)),
        Ok(sectors) => Ok(sectors),
        Err(_) => Err(DiskError::TooBig(bytes)),
    }
}

impl Disk {
    /// The format that the file seems to have, if it is not a raw image.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        match &self.backing {
            Backing::Raw(file) => format::of(file),
            Backing::Image(_) => None,
        }
    }

    /// How many bytes are after its last whole sector. A Guest cannot reach
    /// them.
    #[must_use]
    pub fn beyond_last_sector(&self) -> u64 {
        self.rest
    }

    /// Opens and locks the file at `path` as a raw image, and changes nothing
    /// in it.
    ///
    /// # Errors
    ///
    /// [`DiskError`] says what is wrong with it.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let opened = Opened::open(path, read_only)?;
        let files = vec![opened.handed().map_err(DiskError::Open)?];
        let for_host = opened.to_read_only(path);
        let Opened { file, again, bytes } = opened;
        Ok(Self {
            again,
            for_host,
            files,
            ..Self::of(Backing::Raw(file), bytes, read_only)?
        })
    }

    /// A disk that a test had open before. A process that another test has just
    /// forked has its lock, until it calls exec.
    #[cfg(test)]
    pub(crate) fn open_when_free(path: &Path, read_only: bool) -> Self {
        let start = std::time::Instant::now();
        loop {
            match Self::open(path, read_only) {
                Err(DiskError::InUse) if start.elapsed().as_secs() < 60 => {
                    std::thread::yield_now();
                }
                other => break other.expect("nobody else has the disk"),
            }
        }
    }

    /// A disk of `bytes` bytes.
    pub(super) fn of(
        backing: Backing,
        bytes: u64,
        read_only: bool,
    ) -> Result<Self, DiskError> {
        Ok(Self {
            backing,
            sectors: sectors(bytes)?,
            rest: bytes % u64::from(SECTOR_SIZE),
            read_only,
            faults: None,
            again: None,
            for_host: None,
            files: Vec::new(),
        })
    }

    /// The same disk, whose files for a snapshot are `files`.
    pub(super) fn with_files(mut self, files: Vec<OwnedFd>) -> Self {
        self.files = files;
        self
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
