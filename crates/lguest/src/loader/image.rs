//! A kernel image: a file, or bytes that are part of the Launcher.
//!
//! Most of a kernel is copied once, from the page cache into the Guest, without
//! a buffer between them. With this type, the code that copies does the same
//! for a file and for the embedded Guest.

use super::error::KernelError;
use crate::memory::{GuestMemory, Section};
use std::borrow::Cow;
use std::fs::File;
use std::io;

/// How much of a file is examined as a whole.
pub(super) const LOOKED_AT: usize = 64 << 20;

/// Where a kernel comes from.
#[derive(Debug)]
pub enum Image {
    /// A regular file.
    File(File),
    /// Bytes that the Launcher carries.
    Embedded(&'static [u8]),
    /// Bytes that were unpacked from a file.
    Unpacked(Vec<u8>),
}

impl Image {
    /// How many bytes there are.
    pub(super) fn len(&self) -> Result<u64, KernelError> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Embedded(bytes) => Ok(bytes.len() as u64),
            Self::Unpacked(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// All of it, if it has `most` bytes at the most and can be read.
    #[must_use]
    pub fn whole(&self, most: u64) -> Option<Cow<'static, [u8]>> {
        let length = self.len().ok().filter(|&length| length <= most)?;
        self.read(0, usize::try_from(length).ok()?).ok()
    }

    /// Copies up to `len` bytes from `offset`; fewer only at the end of the
    /// image.
    pub(super) fn read(
        &self,
        offset: u64,
        len: usize,
    ) -> Result<Cow<'static, [u8]>, KernelError> {
        match self {
            Self::File(file) => {
                let mut bytes = vec![0; len];
                let got = read_up_to(file, offset, &mut bytes)?;
                bytes.truncate(got);
                Ok(Cow::Owned(bytes))
            }
            Self::Embedded(bytes) => {
                Ok(Cow::Borrowed(part(bytes, offset, len)))
            }
            Self::Unpacked(bytes) => {
                Ok(Cow::Owned(part(bytes, offset, len).to_vec()))
            }
        }
    }

    /// Fills `section` of the Guest's memory from `offset`.
    pub(super) fn load(
        &self,
        offset: u64,
        memory: &GuestMemory,
        section: Section,
    ) -> Result<(), KernelError> {
        match self {
            Self::File(file) => {
                let got = memory.read_file(file, offset, &[section])?;
                if got < section.len() {
                    return Err(KernelError::Truncated);
                }
            }
            Self::Embedded(_) | Self::Unpacked(_) => {
                let bytes = self.read(offset, section.len() as usize)?;
                if bytes.len() < section.len() as usize {
                    return Err(KernelError::Truncated);
                }
                memory
                    .write(section.addr(), &bytes)
                    .map_err(|_| KernelError::Truncated)?;
            }
        }
        Ok(())
    }
}

/// Up to `len` bytes from `offset`.
fn part(bytes: &[u8], offset: u64, len: usize) -> &[u8] {
    let from = usize::try_from(offset)
        .map_or(bytes.len(), |from| from.min(bytes.len()));
    let to = from.saturating_add(len).min(bytes.len());
    &bytes[from..to]
}

/// Reads a file from `offset` until `bytes` is full or the file ends. Returns
/// the number of bytes read.
fn read_up_to(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;
    let mut done = 0;
    while done < bytes.len() {
        let at = offset.saturating_add(done as u64);
        match file.read_at(&mut bytes[done..], at) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
