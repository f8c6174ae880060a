//! The file of an image, as the crate for images uses it.
//!
//! It is open before the Launcher is confined. Only calls are made that a
//! confined Launcher may make: reads, writes, a change of its length, and
//! fdatasync. Zeroes are written, because holes would need a call more.

#![expect(unsafe_code, reason = "methods of a trait that declares them unsafe")]

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The file of an image.
#[derive(Debug)]
pub(super) struct ImageFile {
    pub(super) file: File,
    /// A second opening, to read ahead by.
    pub(super) again: Option<File>,
    /// What was done to the file.
    #[cfg(test)]
    pub(super) done: std::sync::Mutex<Vec<Done>>,
    helper: CommonStorageHelper,
}

/// A write, or fdatasync.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Write,
    Sync,
}

impl ImageFile {
    pub(super) fn new(file: File, again: Option<File>) -> Self {
        Self {
            file,
            again,
            #[cfg(test)]
            done: std::sync::Mutex::default(),
            helper: CommonStorageHelper::default(),
        }
    }

    #[cfg(test)]
    fn note(&self, done: Done) {
        self.done.lock().unwrap().push(done);
    }
}

impl fmt::Display for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("image")
    }
}

/// Reads `bytes` at `at`. Bytes after the end of the file are 0.
pub(super) fn read_at(
    file: &File,
    mut bytes: &mut [u8],
    mut at: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, at) {
            Ok(0) => {
                bytes.fill(0);
                break;
            }
            Ok(moved) => {
                bytes = bytes.get_mut(moved..).unwrap_or(&mut []);
                at += moved as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Storage for ImageFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    unsafe fn pure_readv(
        &self,
        into: IoVectorMut<'_>,
        mut offset: u64,
    ) -> io::Result<()> {
        for mut piece in into.into_inner() {
            read_at(&self.file, &mut piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    unsafe fn pure_writev(
        &self,
        from: IoVector<'_>,
        mut offset: u64,
    ) -> io::Result<()> {
        #[cfg(test)]
        self.note(Done::Write);
        for piece in from.into_inner() {
            self.file.write_all_at(&piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.note(Done::Sync);
        self.file.sync_data()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, size: u64, _: PreallocateMode) -> io::Result<()> {
        self.file.set_len(size)
    }
}
