//! Commands about disks: files of an ext2, and raw sectors.
//!
//! A library reads the first disk as ext2. This file gives it bytes from the
//! driver, and prints files and folders.

use crate::machine::Machine;
use crate::shell::{Failure, number};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType};
use lg_abi::device::SECTOR_SIZE;
use lg_guest::drivers::disk::{Disk, DiskError, REQUEST_MAX};
use lg_guest::{print, println, time};

/// A disk as the file system needs it: any bytes at any offset.
struct Bytes(&'static Disk);

impl Ext4Read for Bytes {
    fn read(
        &mut self,
        start: u64,
        into: &mut [u8],
    ) -> Result<(), Box<dyn core::error::Error + Send + Sync>> {
        let sector_size = u64::from(SECTOR_SIZE);
        let skip = usize::try_from(start % sector_size)?;
        let sector = u32::try_from(start / sector_size)?;
        let length = (skip + into.len()).next_multiple_of(SECTOR_SIZE as usize);
        let mut sectors = vec![0; length];
        self.0
            .read_blocking(sector, &mut sectors)
            .map_err(|error| error.to_string())?;
        into.copy_from_slice(&sectors[skip..skip + into.len()]);
        Ok(())
    }
}

fn disk(machine: &'static Machine) -> Result<&'static Disk, Failure> {
    machine.disks.first().ok_or_else(|| "no disk".into())
}

fn file_system(machine: &'static Machine) -> Result<Ext4, Failure> {
    let reader = Box::new(Bytes(disk(machine)?));
    Ext4::load(reader).map_err(|error| say(&error))
}

fn say(error: &Ext4Error) -> Failure {
    error.to_string()
}

fn disk_failure(error: DiskError) -> Failure {
    error.to_string()
}

/// A path as the file system needs it.
fn absolute(path: &str) -> alloc::string::String {
    format!("/{}", path.trim_start_matches('/'))
}

pub(crate) fn list(
    machine: &'static Machine,
    path: &str,
) -> Result<(), Failure> {
    let file_system = file_system(machine)?;
    let path = absolute(path);
    for entry in file_system.read_dir(path.as_str()).map_err(|e| say(&e))? {
        let entry = entry.map_err(|error| say(&error))?;
        let metadata = entry.metadata().map_err(|error| say(&error))?;
        let kind = match metadata.file_type() {
            FileType::Directory => 'd',
            FileType::Symlink => 'l',
            FileType::Regular => '-',
            _ => '?',
        };
        let name = entry.file_name();
        println!(
            "  {kind}{:03o} {:10} {}",
            metadata.mode() & 0o777,
            metadata.len(),
            name.display()
        );
    }
    Ok(())
}

pub(crate) fn print(
    machine: &'static Machine,
    path: &str,
) -> Result<(), Failure> {
    let file_system = file_system(machine)?;
    let path = absolute(path);
    let mut file = file_system.open(path.as_str()).map_err(|e| say(&e))?;
    let mut piece = vec![0; REQUEST_MAX];
    loop {
        let length = file.read_bytes(&mut piece).map_err(|e| say(&e))?;
        if length == 0 {
            print::flush();
            return Ok(());
        }
        print::print_bytes(&piece[..length]);
    }
}

/// Writes a pattern to `count` sectors from `sector` on, and reads them back.
pub(crate) async fn write_and_read_back(
    machine: &'static Machine,
    sector: &str,
    count: &str,
) -> Result<(), Failure> {
    const MOST: usize = 16 << 20;
    let disk = disk(machine)?;
    let sector: u32 = number(sector)?;
    let bytes = number::<usize>(count)?
        .checked_mul(SECTOR_SIZE as usize)
        .filter(|&bytes| bytes <= MOST)
        .ok_or_else(|| format!("at most {} MiB at a time", MOST >> 20))?;

    let seed = time::now();
    let pattern: alloc::vec::Vec<u8> = (0u64..)
        .map(|at| {
            (at ^ seed)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_be_bytes()[0]
        })
        .take(bytes)
        .collect();
    let start = time::now();
    disk.write(sector, &pattern).await.map_err(disk_failure)?;
    disk.flush().await.map_err(disk_failure)?;
    let written = time::now();
    let mut back = vec![0; bytes];
    disk.read(sector, &mut back).await.map_err(disk_failure)?;
    let read = time::now();
    if back != pattern {
        return Err("the bytes read differ from those written".into());
    }
    println!(
        "{bytes} bytes: written at {}, read back the same at {}",
        Rate(bytes as u64, written - start),
        Rate(bytes as u64, read - written)
    );
    Ok(())
}

/// Bytes in nanoseconds, shown as a rate.
pub(crate) struct Rate(pub(crate) u64, pub(crate) u64);

impl core::fmt::Display for Rate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let kilobytes = self.0 * 1_000_000 / self.1.max(1);
        write!(f, "{}.{} MB/s", kilobytes / 1000, kilobytes % 1000 / 100)
    }
}
