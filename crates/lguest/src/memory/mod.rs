//! The Guest's memory as the Launcher sees it: copied, never borrowed.
//!
//! All of a Guest's physical memory is one sealed memory file: RAM, then the
//! descriptor page, then the devices' pages. The view processes map it, and so
//! do we; a hostile Guest may change any byte at any moment. So nothing here
//! hands out a reference. Bytes are copied in or out after the address was
//! checked against the limit, and files are read and written by the kernel
//! directly, by vectors of checked addresses.

#![expect(unsafe_code, reason = "memory shared with a hostile process")]

use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::sync::{Arc, OnceLock};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

mod file;
pub(crate) use file::{executable_file, sealed_file};

/// The most bytes of RAM that a Guest may have: all 32-bit physical addresses,
/// less room for the devices' pages. A kernel with the usual 3 GiB of user
/// space maps less than 1 GiB of it at a time, and needs CONFIG_HIGHMEM for
/// the rest.
pub const MAX_RAM: u32 = 0_u32.wrapping_sub(16 << 20);

/// Bytes of a large page.
pub const HUGE_PAGE: u32 = 2 << 20;

/// A Guest named memory that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad physical address {addr:#x}+{len:#x} (the limit is {limit:#x})")]
pub struct BadAddress {
    /// First byte that was meant.
    pub addr: u32,
    /// Bytes that were meant.
    pub len: u32,
    /// Bytes that there are.
    pub limit: u32,
}

/// A piece of physical memory that has been checked against the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    addr: u32,
    len: u32,
}

impl Section {
    /// Physical address of the first byte.
    #[must_use]
    pub fn addr(self) -> u32 {
        self.addr
    }

    /// Bytes.
    #[must_use]
    pub fn len(self) -> u32 {
        self.len
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// The Guest's physical memory. Clones are handles to the same memory.
///
/// # Invariants
///
/// 1. `base .. base + limit` is mapped readable and writable, shared, until
///    the last handle is dropped; nobody but this module knows the address.
/// 2. The file is sealed against shrinking, so a mapped byte stays there.
/// 3. `limit` is a whole number of pages and fits in `usize`.
#[derive(Clone)]
pub struct GuestMemory(Arc<Mapping>);

struct Mapping {
    /// A large page more than is mapped.
    room: NonNull<u8>,
    base: NonNull<u8>,
    ram: u32,
    limit: u32,
    file: OwnedFd,
    /// Is told of what was written.
    note: OnceLock<Box<Note>>,
}

/// Takes note of what was written to.
type Note = dyn Fn(Section) + Send + Sync;

// SAFETY: the mapping is plain memory that belongs to no thread (invariant 1),
// and every access to it is a copy by raw pointer.
unsafe impl Send for Mapping {}
// SAFETY: as above; two threads that copy at a time race as they would race
// with the Guest, which no caller may rely on not to happen.
unsafe impl Sync for Mapping {}

/// Room for a mapping of `limit` bytes wherever in it a large page can begin:
/// the kernel does not think of that for a memory file.
fn reserve(limit: u32) -> io::Result<NonNull<u8>> {
    // SAFETY: a fresh mapping at an address of the kernel's choice touches
    // nothing that exists.
    let room = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            limit as usize + HUGE_PAGE as usize,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }?;
    Ok(NonNull::new(room.cast()).expect("mmap never answers null"))
}

impl GuestMemory {
    /// Zeroed memory of `ram` bytes (a whole number of pages) and
    /// `device_pages` pages above it, the descriptor page included.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says when it has no memory or no descriptor left.
    pub fn new(ram: u32, device_pages: u32) -> io::Result<Self> {
        assert!(ram.is_multiple_of(PAGE_SIZE), "RAM comes in whole pages");
        let limit = device_pages
            .checked_mul(PAGE_SIZE)
            .and_then(|pages| ram.checked_add(pages))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let file = sealed_file("lguest-memory", u64::from(limit))?;
        let room = reserve(limit)?;
        let begin = room.align_offset(HUGE_PAGE as usize);
        // SAFETY: `begin` is less than a large page.
        let base = unsafe { room.byte_add(begin) };
        let mapping = Mapping {
            room,
            base,
            ram,
            limit,
            file,
            note: OnceLock::new(),
        };
        // SAFETY: it takes the place of a part of our own room (invariant 1).
        unsafe {
            rustix::mm::mmap(
                mapping.base.as_ptr().cast(),
                limit as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                &mapping.file,
                0,
            )
        }?;
        Ok(Self(Arc::new(mapping)))
    }

    /// From now on `note` is told of every piece that is written to by a
    /// handle, once it is written. Only the first call counts.
    pub(crate) fn note_writes(
        &self,
        note: impl Fn(Section) + Send + Sync + 'static,
    ) {
        // One that is there already stays.
        let _ = self.0.note.set(Box::new(note));
    }

    fn note(&self, sections: &[Section]) {
        if let Some(note) = self.0.note.get() {
            sections.iter().copied().for_each(note);
        }
    }

    /// Bytes of RAM: where the descriptor page begins.
    #[must_use]
    pub fn ram(&self) -> u32 {
        self.0.ram
    }

    /// Bytes of everything: one more than the last physical address.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.0.limit
    }

    /// Pages of everything: what LHREQ_INITIALIZE calls the pfn limit.
    #[must_use]
    pub fn pfn_limit(&self) -> u32 {
        self.0.limit >> PAGE_SHIFT
    }

    /// How far the RAM from `addr` on has been used without a gap: the address
    /// of the first page that nobody has touched yet, or the end of RAM.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn used_up_to(&self, addr: u32) -> io::Result<u32> {
        let from = rustix::fs::SeekFrom::Hole(u64::from(addr));
        let hole = rustix::fs::seek(&self.0.file, from)?;
        Ok(u32::try_from(hole).unwrap_or(u32::MAX).min(self.0.ram))
    }

    /// Makes one large page of [`HUGE_PAGE`] bytes at `addr`, which is a
    /// multiple of that. What is in them stays as it is; whoever touches them
    /// meanwhile waits.
    ///
    /// # Errors
    ///
    /// What the kernel says (madvise(2), `MADV_COLLAPSE`, Linux 6.1): EINVAL
    /// if it can never be, else that it cannot be now.
    ///
    /// # Panics
    ///
    /// If there are no such bytes, which only we can get wrong.
    pub(crate) fn collapse(&self, addr: u32) -> io::Result<()> {
        /// Not every C library knows it.
        const MADV_COLLAPSE: libc::c_int = 25;
        let bytes = HUGE_PAGE as usize;
        let at = self.pointer(addr, bytes).expect("RAM that exists");
        // SAFETY: the range is mapped (invariant 1) and keeps its contents.
        match unsafe { libc::madvise(at.cast(), bytes, MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The memory file, for those who map it themselves.
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
        match addr.checked_add(len) {
            Some(end) if end <= self.0.limit => Ok(Section { addr, len }),
            _ => Err(BadAddress {
                addr,
                len,
                limit: self.0.limit,
            }),
        }
    }

    /// Copies `bytes.len()` bytes out of the Guest.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if not all of them exist.
    pub fn read(&self, addr: u32, bytes: &mut [u8]) -> Result<(), BadAddress> {
        let from = self.pointer(addr, bytes.len())?;
        // SAFETY: `pointer` has checked the range (invariant 1); the slice is
        // ours, so the two cannot overlap.
        unsafe {
            from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    /// Copies `bytes` into the Guest.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if there is not room for all of them.
    pub fn write(&self, addr: u32, bytes: &[u8]) -> Result<(), BadAddress> {
        let to = self.pointer(addr, bytes.len())?;
        // SAFETY: as in `read`.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        // `pointer` has checked it.
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.note(&[Section { addr, len }]);
        Ok(())
    }

    /// Copies a value out of the Guest.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if not all of it exists.
    pub fn read_object<T>(&self, addr: u32) -> Result<T, BadAddress>
    where
        T: FromBytes + IntoBytes + FromZeros,
    {
        let mut value = T::new_zeroed();
        self.read(addr, value.as_mut_bytes())?;
        Ok(value)
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

    /// Stores a word and makes everything that was written before it visible
    /// first: how `used_len` is written once the data is there.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if there is no such word.
    pub fn write_last(&self, addr: u32, word: u32) -> Result<(), BadAddress> {
        fence(Ordering::SeqCst);
        self.write(addr, &word.to_le_bytes())
    }

    /// Sets `bits` in a half-word that the Guest may be setting others in.
    /// The Guest's own way of setting them need not be atomic.
    ///
    /// # Errors
    ///
    /// [`BadAddress`] if there is no such half-word at an even address.
    pub fn set_bits(&self, addr: u32, bits: u16) -> Result<(), BadAddress> {
        let word = self.pointer(addr, 2)?.cast::<u16>();
        if !word.is_aligned() {
            return Err(BadAddress {
                addr,
                len: 2,
                limit: self.0.limit,
            });
        }
        // SAFETY: `pointer` has checked the range (invariant 1), it is
        // aligned, and atomics may be shared with whoever maps the memory.
        let word = unsafe { AtomicU16::from_ptr(word) };
        word.fetch_or(bits, Ordering::SeqCst);
        self.note(&[Section { addr, len: 2 }]);
        Ok(())
    }

    /// Reads from `file` at `offset` straight into `sections`, like preadv.
    /// Answers the bytes moved, short only at the end of the file.
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
        let moved = self.transfer(sections, offset, |iov, count, offset| {
            // SAFETY: every vector lies inside the mapping (`transfer`), and
            // the kernel may write there while the Guest looks on.
            unsafe { libc::preadv(file.as_raw_fd(), iov, count, offset) }
        });
        self.note(sections);
        moved
    }

    /// [`Self::read_file`], if that need not wait for a disk: what the kernel
    /// has in memory is there at once, and anything else is an error.
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
        let (fd, flags) = (file.as_raw_fd(), libc::RWF_NOWAIT);
        let moved = self.transfer(sections, offset, |iov, count, offset| {
            // SAFETY: as in `read_file`.
            unsafe { libc::preadv2(fd, iov, count, offset, flags) }
        });
        self.note(sections);
        moved
    }

    /// Writes `sections` straight to `file` at `offset`, like pwritev.
    /// Answers the bytes moved.
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
        self.transfer(sections, offset, |iov, count, offset| {
            // SAFETY: every vector lies inside the mapping (`transfer`).
            unsafe { libc::pwritev(file.as_raw_fd(), iov, count, offset) }
        })
    }

    /// Puts the first page of `file` where page number `pfn` is: a page that
    /// several Guests share. The views must map the same file there.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    ///
    /// # Panics
    ///
    /// If there is no page `pfn`, which only we can get wrong.
    pub fn share_page(&self, pfn: u32, file: impl AsFd) -> io::Result<()> {
        let page = self
            .pointer(pfn << PAGE_SHIFT, PAGE_SIZE as usize)
            .expect("a device's page exists");
        // SAFETY: the page belongs to this mapping (invariant 1), and stays
        // mapped readable, writable and shared.
        let mapped = unsafe {
            rustix::mm::mmap(
                page.cast(),
                PAGE_SIZE as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                file,
                0,
            )
        };
        mapped.map(drop).map_err(Into::into)
    }

    /// Moves all of `sections`, a system call at a time.
    fn transfer(
        &self,
        sections: &[Section],
        offset: u64,
        call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
    ) -> io::Result<u32> {
        let mut iov = Vec::with_capacity(sections.len());
        for s in sections {
            let base = self.pointer(s.addr, s.len as usize).map_err(|bad| {
                io::Error::new(io::ErrorKind::InvalidInput, bad)
            })?;
            iov.push(libc::iovec {
                iov_base: base.cast(),
                iov_len: s.len as usize,
            });
        }
        let mut moved = 0_u32;
        let mut rest = iov.as_mut_slice();
        while let Some(first) = rest.first() {
            if first.iov_len == 0 {
                rest = &mut rest[1..];
                continue;
            }
            let at = offset
                .checked_add(u64::from(moved))
                .and_then(|at| libc::off_t::try_from(at).ok())
                .ok_or(io::ErrorKind::InvalidInput)?;
            let count = libc::c_int::try_from(rest.len())
                .map_err(|_| io::ErrorKind::InvalidInput)?;
            let done = call(rest.as_ptr(), count, at);
            let Ok(mut done) = usize::try_from(done) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            };
            if done == 0 {
                break;
            }
            moved += u32::try_from(done).unwrap_or(u32::MAX);
            while done > 0 {
                let step = done.min(rest[0].iov_len);
                done -= step;
                rest[0].iov_len -= step;
                rest[0].iov_base = rest[0].iov_base.wrapping_byte_add(step);
                if rest[0].iov_len == 0 {
                    rest = &mut rest[1..];
                }
            }
        }
        Ok(moved)
    }

    /// The address of `len` bytes from `addr`, once checked.
    fn pointer(&self, addr: u32, len: usize) -> Result<*mut u8, BadAddress> {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let section = self.section(addr, len)?;
        Ok(self.0.base.as_ptr().wrapping_add(section.addr as usize))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let bytes = self.limit as usize + HUGE_PAGE as usize;
        // SAFETY: this was the last handle, so nobody knows the address any
        // more (invariant 1), nor does anybody use the rest of the room.
        // A filter may refuse it; then the memory stays until we end.
        let _ = unsafe { rustix::mm::munmap(self.room.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn memory() -> GuestMemory {
        GuestMemory::new(0x10000, 2).unwrap()
    }

    #[test]
    fn each_write_is_noted_once_it_is_there() {
        let m = memory();
        let (sender, noted) = std::sync::mpsc::channel();
        m.write(0x100, b"before").unwrap();
        m.note_writes(move |piece| sender.send(piece).unwrap());
        let mut file = tempfile();
        file.write_all(&[7; 0x3000]).unwrap();
        let pieces = [m.section(0x1000, 8).unwrap(), m.section(0, 4).unwrap()];
        let piece = |addr, len| Section { addr, len };
        m.write(0xFFE, b"abcd").unwrap();
        assert_eq!(noted.try_iter().collect::<Vec<_>>(), [piece(0xFFE, 4)]);
        m.write_last(0x20, 1).unwrap();
        assert_eq!(noted.try_iter().collect::<Vec<_>>(), [piece(0x20, 4)]);
        m.set_bits(0x40, 1).unwrap();
        assert_eq!(noted.try_iter().collect::<Vec<_>>(), [piece(0x40, 2)]);
        m.read_file(&file, 0, &pieces).unwrap();
        assert_eq!(noted.try_iter().collect::<Vec<_>>(), pieces);
        // A file in memory may refuse it, and may have moved a part.
        let _ = m.read_file_now(&file, 0, &pieces);
        assert_eq!(noted.try_iter().collect::<Vec<_>>(), pieces);
        m.write_file(&file, 0, &pieces).unwrap();
        m.write(0xFFFF_0000, b"beyond").unwrap_err();
        assert_eq!(noted.try_iter().count(), 0);
    }

    #[test]
    fn what_was_written_is_read_back_up_to_the_last_byte() {
        let m = memory();
        m.write(m.limit() - 4, &[1, 2, 3, 4]).unwrap();
        assert_eq!(m.read_object::<u32>(m.limit() - 4), Ok(0x0403_0201));
        m.write_last(8, 7).unwrap();
        assert_eq!(m.read_object::<u32>(8), Ok(7));
    }

    #[test]
    fn bits_are_added_to_those_that_are_set() {
        let m = memory();
        m.write(6, &[0x07, 0x80]).unwrap();
        m.set_bits(6, 0x108).unwrap();
        assert_eq!(m.read_object::<u16>(6), Ok(0x810F));
        assert!(m.set_bits(7, 1).is_err());
        assert!(m.set_bits(m.limit(), 1).is_err());
    }

    #[test]
    fn nothing_beyond_the_limit_can_be_named() {
        let m = memory();
        let end = m.limit();
        assert!(m.section(end, 0).is_ok());
        assert!(m.section(end, 1).is_err());
        assert!(m.section(end - 4, 5).is_err());
        assert!(m.section(u32::MAX, 2).is_err());
        assert!(m.write(end - 1, &[0, 0]).is_err());
    }

    /// Numbers at which mistakes with `limit` and pages show.
    fn boundaries(limit: u32) -> Vec<u32> {
        let around = |at: u32| at - 2..=at + 2;
        [2, PAGE_SIZE, limit - PAGE_SIZE, limit, 1 << 31]
            .into_iter()
            .flat_map(around)
            .chain(u32::MAX - 4..=u32::MAX)
            .collect()
    }

    #[test]
    fn every_pair_of_boundaries_is_checked_as_wide_numbers_say() {
        let m = memory();
        let limit = u128::from(m.limit());
        for &addr in &boundaries(m.limit()) {
            for &len in &boundaries(m.limit()) {
                let (at, bytes) = (u128::from(addr), u128::from(len));
                let found = m.section(addr, len);
                let what = format!("{addr:#x} {len:#x}");
                assert_eq!(found.is_ok(), at + bytes <= limit, "{what}");
                // A section of a list must lie inside one page, too.
                let Ok(short) = u16::try_from(len) else {
                    continue;
                };
                let mut dma = lg_abi::dma::Dma::default();
                (dma.addr[0], dma.len[0]) = (addr, short);
                m.write_object(0x100, &dma).unwrap();
                let found = crate::devices::sections(&m, 0x100);
                let page = u128::from(PAGE_SIZE);
                let in_page = at % page + bytes <= page;
                let good = len == 0 || in_page && at + bytes <= limit;
                assert_eq!(found.is_ok(), good, "{what}");
            }
        }
    }

    #[test]
    fn files_move_through_sections_in_order() {
        let m = memory();
        let mut file = tempfile();
        file.write_all(b"abcdefghij").unwrap();
        let parts = [m.section(100, 3).unwrap(), m.section(50, 4).unwrap()];
        assert_eq!(m.read_file(&file, 1, &parts).unwrap(), 7);
        let mut got = [0; 4];
        m.read(50, &mut got).unwrap();
        assert_eq!(&got, b"efgh");
        // At the end of the file a transfer is short, not an error.
        assert_eq!(m.read_file(&file, 8, &parts).unwrap(), 2);
        assert_eq!(m.write_file(&file, 20, &parts[1..]).unwrap(), 4);
        assert_eq!(file.metadata().unwrap().len(), 24);
    }

    #[test]
    fn a_shared_page_is_the_same_memory_for_two_guests() {
        let (a, b, file) = (memory(), memory(), tempfile());
        file.set_len(u64::from(PAGE_SIZE)).unwrap();
        a.share_page(17, &file).unwrap();
        b.share_page(16, &file).unwrap();
        a.write((17 << PAGE_SHIFT) + 6, b"mac").unwrap();
        let mut got = [0; 3];
        b.read((16 << PAGE_SHIFT) + 6, &mut got).unwrap();
        assert_eq!(&got, b"mac");
    }

    fn tempfile() -> File {
        let fd =
            rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC)
                .unwrap();
        File::from(fd)
    }
}
