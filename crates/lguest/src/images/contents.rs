//! The contents of files, while an image is built.
//!
//! They are numbered files in a folder of the build. What is written is counted
//! before it is written, because a small packed archive can be a large one.

use super::tree::Content;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes that are copied at a time.
const PIECE: usize = 128 << 10;

/// The folder of contents.
#[derive(Debug)]
pub struct Contents {
    /// `None`: nothing is written.
    folder: Option<PathBuf>,
    next: u32,
    /// Bytes that may still be written.
    room: u64,
    /// Bytes that were written.
    bytes: u64,
}

/// Why contents are not kept.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// More than the image may have.
    #[error("there is no room")]
    Full,
    /// There is less to read than was announced.
    #[error("it ends too early")]
    Short,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    /// It cannot be written.
    #[error("its contents cannot be written: {0}: {cure}", cure = cure(.0))]
    Write(io::Error),
}

impl Contents {
    /// Contents in `folder`, which is empty, of at most `most` bytes.
    #[must_use]
    pub fn new(folder: &Path, most: u64) -> Self {
        Self {
            folder: Some(folder.into()),
            next: 0,
            room: most,
            bytes: 0,
        }
    }

    /// Contents that are read and counted, and not written.
    #[must_use]
    pub fn nowhere(most: u64) -> Self {
        Self {
            folder: None,
            next: 0,
            room: most,
            bytes: 0,
        }
    }

    /// Bytes of everything that was kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps `bytes` bytes from `from`.
    ///
    /// # Errors
    ///
    /// [`ContentError`].
    pub fn keep(
        &mut self,
        mut from: impl Read,
        bytes: u64,
    ) -> Result<Content, ContentError> {
        self.room = self.room.checked_sub(bytes).ok_or(ContentError::Full)?;
        let number = self.next;
        self.next += 1;
        let file = self.create(number).map_err(ContentError::Write)?;
        if copy(&mut from, file.as_ref(), bytes)? < bytes {
            return Err(ContentError::Short);
        }
        self.bytes += bytes;
        Ok(Content { number, bytes })
    }

    fn create(&self, number: u32) -> io::Result<Option<File>> {
        let Some(folder) = &self.folder else {
            return Ok(None);
        };
        let mut new = OpenOptions::new();
        new.write(true).create_new(true).mode(0o600);
        new.open(folder.join(number.to_string())).map(Some)
    }
}

/// Copies at most `most` bytes. Returns how many were there.
pub(super) fn copy(
    mut from: impl Read,
    mut to: Option<&File>,
    most: u64,
) -> Result<u64, ContentError> {
    let mut piece = vec![0; PIECE];
    let mut left = most;
    while left > 0 {
        let most = usize::try_from(left).map_or(PIECE, |n| n.min(PIECE));
        let got = match from.read(&mut piece[..most]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                continue;
            }
            Err(error) => return Err(ContentError::Read(error)),
        };
        if let Some(file) = &mut to {
            let written = file.write_all(&piece[..got]);
            written.map_err(ContentError::Write)?;
        }
        left -= got as u64;
    }
    Ok(most - left)
}

/// What to do when a file of a build cannot be written.
pub(super) fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => NO_ROOM,
        io::ErrorKind::FileTooLarge => {
            "raise the limit of the size of files (ulimit -f), or give a \
             smaller --size"
        }
        _ => "build the image again",
    }
}

/// What to do when the disk of this machine is full.
pub(super) const NO_ROOM: &str = "free some \
    room on the disk that has the images, or set XDG_DATA_HOME to a folder on \
    another one";
