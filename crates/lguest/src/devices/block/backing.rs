//! What is behind a disk: a raw file, or an image with tables.
//!
//! A disk reads and writes by this. It does not know where the bytes are.

use super::image::Image;
use crate::memory::{GuestMemory, Section};
use std::fs::File;
use std::io;

/// What is behind a disk. Each method returns the bytes moved.
#[derive(Debug)]
pub(super) enum Backing {
    /// Byte N of the file is byte N of the disk.
    Raw(File),
    /// An image in the format qcow2.
    Image(Image),
}

impl Backing {
    /// Reads into `sections`. Blocks as long as the files do.
    pub(super) fn read(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        match self {
            Self::Raw(file) => memory.read_file(file, offset, sections),
            Self::Image(image) => image.read(memory, offset, sections),
        }
    }

    /// Writes `sections`. Blocks as long as the files do.
    pub(super) fn write(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        match self {
            Self::Raw(file) => memory.write_file(file, offset, sections),
            Self::Image(image) => image.write(memory, offset, sections),
        }
    }

    /// Reads what the kernel has in memory. May read a table of an image first.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if that is not all.
    pub(super) fn read_now(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        match self {
            Self::Raw(file) => memory.read_file_now(file, offset, sections),
            Self::Image(image) => image.read_now(memory, offset, sections),
        }
    }

    /// Writes if that changes no table. May read a table of an image first.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it does.
    pub(super) fn write_now(
        &self,
        memory: &GuestMemory,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        match self {
            Self::Raw(file) => memory.write_file(file, offset, sections),
            Self::Image(image) => image.write_now(memory, offset, sections),
        }
    }

    /// Whether anything reads the file after the Guest has ended.
    pub(super) fn is_kept(&self) -> bool {
        match self {
            Self::Raw(_) => true,
            Self::Image(image) => image.is_kept,
        }
    }

    /// Whether a write may change tables that are in our memory.
    pub(super) fn has_tables(&self) -> bool {
        matches!(self, Self::Image(_))
    }

    /// Moves tables from our memory to the file, where they survive the death
    /// of this process.
    pub(super) fn settle(&self) -> io::Result<()> {
        match self {
            Self::Raw(_) => Ok(()),
            Self::Image(image) => image.settle(),
        }
    }

    /// Waits until the disk under the file has all that was written.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Raw(file) => file.sync_data(),
            Self::Image(image) => image.sync(),
        }
    }
}
