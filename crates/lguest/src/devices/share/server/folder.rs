//! A folder that is open for reading, and its entries.
//!
//! A Guest names a place in a folder by a number that it was given. The kernel
//! has 64 bits for such a number, and a 32-bit program may have room for 32. So
//! the Guest gets small numbers, and the server remembers which places they
//! are.

use super::protocol::{Errno, Qid};
use super::words::Writer;
use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A folder that is open for reading.
pub(super) struct Folder {
    fd: OwnedFd,
    /// Where the kernel goes on after the entry with number n, at n - 1.
    places: Vec<u64>,
}

/// Bytes of entries that the kernel is asked for at once.
const AT_ONCE: usize = 32 << 10;

/// Bytes of an entry before its name.
const ENTRY: usize = 13 + 8 + 1 + 2;

impl Folder {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let places = Vec::new();
        Self { fd, places }
    }

    /// The same, with the places that another server has remembered.
    pub(super) fn at(fd: OwnedFd, places: Vec<u64>) -> Self {
        Self { fd, places }
    }

    /// The places that it remembers.
    pub(super) fn all_places(&self) -> &[u64] {
        &self.places
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// How many places it remembers.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// Goes on after entry `number`. Forgets the places behind it.
    pub(super) fn go_to(&mut self, number: u64) -> Result<(), Errno> {
        let number = usize::try_from(number).map_err(|_| Errno::INVAL)?;
        let place = match number.checked_sub(1) {
            None => 0,
            Some(index) => *self.places.get(index).ok_or(Errno::INVAL)?,
        };
        seek(&self.fd, SeekFrom::Start(place))?;
        self.places.truncate(number);
        Ok(())
    }

    /// Adds entries to `list` until it has `most` bytes. `left` is how many
    /// places may be remembered.
    ///
    /// # Errors
    ///
    /// `INVAL` if not one entry fits, `NOMEM` if not one place is left, or what
    /// the kernel says. A list without entries is the end of the folder.
    pub(super) fn list(
        &mut self,
        list: &mut Writer,
        most: u32,
        left: usize,
        qid: impl Fn(&[u8], u64, FileType) -> Qid,
    ) -> Result<(), Errno> {
        let mut buffer = [MaybeUninit::uninit(); AT_ONCE];
        let mut entries = RawDir::new(&self.fd, &mut buffer);
        let first = self.places.len();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let bytes = u32::try_from(ENTRY + name.len()).unwrap_or(u32::MAX);
            let listed = self.places.len() - first;
            let full = match list.size().saturating_add(bytes) > most {
                true => Some(Errno::INVAL),
                false => (listed >= left).then_some(Errno::NOMEM),
            };
            match full {
                Some(error) if listed == 0 => return Err(error),
                Some(_) => break,
                None => {}
            }
            self.places.push(entry.next_entry_cookie());
            let kind = entry.file_type();
            list.qid(qid(name, entry.ino(), kind));
            list.u64(self.places.len() as u64);
            list.u8(number_of(kind));
            list.text(name);
        }
        Ok(())
    }
}

/// The number of a kind of file in an entry.
fn number_of(kind: FileType) -> u8 {
    match kind {
        FileType::Fifo => libc::DT_FIFO,
        FileType::CharacterDevice => libc::DT_CHR,
        FileType::Directory => libc::DT_DIR,
        FileType::BlockDevice => libc::DT_BLK,
        FileType::RegularFile => libc::DT_REG,
        FileType::Symlink => libc::DT_LNK,
        FileType::Socket => libc::DT_SOCK,
        FileType::Unknown => libc::DT_UNKNOWN,
    }
}
