//! Files that exist only in memory, made in one place.
//!
//! A file that a hostile process may map must not become shorter while we use
//! it. So it is sealed: its size is final, and no seal can be added.

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A memory file of `size` bytes. The size is final.
pub(crate) fn sealed_file(
    name: &str,
    size: u64,
) -> rustix::io::Result<OwnedFd> {
    let file = growing_file(name, size)?;
    seal(&file)?;
    Ok(file)
}

/// A memory file of `size` bytes, which may become longer until it is sealed by
/// [`seal`]. No other process may have it before that.
pub(super) fn growing_file(
    name: &str,
    size: u64,
) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(name, flags)?;
    ftruncate(&file, size)?;
    fcntl_add_seals(&file, SealFlags::SHRINK)?;
    Ok(file)
}

/// Makes the size of `file` final.
pub(super) fn seal(file: impl AsFd) -> rustix::io::Result<()> {
    fcntl_add_seals(file, SealFlags::GROW | SealFlags::SEAL)
}

/// Bytes for which the kernel has given memory to `file`.
pub(crate) fn allocated(file: BorrowedFd<'_>) -> u64 {
    /// In which the kernel counts.
    const BLOCK: u64 = 512;
    let blocks = rustix::fs::fstat(file).map_or(0, |stat| stat.st_blocks);
    u64::try_from(blocks).unwrap_or(0).saturating_mul(BLOCK)
}

/// A memory file that may be executed, even where `vm.memfd_noexec` forbids it
/// for others. Kernels before 6.3 know neither the flag nor the setting.
pub(crate) fn executable_file(name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC;
    match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(name, flags),
        other => other,
    }
}
