//! A memory file that is mapped into this process.
//!
//! This file makes a mapping, replaces a page of it, makes huge pages of its
//! pieces, and unmaps it. The bytes in it are read and written by its
//! [`Region`].

#![expect(unsafe_code, reason = "maps and unmaps memory")]

use lg_abi::page::PAGE_SIZE;
use lg_memory::Region;
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

/// Bytes of a huge page.
pub const HUGE_PAGE: u32 = 2 << 20;

/// A mapping of a memory file.
///
/// # Invariants
///
/// 1. `room .. room + bytes` is ours until this is dropped, and all of
///    `region` lies in it. Only this module knows the addresses; elsewhere
///    they are used for the length of a system call.
/// 2. What is mapped in `region` is readable, writable and shared, and the
///    bytes cannot go away: each file is sealed against shrinking, or is the
///    page of a network ([`Mapping::replace_page`]).
pub(super) struct Mapping {
    room: NonNull<u8>,
    bytes: usize,
    region: Region,
}

// SAFETY: the mapping belongs to no thread; see `Region`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `limit` bytes of `file` from `offset` on, both whole pages. The
    /// file is sealed against shrinking, and has that many bytes.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(super) fn of(
        file: BorrowedFd<'_>,
        offset: u32,
        limit: u32,
    ) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice
        // touches nothing that exists.
        let room = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                limit as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset.into(),
            )
        }?;
        keep_from_forks(room, limit as usize);
        let room = NonNull::new(room.cast()).expect("mmap never answers null");
        Ok(Self {
            room,
            bytes: limit as usize,
            // SAFETY: it was mapped just now, and the bytes stay there
            // (invariants 1 and 2).
            region: unsafe { Region::new(room, limit) },
        })
    }

    /// Maps the first `limit` bytes of `file`, which has them and is sealed, at
    /// an address where a huge page can begin. The kernel does not choose such
    /// an address for a memory file.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(super) fn for_large_pages(
        file: BorrowedFd<'_>,
        limit: u32,
    ) -> io::Result<Self> {
        let bytes = limit as usize + HUGE_PAGE as usize;
        // SAFETY: as in `of`.
        let room = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let room = NonNull::new(room.cast()).expect("mmap never answers null");
        let begin = room.align_offset(HUGE_PAGE as usize);
        // SAFETY: `begin` is less than a huge page, so it lies in the room.
        let base = unsafe { room.byte_add(begin) };
        let mapping = Self {
            room,
            bytes,
            // SAFETY: nothing uses it before the next call has mapped it; if
            // that fails, it is dropped.
            region: unsafe { Region::new(base, limit) },
        };
        mapping.map_over(0, limit as usize, file)?;
        Ok(mapping)
    }

    /// The memory that is mapped.
    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// Puts the first page of `file` at `addr`, which is a multiple of a
    /// page's size. The file has that page. If it loses it, because another
    /// process makes it shorter, an access to that page is a SIGBUS.
    ///
    /// # Errors
    ///
    /// What the kernel says, and `InvalidInput` where there is no such page.
    pub(super) fn replace_page(
        &self,
        addr: u32,
        file: impl AsFd,
    ) -> io::Result<()> {
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.map_over(addr, PAGE_SIZE as usize, file.as_fd())
    }

    /// Maps the first `bytes` of `file` at `addr`, in the place of what is
    /// mapped there.
    fn map_over(
        &self,
        addr: u32,
        bytes: usize,
        file: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let at = self.pointer(addr, bytes)?;
        // SAFETY: the range lies inside our mapping (`pointer`), and is
        // readable, writable and shared afterwards (invariant 2).
        let mapped = unsafe {
            rustix::mm::mmap(
                at.cast(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                file,
                0,
            )
        };
        mapped.map(|at| keep_from_forks(at, bytes))?;
        Ok(())
    }

    /// Makes one huge page of [`HUGE_PAGE`] bytes at `addr`.
    ///
    /// # Errors
    ///
    /// What the kernel says, and `InvalidInput` where there are no such bytes.
    pub(super) fn collapse(&self, addr: u32) -> io::Result<()> {
        /// Some C libraries do not have it.
        const MADV_COLLAPSE: libc::c_int = 25;
        let bytes = HUGE_PAGE as usize;
        let at = self.pointer(addr, bytes)?;
        // SAFETY: the range is mapped (invariant 1) and keeps its contents.
        match unsafe { libc::madvise(at.cast(), bytes, MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn pointer(&self, addr: u32, bytes: usize) -> io::Result<*mut u8> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let invalid = |bad| io::Error::new(io::ErrorKind::InvalidInput, bad);
        self.region.pointer(addr, bytes).map_err(invalid)
    }
}

/// Processes that are forks of this one, for example share servers, do not have
/// what is mapped there. They are sent what they need.
fn keep_from_forks(at: *mut c_void, bytes: usize) {
    // A filter of system calls may refuse this. Then forks have the mapping.
    // SAFETY: nothing changes in this process.
    let _ = unsafe { libc::madvise(at, bytes, libc::MADV_DONTFORK) };
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing can reach the region any more (invariant 1), and
        // the rest of the room was never used. A filter of system calls may
        // refuse this; then the memory stays until this process ends.
        let _ = unsafe {
            rustix::mm::munmap(self.room.as_ptr().cast(), self.bytes)
        };
    }
}
