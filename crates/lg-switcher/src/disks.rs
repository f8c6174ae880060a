//! The files of disks in a view, which are open to read only.
//!
//! The Host reads what the kernel has in memory of them straight into the
//! Guest's memory. The Launcher may remove a disk; then each view closes its
//! file at the next kick, which the Launcher sends to all of them.

#![expect(unsafe_code, reason = "the kernel writes to the Guest's memory")]

use crate::layout::MEMORY;
use crate::own::own;
use crate::process::close;
use crate::shared::{setup, state};
use crate::syscall::{Vector, read_now};
use core::sync::atomic::Ordering;
use lg_host::address::GuestPhys;
use lg_wire::disk::MAX_PIECES;
use lg_wire::spawn::disk_fd;

/// The descriptor of the file of disk `index`.
fn fd(index: usize) -> i32 {
    disk_fd(setup().shared_pages as usize, index)
}

/// Reads `pieces` of the Guest's memory, all of which exist, from the file of a
/// disk. Returns whether all of it was read.
pub(crate) fn read(
    disk: usize,
    offset: u64,
    pieces: &[(GuestPhys, u32)],
) -> bool {
    let mut vectors: [Vector; MAX_PIECES] = [[0; 2]; MAX_PIECES];
    let Some(vectors) = vectors.get_mut(..pieces.len()) else {
        return false;
    };
    let mut wanted = 0;
    for (vector, &(at, bytes)) in vectors.iter_mut().zip(pieces) {
        let bytes = bytes as usize;
        *vector = [MEMORY + at.0 as usize, bytes];
        wanted += bytes;
    }
    if disk >= setup().disks as usize {
        return false;
    }
    // SAFETY: the Guest's memory, which is never borrowed.
    unsafe { read_now(fd(disk), vectors, offset) == Ok(wanted) }
}

/// Closes the files of disks that were removed.
pub(crate) fn close_removed() {
    let disks = &state().vm.wire.disks;
    for (index, disk) in disks.iter().enumerate().take(setup().disks as usize) {
        let bit = 1 << index;
        let closed = &own().closed_disks;
        if disk.is_removed()
            && closed.fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            close(fd(index));
        }
    }
}

/// The view spawner closes the file of disk `index`.
pub(crate) fn close_for_good(index: u32) {
    if index < setup().disks {
        close(fd(index as usize));
    }
}
