//! What is loaded besides the kernel: initrd, page tables, parameters.
//!
//! The map is the original's (docs/abi.md, section 3): the boot parameters in
//! page 0, the command line in page 1, the initrd at the very top of RAM, and
//! right below it the first page directory with its page tables underneath.
//! Every kernel soon makes page tables of its own. Since Linux 2.6.24 the boot
//! parameters are elsewhere ([`boot_parameters`](super::boot_parameters)).

use super::error::{BootError, InitrdError};
use super::fit::{self, Demand};
use super::placed::{Initrd, Kernel, Start};
use crate::memory::GuestMemory;
use lg_abi::boot::{
    BOOT_PARAMETERS, COMMAND_LINE, COMMAND_LINE_MAX, E820_RAM, E820Entry,
    LOADER_UNREGISTERED, START_PTE_FLAGS, SUBARCH_LGUEST, offset,
};
use lg_abi::page::{Format, PAGE_SHIFT, PAGE_SIZE, Pte};
use std::fs::File;
use std::io;
use zerocopy::IntoBytes;

/// Refuses a command line that its page cannot hold.
pub(super) fn check_command_line(line: &[u8]) -> Result<(), BootError> {
    if line.len() >= COMMAND_LINE_MAX as usize {
        return Err(BootError::CommandLineTooLong(line.len()));
    }
    if line.contains(&0) {
        return Err(BootError::CommandLineNul);
    }
    Ok(())
}

/// The bytes of an initrd.
pub(super) fn initrd_size(file: &File) -> Result<u64, InitrdError> {
    match file.metadata()?.len() {
        0 => Err(InitrdError::Empty),
        size => Ok(size),
    }
}

/// Loads an initrd above the kernel, to the top of RAM or of the part of RAM
/// that the kernel maps.
pub(super) fn load_initrd(
    memory: &GuestMemory,
    file: &File,
    kernel: &Kernel,
) -> Result<Initrd, InitrdError> {
    let size = initrd_size(file)?;
    let whole_pages = size.next_multiple_of(u64::from(PAGE_SIZE));
    let top = fit::top_for_initrd(
        memory.ram(),
        kernel.page_offset,
        kernel.end.into(),
    );
    let tables =
        fit::page_table_bytes(memory.ram(), kernel.page_offset, kernel.paging);
    let others = u64::from(kernel.end) + u64::from(tables);
    if others + whole_pages > top {
        let demand = Demand {
            kernel_end: kernel.end.into(),
            page_offset: kernel.page_offset,
            paging: kernel.paging,
            initrd: size,
        };
        return Err(match demand.least_mb() {
            Some(needed_mb) => InitrdError::TooLittleMemory { needed_mb },
            None => InitrdError::too_large(demand),
        });
    }
    // All of it fits in RAM, which fits in a u32.
    let top = u32::try_from(top).unwrap_or(u32::MAX);
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    let whole_pages = u32::try_from(whole_pages).unwrap_or(u32::MAX);
    let start = top - whole_pages;
    let section = memory
        .section(start, size)
        .map_err(|bad| io::Error::new(io::ErrorKind::InvalidInput, bad))?;
    if memory.read_file(file, 0, &[section])? < size {
        return Err(InitrdError::Shrunk);
    }
    Ok(Initrd { start, size })
}

/// Builds the first page tables just below `top`. They map RAM at the kernel's
/// PAGE_OFFSET, up to the addresses of the Switcher, and at address 0, too,
/// where the kernel starts at a physical address. Returns the physical address
/// of the page directory.
pub(super) fn page_tables(
    memory: &GuestMemory,
    kernel: &Kernel,
    top: u32,
) -> Result<u32, BootError> {
    let (ram, format) = (memory.ram(), kernel.paging);
    let mapped = fit::mapped_at_first(ram, kernel.page_offset, format);
    let needed = fit::page_table_bytes(ram, kernel.page_offset, format);
    if top.saturating_sub(kernel.end) < needed {
        // An initrd that leaves no room for them has been refused.
        let demand = Demand {
            kernel_end: kernel.end.into(),
            page_offset: kernel.page_offset,
            paging: kernel.paging,
            initrd: 0,
        };
        return Err(match demand.least_mb() {
            Some(needed_mb) => BootError::TooLittleMemory { needed_mb },
            None => BootError::TooHigh(demand.kernel_end.div_ceil(1 << 20)),
        });
    }
    let pgdir = top - PAGE_SIZE;
    let directory_at = match format {
        Format::TwoLevels => pgdir,
        Format::Pae => pgdir - PAGE_SIZE,
    };
    let bases = match kernel.start {
        Start::Identity(..) => &[0, kernel.page_offset][..],
        _ => &[kernel.page_offset],
    };
    let mut directory = Table::default();
    let starts = (0..mapped).step_by(format.table_span() as usize);
    for (start, table_at) in starts.zip((top - needed..).step_by(PAGE)) {
        let mut table = Table::default();
        let pages = (start..mapped).step_by(PAGE);
        for pa in pages.take(format.entries() as usize) {
            let entry = Pte::new(pa >> PAGE_SHIFT, START_PTE_FLAGS);
            table.put(format.table_offset(pa), entry);
        }
        write(memory, table_at, &table.0);
        let entry = Pte::new(table_at >> PAGE_SHIFT, START_PTE_FLAGS);
        for base in bases {
            directory.put(format.directory_offset(base + start), entry);
        }
    }
    write(memory, directory_at, &directory.0);
    if format == Format::Pae {
        // One directory is for each of the bases: PAGE_OFFSET is a multiple of
        // 1 GiB.
        let mut pointers = Table::default();
        let entry = Pte::new(directory_at >> PAGE_SHIFT, Pte::PRESENT);
        for &base in bases {
            pointers.put(Format::pointer_offset(base), entry);
        }
        write(memory, pgdir, &pointers.0);
    }
    Ok(pgdir)
}

const PAGE: usize = PAGE_SIZE as usize;

/// A page of entries of either size. The high word of every entry is 0.
struct Table([u8; PAGE]);

impl Default for Table {
    fn default() -> Self {
        Self([0; PAGE])
    }
}

impl Table {
    fn put(&mut self, offset: u32, entry: Pte) {
        let at = offset as usize;
        self.0[at..at + 4].copy_from_slice(&entry.0.to_le_bytes());
    }
}

/// Fills the boot parameters and the command line.
pub(super) fn parameters(
    memory: &GuestMemory,
    initrd: Option<Initrd>,
    command_line: &[u8],
) {
    let all_ram = E820Entry {
        addr: [0, 0],
        size: [memory.ram(), 0],
        kind: E820_RAM,
    };
    let put = |offset: u32, bytes: &[u8]| {
        write(memory, BOOT_PARAMETERS + offset, bytes);
    };
    put(offset::E820_ENTRIES, &[1]);
    put(offset::E820_MAP, all_ram.as_bytes());
    put(offset::COMMAND_LINE, COMMAND_LINE.as_bytes());
    put(offset::SUBARCH, SUBARCH_LGUEST.as_bytes());
    if let Some(initrd) = initrd {
        put(offset::LOADER_TYPE, &[LOADER_UNREGISTERED]);
        put(offset::INITRD_START, initrd.start.as_bytes());
        put(offset::INITRD_SIZE, initrd.size.as_bytes());
    }
    write(memory, COMMAND_LINE, command_line);
}

/// Writes to RAM. The callers have checked that there is RAM.
fn write(memory: &GuestMemory, addr: u32, bytes: &[u8]) {
    let written = memory.write(addr, bytes);
    written.expect("a kernel ends below the top of RAM");
}

#[cfg(test)]
mod tests;
