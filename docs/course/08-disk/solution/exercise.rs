//! Exercise 8: bytes from anywhere.
//!
//! A disk moves whole sectors. A program wants ten bytes from place 1000 of a
//! file.

use crate::SECTOR;
use alloc::vec;
use lg_guest::drivers::disk::{Disk, DiskError};

/// Reads the disk's bytes from place `start` on: as many as `into` has.
///
/// # Errors
///
/// Those of the disk, among them that the bytes lie beyond its end.
pub async fn read_at(
    disk: &Disk,
    start: usize,
    into: &mut [u8],
) -> Result<(), DiskError> {
    let (first, skipped) = (start / SECTOR, start % SECTOR);
    let wanted = skipped..skipped + into.len();
    let mut bytes = vec![0; wanted.end.next_multiple_of(SECTOR)];
    let first = u32::try_from(first).map_err(|_| DiskError::OutOfRange)?;
    disk.read(first, &mut bytes).await?;
    into.copy_from_slice(&bytes[wanted]);
    Ok(())
}
