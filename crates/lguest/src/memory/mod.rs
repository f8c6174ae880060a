//! The Guest's memory as the Launcher sees it: copied, never borrowed.
//!
//! All of a Guest's physical memory is one sealed memory file: RAM, then the
//! descriptor page, then the devices' pages. The view processes and the
//! Launcher map it, and a hostile Guest may change any byte at any moment. So
//! nothing here hands out a reference. Bytes are copied in or out after the
//! address was checked ([`Region`]), and files are read and written by the
//! kernel directly, by lists of checked pieces ([`Section`]). The memory of
//! another Launcher's Guest is used in the same way ([`SealedMemory`]).

mod file;
mod mapping;
mod sealed;
mod sections;
mod transfers;

pub(crate) use file::{allocated, executable_file, sealed_file};
pub use lg_memory::{BadAddress, Region};
pub use mapping::HUGE_PAGE;
pub(crate) use sealed::{SealedMemory, SealedMemoryError};
pub use sections::{
    Section, SectionsIn, behind, gather, gather_behind, scatter, total,
    truncated,
};

use file::{growing_file, seal};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use mapping::Mapping;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The most bytes of RAM that a Guest may have: all 32-bit physical addresses,
/// less room for the devices' pages. A kernel with the usual 3 GiB of user
/// space maps less than 1 GiB of it at a time, and needs CONFIG_HIGHMEM for
/// the rest.
pub const MAX_RAM: u32 = 0_u32.wrapping_sub(16 << 20);

/// The Guest's physical memory. Clones are handles to the same memory.
#[derive(Clone)]
pub struct GuestMemory(Arc<Physical>);

struct Physical {
    mapping: Mapping,
    ram: u32,
    file: OwnedFd,
    /// Is called with each piece that was written to.
    note: OnceLock<Box<Note>>,
}

/// Takes note of a piece that was written to.
type Note = dyn Fn(Section) + Send + Sync;

impl GuestMemory {
    /// Zeroed memory of `ram` bytes (a whole number of pages) and
    /// `device_pages` pages above it, the descriptor page included.
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no memory or no descriptor left.
    ///
    /// # Panics
    ///
    /// If `ram` is not a whole number of pages.
    pub fn new(ram: u32, device_pages: u32) -> io::Result<Self> {
        Self::growing(ram, device_pages)?.with_pages(device_pages)
    }

    /// The same, but [`Self::with_pages`] has to say how many pages there are
    /// above RAM before another process gets the memory.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    ///
    /// # Panics
    ///
    /// If `ram` is not a whole number of pages.
    pub(crate) fn growing(ram: u32, device_pages: u32) -> io::Result<Self> {
        assert!(ram.is_multiple_of(PAGE_SIZE), "RAM comes in whole pages");
        let limit = limit(ram, device_pages)?;
        let file = growing_file("lguest-memory", u64::from(limit))?;
        let mapping = Mapping::for_large_pages(file.as_fd(), limit)?;
        Ok(Self(Arc::new(Physical {
            mapping,
            ram,
            file,
            note: OnceLock::new(),
        })))
    }

    /// This memory with `device_pages` pages above RAM, its final number. There
    /// must be no clone of it.
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no memory left. `InvalidInput` if there
    /// are more pages already, or a clone.
    pub(crate) fn with_pages(self, device_pages: u32) -> io::Result<Self> {
        let mut memory = Arc::into_inner(self.0)
            .ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        let limit = limit(memory.ram, device_pages)?;
        match limit.cmp(&memory.mapping.region().limit()) {
            std::cmp::Ordering::Less => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => {
                rustix::fs::ftruncate(&memory.file, u64::from(limit))?;
                let file = memory.file.as_fd();
                memory.mapping = Mapping::for_large_pages(file, limit)?;
            }
        }
        seal(&memory.file)?;
        Ok(Self(Arc::new(memory)))
    }

    /// The memory of a Guest whose Launcher is another process: `file` is its
    /// memory file, with `limit` bytes, of which `ram` are RAM.
    ///
    /// # Errors
    ///
    /// What the kernel says. `InvalidInput` if the file has fewer bytes, or may
    /// get fewer.
    pub(crate) fn of_another(
        file: OwnedFd,
        ram: u32,
        limit: u32,
    ) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let bytes = rustix::fs::fstat(&file)?.st_size;
        if !seals.contains(rustix::fs::SealFlags::SHRINK)
            || bytes < i64::from(limit)
            || limit < ram
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mapping = Mapping::of(file.as_fd(), 0, limit)?;
        Ok(Self(Arc::new(Physical {
            mapping,
            ram,
            file,
            note: OnceLock::new(),
        })))
    }

    /// From now on `note` is called with every piece that this process writes
    /// to, once it is written. Only the first call counts.
    pub(crate) fn note_writes(
        &self,
        note: impl Fn(Section) + Send + Sync + 'static,
    ) {
        // If there is one already, it stays.
        let _ = self.0.note.set(Box::new(note));
    }

    /// `sections` have been written to, by [`Self::region`] or by the kernel.
    pub(crate) fn note(&self, sections: &[Section]) {
        if let Some(note) = self.0.note.get() {
            sections.iter().copied().for_each(note);
        }
    }

    /// Another process has written somewhere in the memory.
    pub(crate) fn note_all(&self) {
        self.note_piece(0, self.limit());
    }

    fn note_piece(&self, addr: u32, len: u32) {
        if let Ok(piece) = self.section(addr, len) {
            self.note(&[piece]);
        }
    }

    /// Every byte of it, by physical address. A caller that writes by this has
    /// to call [`Self::note`].
    #[must_use]
    pub fn region(&self) -> &Region {
        self.0.mapping.region()
    }

    /// Bytes of RAM: where the descriptor page begins.
    #[must_use]
    pub fn ram(&self) -> u32 {
        self.0.ram
    }

    /// Bytes of everything: one more than the last physical address.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.region().limit()
    }

    /// Pages of everything: what LHREQ_INITIALIZE calls the pfn limit.
    #[must_use]
    pub fn pfn_limit(&self) -> u32 {
        self.limit() >> PAGE_SHIFT
    }

    /// Bytes of it that have been used.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        allocated(self.0.file.as_fd())
    }

    /// How far the RAM from `addr` on has been used without a gap: the address
    /// of the first page that was never touched, or the end of RAM.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(crate) fn used_up_to(&self, addr: u32) -> io::Result<u32> {
        let from = rustix::fs::SeekFrom::Hole(u64::from(addr));
        let hole = rustix::fs::seek(&self.0.file, from)?;
        Ok(u32::try_from(hole).unwrap_or(u32::MAX).min(self.0.ram))
    }

    /// Where from `addr` on RAM has been used: the address of the first page
    /// that was touched. `None` if no page was.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(crate) fn next_used(&self, addr: u32) -> io::Result<Option<u32>> {
        let from = rustix::fs::SeekFrom::Data(u64::from(addr));
        match rustix::fs::seek(&self.0.file, from) {
            Ok(data) => {
                let data = u32::try_from(data).ok();
                Ok(data.filter(|&data| data < self.ram()))
            }
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies bytes of RAM out of the memory file, and not by the mapping. A
    /// page that was never touched is read as zeros, and stays a hole of the
    /// file. Returns the bytes copied.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(crate) fn read_untouched(
        &self,
        addr: u32,
        bytes: &mut [u8],
    ) -> io::Result<usize> {
        let read = || rustix::io::pread(&self.0.file, &mut *bytes, addr.into());
        Ok(rustix::io::retry_on_intr(read)?)
    }

    /// Makes one huge page of [`HUGE_PAGE`] bytes at `addr`, which is a
    /// multiple of that. Its bytes stay what they are. A process that accesses
    /// them meanwhile waits.
    ///
    /// # Errors
    ///
    /// What the kernel says (madvise(2), `MADV_COLLAPSE`, Linux 6.1): EINVAL if
    /// it is never possible, another error if it is not possible now.
    pub(crate) fn collapse(&self, addr: u32) -> io::Result<()> {
        self.0.mapping.collapse(addr)
    }

    /// The memory file, for other processes that map it.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }

    /// Checks that `len` bytes from physical address `addr` exist.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if not all of them do.
    pub fn section(&self, addr: u32, len: u32) -> Result<Section, BadAddress> {
        Section::new(self.region(), addr, len)
    }

    /// Copies `bytes.len()` bytes out of the Guest.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if not all of them exist.
    pub fn read(&self, addr: u32, bytes: &mut [u8]) -> Result<(), BadAddress> {
        self.region().read(addr, bytes)
    }

    /// Copies `bytes` into the Guest.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if there is not room for all of them.
    pub fn write(&self, addr: u32, bytes: &[u8]) -> Result<(), BadAddress> {
        self.region().write(addr, bytes)?;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.note_piece(addr, len);
        Ok(())
    }

    /// Copies a value out of the Guest.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if not all of it exists.
    pub fn read_object<T>(&self, addr: u32) -> Result<T, BadAddress>
    where
        T: FromBytes + IntoBytes,
    {
        self.region().object(addr)
    }

    /// Copies a value into the Guest.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if there is not room for all of it.
    pub fn write_object<T>(
        &self,
        addr: u32,
        value: &T,
    ) -> Result<(), BadAddress>
    where
        T: IntoBytes + Immutable,
    {
        self.write(addr, value.as_bytes())
    }

    /// Stores a word after everything that was written before it can be seen.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if there is no such word.
    pub fn write_last(&self, addr: u32, word: u32) -> Result<(), BadAddress> {
        fence(Ordering::SeqCst);
        self.region().set_word(addr, word)?;
        self.note_piece(addr, 4);
        Ok(())
    }

    /// Sets `bits` in a half-word while the Guest may set others in it. The
    /// Guest's own way of setting them need not be atomic.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if there is no such half-word at an even address.
    pub fn set_bits(&self, addr: u32, bits: u16) -> Result<(), BadAddress> {
        let half = self.region().atomic_half(addr)?;
        half.fetch_or(bits, Ordering::SeqCst);
        self.note_piece(addr, 2);
        Ok(())
    }

    /// Reads from `file` at `offset` into `sections`, like preadv. Returns the
    /// bytes moved, short only at the end of the file.
    ///
    /// # Errors
    ///
    /// What the kernel says; interruptions are retried.
    pub fn read_file(
        &self,
        file: &File,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        let moved = transfers::read_at(self.region(), sections, file, offset);
        self.note(sections);
        moved
    }

    /// [`Self::read_file`], but without waiting for a disk: bytes that the
    /// kernel has in memory are read at once, and anything else is an error.
    ///
    /// # Errors
    ///
    /// EAGAIN where it would have to wait, and what else the kernel says.
    pub fn read_file_now(
        &self,
        file: &File,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        let moved =
            transfers::read_at_now(self.region(), sections, file, offset);
        self.note(sections);
        moved
    }

    /// Writes `sections` to `file` at `offset`, like pwritev. Returns the
    /// bytes moved.
    ///
    /// # Errors
    ///
    /// What the kernel says; interruptions are retried.
    pub fn write_file(
        &self,
        file: &File,
        offset: u64,
        sections: &[Section],
    ) -> io::Result<u32> {
        transfers::write_at(self.region(), sections, file, offset)
    }

    /// Puts the first page of `file` where page number `pfn` is: a page that
    /// several Guests share. The views must map the same file there.
    ///
    /// # Errors
    ///
    /// What the kernel says, and `InvalidInput` if there is no page `pfn`.
    pub fn share_page(&self, pfn: u32, file: impl AsFd) -> io::Result<()> {
        self.0.mapping.replace_page(pfn << PAGE_SHIFT, file)
    }
}

/// Bytes of `ram` and of `device_pages` pages above it.
fn limit(ram: u32, device_pages: u32) -> io::Result<u32> {
    let bytes = device_pages.checked_mul(PAGE_SIZE);
    let limit = bytes.and_then(|bytes| ram.checked_add(bytes));
    limit.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests;
