//! Lesson 8: notes on a disk.
//!
//! A disk has sectors of 512 bytes. Here each has one note: text, blanks up to
//! the last byte, and a line feed. So the disk is also a text file. A sector of
//! blanks is free.

#![no_std]

extern crate alloc;

pub mod exercise;

use alloc::string::String;
use alloc::vec::Vec;
use lg_guest::boot::Boot;
use lg_guest::bus::{self, Kind};
use lg_guest::drivers::disk::{Disk, DiskError};

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// The machine's first disk.
pub fn disk(boot: &Boot) -> Disk {
    let device = bus::first(boot, Kind::Block).expect("lguest.toml names one");
    device.start(Disk::new).expect("it works")
}

/// The note in a sector, or an empty text.
pub async fn note(disk: &Disk, sector: u32) -> Result<String, DiskError> {
    let mut bytes = [0; SECTOR];
    disk.read(sector, &mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).trim().into())
}

/// All notes, with their sectors.
pub async fn notes(disk: &Disk) -> Result<Vec<(u32, String)>, DiskError> {
    let mut found = Vec::new();
    for sector in 0..disk.sectors() {
        let note = note(disk, sector).await?;
        if !note.is_empty() {
            found.push((sector, note));
        }
    }
    Ok(found)
}

/// Writes a note into a sector. An empty text frees the sector.
pub async fn write(
    disk: &Disk,
    sector: u32,
    note: &str,
) -> Result<(), DiskError> {
    let mut bytes = [b' '; SECTOR];
    bytes[SECTOR - 1] = b'\n';
    let room = SECTOR - 1;
    let text = &note.as_bytes()[..note.len().min(room)];
    bytes[..text.len()].copy_from_slice(text);
    disk.write(sector, &bytes).await
}

/// Writes a note into the first free sector. `None`: the disk is full.
pub async fn add(disk: &Disk, note: &str) -> Result<Option<u32>, DiskError> {
    for sector in 0..disk.sectors() {
        if self::note(disk, sector).await?.is_empty() {
            write(disk, sector, note).await?;
            return Ok(Some(sector));
        }
    }
    Ok(None)
}
