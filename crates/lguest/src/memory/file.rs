//! Files that exist only in memory, made in one place.
//!
//! What a hostile process may map must not shrink under our feet, so such a
//! file is sealed: its size is final, and no seal can be added.

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// A memory file of `size` bytes, which stay as many.
pub(crate) fn sealed_file(
    name: &str,
    size: u64,
) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(name, flags)?;
    ftruncate(&file, size)?;
    let final_size = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, final_size)?;
    Ok(file)
}

/// A memory file that may be executed, also where `vm.memfd_noexec` says that
/// others may not. Kernels before 6.3 know neither the flag nor the setting.
pub(crate) fn executable_file(name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC;
    match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(name, flags),
        other => other,
    }
}
