//! Page tables: the kernel's, and one address space for each user program.
//!
//! The tables are ours, in plain memory, and we write them directly. The Host
//! maps pages by shadow entries of its own, so a hypercall names each entry
//! that we change. The kernel's part is the same in every directory: it is made
//! once, before there are any others, and its tables are shared.
//!
//! An entry is made with Accessed and Dirty set already. Nothing is paged out
//! here, and without these bits the Host would have to wait for the first use
//! of a page to set them.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::frame;
//! use lg_guest::paging::{AddressSpace, OutOfMemory, USER_READ, USER_WRITE};
//!
//! /// An address space with two pages for user mode: one with a text, one to
//! /// be written.
//! fn two_pages() -> Result<AddressSpace, OutOfMemory> {
//!     let mut space = AddressSpace::new()?;
//!     let mut text = frame::alloc_zeroed().ok_or(OutOfMemory)?;
//!     text.bytes()[..2].copy_from_slice(b"hi");
//!     space.map(0x40_0000, text, USER_READ)?;
//!     let data = frame::alloc_zeroed().ok_or(OutOfMemory)?;
//!     space.map(0x40_1000, data, USER_WRITE)?;
//!
//!     let mut seen = [0; 2];
//!     assert!(space.read(0x40_0000, &mut seen).is_ok());
//!     assert_eq!(&seen, b"hi");
//!     space.unmap(0x40_1000);
//!     assert_eq!(space.page_count(), 1);
//!     Ok(space)
//! }
//! ```

#![expect(unsafe_code, reason = "page tables are plain memory")]

use crate::frame::{self, Frame, Phys};
use crate::one_cpu::OneCpu;
use crate::{hcall, walk};
use alloc::vec::Vec;
use lg_abi::page::{
    DEFAULT_PAGE_OFFSET, DIRECTORY_SHIFT, DIRECTORY_SPAN, ENTRIES, PAGE_SHIFT,
    PAGE_SIZE, Pte, directory_index, pages, table_index,
};

/// Where the pages of devices are mapped: one table's worth, above all memory
/// and below the Switcher.
const DEVICES: u32 = 0xF800_0000;

/// The most memory that the kernel can reach.
pub const LINEAR_MAX: u32 = DEVICES - DEFAULT_PAGE_OFFSET;

/// A page of the kernel's.
pub(crate) const KERNEL_PAGE: u32 =
    Pte::PRESENT | Pte::WRITE | Pte::ACCESSED | Pte::DIRTY;

/// A page that user mode may read, and one that it may write, too.
pub const USER_READ: u32 = Pte::PRESENT | Pte::USER | Pte::ACCESSED;
#[expect(missing_docs)]
pub const USER_WRITE: u32 = USER_READ | Pte::WRITE | Pte::DIRTY;

struct Kernel {
    directory: Phys,
    current: Phys,
    device_table: Phys,
    /// Pages of `device_table` in use.
    device_pages: u32,
}

static KERNEL: OneCpu<Kernel> = OneCpu::new(Kernel {
    directory: Phys(0),
    current: Phys(0),
    device_table: Phys(0),
    device_pages: 0,
});

fn read_entry(at: u32) -> u32 {
    // SAFETY: only called with addresses of entries in tables that are made
    // of frames of ours, which are mapped (crate rule 2).
    unsafe { Phys(at).ptr::<u32>().read() }
}

fn write_entry(at: u32, entry: Pte) {
    // SAFETY: as in `read_entry`; volatile, since the Host reads it.
    unsafe { Phys(at).ptr::<u32>().write_volatile(entry.0) }
}

/// Makes the kernel's own tables for `memory` bytes, and switches to them.
pub(crate) fn init(memory: u32) {
    let row = |count| frame::alloc_row(count).expect("memory for page tables");
    let linear = pages(memory.min(LINEAR_MAX));
    let tables = linear.div_ceil(ENTRIES);
    let directory = row(1);
    let first = row(tables);
    let device_table = row(1);

    for pfn in 0..linear {
        let at = first.0 + pfn * walk::ENTRY_SIZE; // the tables lie in a row
        write_entry(at, Pte::new(pfn, KERNEL_PAGE));
    }
    let set = |va, table: u32| {
        let at = walk::directory_entry(directory.0, va);
        write_entry(at, Pte::new(table >> PAGE_SHIFT, KERNEL_PAGE));
    };
    for table in 0..tables {
        set(
            DEFAULT_PAGE_OFFSET + (table << DIRECTORY_SHIFT),
            first.0 + table * PAGE_SIZE,
        );
    }
    set(DEVICES, device_table.0);

    KERNEL.with(|kernel| {
        kernel.directory = directory;
        kernel.device_table = device_table;
    });
    switch_to(directory);
}

fn switch_to(directory: Phys) {
    let changed = KERNEL.with(|kernel| {
        core::mem::replace(&mut kernel.current, directory) != directory
    });
    if changed {
        hcall::new_pgtable(directory);
    }
}

/// Maps `count` pages of a device from page number `pfn` on. They stay mapped.
/// `None` if there is no room left.
pub(crate) fn map_device(pfn: u32, count: u32) -> Option<*mut u8> {
    KERNEL.with(|kernel| {
        let first = kernel.device_pages;
        let end = first.checked_add(count).filter(|&end| end <= ENTRIES)?;
        for page in first..end {
            let va = DEVICES + (page << PAGE_SHIFT);
            let pte = Pte::new(pfn + page - first, KERNEL_PAGE);
            let at = kernel.device_table.0 + table_index(va) * walk::ENTRY_SIZE;
            write_entry(at, pte);
            hcall::set_pte(kernel.directory, va, pte);
        }
        kernel.device_pages = end;
        Some((DEVICES + (first << PAGE_SHIFT)) as usize as *mut u8)
    })
}

/// An address space: a directory of its own, whose upper part is the kernel's.
#[derive(Debug)]
pub struct AddressSpace {
    directory: Frame,
    tables: Vec<Frame>,
    pages: Vec<Frame>,
}

/// There is no memory left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl AddressSpace {
    /// An empty address space.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        let directory = frame::alloc_zeroed().ok_or(OutOfMemory)?;
        let kernel = KERNEL.with(|kernel| kernel.directory);
        for index in directory_index(DEFAULT_PAGE_OFFSET)..ENTRIES {
            let offset = index * walk::ENTRY_SIZE;
            let entry = Pte(read_entry(kernel.0 + offset));
            write_entry(directory.phys().0 + offset, entry);
        }
        Ok(Self {
            directory,
            tables: Vec::new(),
            pages: Vec::new(),
        })
    }

    /// Its directory, which names it to the Host.
    #[must_use]
    pub const fn directory(&self) -> Phys {
        self.directory.phys()
    }

    /// Makes it the current one.
    pub fn activate(&self) {
        switch_to(self.directory());
    }

    /// Puts `page` at `va`, which has to be below the kernel, with `flags`
    /// ([`USER_READ`], [`USER_WRITE`]).
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], if a new table is needed and there is no memory.
    pub fn map(
        &mut self,
        va: u32,
        page: Frame,
        flags: u32,
    ) -> Result<(), OutOfMemory> {
        assert!(va < DEFAULT_PAGE_OFFSET, "not the user's: {va:#x}");
        let directory = self.directory();
        let at = walk::directory_entry(directory.0, va);
        let mut pde = Pte(read_entry(at));
        if !pde.has(Pte::PRESENT) {
            let Some(table) = frame::alloc_zeroed() else {
                frame::release(page);
                return Err(OutOfMemory);
            };
            pde = Pte::new(table.pfn(), USER_WRITE);
            write_entry(at, pde);
            hcall::set_directory_entry(directory, directory_index(va));
            self.tables.push(table);
        }
        let pte = Pte::new(page.pfn(), flags);
        write_entry(walk::table_entry(pde, va), pte);
        hcall::set_pte(directory, va, pte);
        self.pages.push(page);
        Ok(())
    }

    /// Whether there is a page at `va`.
    #[must_use]
    pub fn is_mapped(&self, va: u32) -> bool {
        let entry = walk::entry(read_entry, self.directory().0, va);
        entry.is_some_and(|pte| pte.has(Pte::PRESENT))
    }

    /// Unmaps the page at `va`, and frees its frame.
    pub fn unmap(&mut self, va: u32) {
        let directory = self.directory();
        let Some(pte) = walk::entry(read_entry, directory.0, va) else {
            return;
        };
        let Some(at) = self.pages.iter().position(|p| p.pfn() == pte.pfn())
        else {
            return;
        };
        let pde = Pte(read_entry(walk::directory_entry(directory.0, va)));
        write_entry(walk::table_entry(pde, va), Pte(0));
        hcall::set_pte(directory, va, Pte(0));
        // The frame may be used again at once, so this flush cannot wait.
        hcall::flush_async();
        frame::release(self.pages.swap_remove(at));
    }

    /// Pages that user mode has.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// Copies from user memory by walking its tables. User pages may be absent,
    /// and the kernel does not handle page faults of its own.
    ///
    /// # Errors
    ///
    /// [`BadAddress`], if user mode cannot read all of it.
    pub fn read(&self, va: u32, into: &mut [u8]) -> Result<(), BadAddress> {
        let mut va = va;
        let mut rest = into;
        while !rest.is_empty() {
            let found =
                walk::user_address(read_entry, self.directory().0, va, 0);
            let from = Phys(found.ok_or(BadAddress)?);
            let left_in_page = (PAGE_SIZE - va % PAGE_SIZE) as usize;
            let (now, later) = rest.split_at_mut(left_in_page.min(rest.len()));
            // SAFETY: the tables name frames of ours, and the piece ends
            // before the page does. No reference to a user page exists.
            unsafe {
                from.ptr::<u8>()
                    .copy_to_nonoverlapping(now.as_mut_ptr(), now.len());
            }
            // This wraps at the top of memory. The walk then finds a page of
            // the kernel, or none, and fails.
            va = va.wrapping_add(PAGE_SIZE - va % PAGE_SIZE);
            rest = later;
        }
        Ok(())
    }
}

/// User mode has no such memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

impl Drop for AddressSpace {
    /// The Host may hold shadow entries for this directory. Emptying it and
    /// reporting that keeps the next one in this frame from getting them.
    fn drop(&mut self) {
        let directory = self.directory();
        let kernel = KERNEL.with(|kernel| kernel.directory);
        for index in 0..directory_index(DEFAULT_PAGE_OFFSET) {
            let at = walk::directory_entry(directory.0, index * DIRECTORY_SPAN);
            if read_entry(at) != 0 {
                write_entry(at, Pte(0));
                hcall::set_directory_entry(directory, index);
            }
        }
        if KERNEL.with(|kernel| kernel.current) == directory {
            switch_to(kernel);
        } else {
            hcall::flush_async();
        }
        let own = core::mem::replace(&mut self.directory, Frame::none());
        self.pages.drain(..).for_each(frame::release);
        self.tables.drain(..).for_each(frame::release);
        frame::release(own);
    }
}
