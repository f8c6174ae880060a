//! What a process does to itself: children, parents, descriptors, mappings.
//!
//! Only the start of a process uses this; the filter allows none of it later,
//! but to close the files of disks.

#![expect(unsafe_code, reason = "system calls")]

use crate::syscall::{call, nr};

/// Flags of `clone`: the parent of the child is our parent, the Launcher, which
/// learns of its death; and descriptors are shared until both sides have made
/// theirs.
pub(crate) const CLONE_PARENT: usize = 0x8000;
pub(crate) const CLONE_FILES: usize = 0x400;

/// Makes a copy of this process. Answers 0 in the copy, else its number.
pub(crate) fn fork(flags: usize) -> Result<usize, i32> {
    // SAFETY: a copy of this process, on a copy of this stack.
    unsafe { call(nr::CLONE, [flags, 0, 0, 0, 0, 0]) }
}

/// The process number of the parent.
pub(crate) fn parent() -> Result<usize, i32> {
    // SAFETY: asks for a number.
    unsafe { call(nr::GETPPID, [0; 6]) }
}

/// When the parent ends, this process is killed. A parent that has ended before
/// is not noticed: compare [`parent`] afterwards.
pub(crate) fn die_with_parent() -> Result<(), i32> {
    const PR_SET_PDEATHSIG: usize = 1;
    const SIGKILL: usize = 9;
    // SAFETY: a switch of this process.
    unsafe { call(nr::PRCTL, [PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0]) }
        .map(drop)
}

/// Closes a descriptor.
pub(crate) fn close(fd: i32) {
    let fd = fd.cast_unsigned() as usize;
    // SAFETY: the caller's: it is not used any more.
    let _ = unsafe { call(nr::CLOSE, [fd, 0, 0, 0, 0, 0]) };
}

/// Unmaps what nothing in this process uses any more.
pub(crate) fn forget(at: usize, size: usize) -> Result<(), i32> {
    // SAFETY: the caller's: nothing there is used any more.
    unsafe { call(nr::MUNMAP, [at, size, 0, 0, 0, 0]) }.map(drop)
}

const PROT_READ_WRITE: usize = 3;
pub(crate) const MAP_SHARED_FIXED: usize = 0x11;
pub(crate) const MAP_PRIVATE_FIXED_ANONYMOUS_NORESERVE: usize = 0x4032;
pub(crate) const MAP_SHARED_FIXED_ANONYMOUS: usize = 0x31;

/// Maps a file, or with `-1` memory of nothing but zeros, to read and write.
pub(crate) fn map(
    at: usize,
    size: usize,
    fd: i32,
    flags: usize,
) -> Result<(), i32> {
    let fd = fd as isize as usize;
    // SAFETY: the layout gives each mapping a place of its own.
    unsafe { call(nr::MMAP, [at, size, PROT_READ_WRITE, flags, fd, 0]) }
        .map(drop)
}
