//! Memory files that cannot become shorter.
//!
//! When a file becomes shorter, an access to a mapped page beyond its new end
//! kills the process (SIGBUS). So each of our memory files is sealed against
//! shrinking ([`super::sealed_file`]). A file from another Launcher becomes
//! [`SealedMemory`] only if it is on tmpfs and has such a seal.

use super::mapping::Mapping;
use super::{BadAddress, Region};
use lg_abi::page::PAGE_SIZE;
use rustix::fs::SealFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU32;

/// A memory file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealedMemoryError {
    /// It is not on tmpfs: an access could wait for a disk, for a program or
    /// for a network.
    #[error("the file is not ordinary memory")]
    NotMemory,
    /// It could become shorter while it is mapped.
    #[error("the memory file is not sealed against shrinking")]
    NotSealed,
    /// No 32-bit Guest has a file of this size.
    #[error("a memory file of {0} bytes")]
    Size(u64),
    /// The error of the kernel.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for SealedMemoryError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A memory file that another process may have made, mapped.
pub(crate) struct SealedMemory(Mapping);

impl SealedMemory {
    /// Maps all of `file`.
    pub(crate) fn open(
        file: BorrowedFd<'_>,
    ) -> Result<Self, SealedMemoryError> {
        let size = size(file)?;
        let limit =
            u32::try_from(size).map_err(|_| SealedMemoryError::Size(size))?;
        Ok(Self(Mapping::of(file, 0, limit)?))
    }

    /// Maps `len` bytes from `offset` of a `file` that has exactly `size`. All
    /// three are whole pages of our own choice.
    pub(crate) fn open_part(
        file: BorrowedFd<'_>,
        size: u32,
        offset: u32,
        len: u32,
    ) -> Result<Self, SealedMemoryError> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= size));
        match self::size(file)? {
            right if right == u64::from(size) => {
                Ok(Self(Mapping::of(file, offset, len)?))
            }
            wrong => Err(SealedMemoryError::Size(wrong)),
        }
    }

    /// The bytes.
    pub(crate) fn region(&self) -> &Region {
        self.0.region()
    }

    /// The word at `offset`, which other processes use as an atomic integer.
    ///
    /// # Panics
    ///
    /// When there is no such word: offsets are of our own choice.
    pub(crate) fn atomic(&self, offset: u32) -> &AtomicU32 {
        self.region().atomic(offset).expect("it is in the memory")
    }

    /// Maps the first page of `file` over offset `page` of this memory, where
    /// the Guest that owns the memory has it, too. That Guest may have a buffer
    /// in this page, as in any other.
    pub(crate) fn share_page(
        &self,
        page: u32,
        file: impl AsFd,
    ) -> Result<(), SealedMemoryError> {
        let there: Result<(), BadAddress> =
            self.region().check(page, PAGE_SIZE);
        if !page.is_multiple_of(PAGE_SIZE) || there.is_err() {
            return Err(SealedMemoryError::Size(page.into()));
        }
        Ok(self.0.replace_page(page, file)?)
    }
}

/// The size of `file`, which cannot become less and is not zero.
fn size(file: BorrowedFd<'_>) -> Result<u64, SealedMemoryError> {
    // The seals are checked first, because that never blocks, and only memory
    // files have any. `fstatfs` may block on a file of another kind.
    match rustix::fs::fcntl_get_seals(file) {
        Err(_) => return Err(SealedMemoryError::NotMemory),
        Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
        Ok(_) => return Err(SealedMemoryError::NotSealed),
    }
    // A file of huge pages has seals, too, but an access to it kills the
    // process when the machine has no huge page left.
    if rustix::fs::fstatfs(file)?.f_type != libc::TMPFS_MAGIC {
        return Err(SealedMemoryError::NotMemory);
    }
    // The size after the seal: from here on it cannot become less.
    let size = rustix::fs::fstat(file)?.st_size.unsigned_abs();
    if size == 0 || size % u64::from(PAGE_SIZE) != 0 {
        return Err(SealedMemoryError::Size(size));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::os::fd::OwnedFd;

    fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn only_memory_that_cannot_shrink_is_mapped() {
        let open = |fd: &OwnedFd| SealedMemory::open(fd.as_fd());
        assert!(open(&memfd(4096, SealFlags::SHRINK)).is_ok());
        assert!(matches!(
            open(&memfd(4096, SealFlags::GROW)),
            Err(SealedMemoryError::NotSealed)
        ));
        assert!(matches!(
            open(&memfd(0, SealFlags::SHRINK)),
            Err(SealedMemoryError::Size(0))
        ));
        assert!(matches!(
            open(&memfd(5000, SealFlags::SHRINK)),
            Err(SealedMemoryError::Size(5000))
        ));
        assert!(matches!(
            open(&memfd(1 << 32, SealFlags::SHRINK)),
            Err(SealedMemoryError::Size(_))
        ));
        let proc = std::fs::File::open("/proc/self/status").unwrap();
        assert!(matches!(
            SealedMemory::open(proc.as_fd()),
            Err(SealedMemoryError::NotMemory)
        ));
    }

    #[test]
    fn a_page_can_be_replaced_only_where_there_is_one() {
        let memory = memfd(8192, SealFlags::SHRINK);
        let memory = SealedMemory::open(memory.as_fd()).unwrap();
        let page = memfd(4096, SealFlags::SHRINK);
        for at in [1, 4095, 8192, u32::MAX - 4095] {
            assert!(memory.share_page(at, &page).is_err(), "{at:#x}");
        }
        memory.share_page(4096, &page).unwrap();
        memory.region().set_word(4096, 7).unwrap();
        let shared = SealedMemory::open(page.as_fd()).unwrap();
        assert_eq!(shared.region().word(0), Ok(7));
    }
}
