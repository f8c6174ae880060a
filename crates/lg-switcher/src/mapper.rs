//! Mapping: mmap, mprotect and munmap in the low 4 GiB.
//!
//! Guest-physical memory is a file, so a page of it is mapped by one call with
//! the physical address as the offset. Pages that are shared with other Guests
//! are in files of their own. So are the patched copies, whose physical
//! addresses begin where memory ends.

#![expect(unsafe_code, reason = "mmap")]

use crate::apart::Apart;
use crate::segments::UserDescriptor;
use crate::syscall::{call, errno, nr};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_abi::segment::Descriptor;
use lg_host::address::{GuestPhys, GuestVirt};
use lg_host::world::{Access, MapError, Mapper};
use lg_wire::fast_path;
use lg_wire::spawn::{COPIES_FD, MAX_SHARED_PAGES, MEMORY_FD, SHARED_PAGE_FD};
use lg_wire::state::ViewSetup;

const PROT_READ_EXEC: usize = 1 | 4;
const PROT_WRITE: usize = 2;
const MAP_SHARED_FIXED: usize = 0x11;

/// Maps for one view.
pub(crate) struct Mmap {
    shared_pfns: [u32; MAX_SHARED_PAGES],
    shared_pages: usize,
    limit: u32,
    apart: Apart,
}

impl Mmap {
    /// A mapper for a Guest with this setup.
    #[must_use]
    pub(crate) fn new(setup: &ViewSetup) -> Self {
        let shared_pages = setup.shared_pages as usize;
        Self {
            shared_pfns: setup.shared_pfns,
            shared_pages: shared_pages.min(MAX_SHARED_PAGES),
            limit: setup.limit,
            apart: Apart::new(match setup.slow_paths & fast_path::APART {
                0 => setup.page_offset,
                _ => 0,
            }),
        }
    }

    /// The file and the offset in it of the page at `pa`.
    fn file(&self, pa: GuestPhys) -> (i32, u32) {
        if let Some(at) = pa.0.checked_sub(self.limit) {
            return (COPIES_FD, at);
        }
        let pfn = pa.0 >> PAGE_SHIFT;
        let shared = &self.shared_pfns[..self.shared_pages];
        match (SHARED_PAGE_FD..).zip(shared).find(|&(_, &p)| p == pfn) {
            Some((fd, _)) => (fd, 0),
            None => (MEMORY_FD, pa.0),
        }
    }

    /// What to call mmap with.
    pub(crate) fn arguments(
        &self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> [usize; 6] {
        let (fd, offset) = self.file(pa);
        [
            va.0 as usize,
            (pages * PAGE_SIZE) as usize,
            protection(access),
            MAP_SHARED_FIXED,
            fd.cast_unsigned() as usize,
            offset as usize,
        ]
    }
}

/// The bits of mmap and mprotect for it.
const fn protection(access: Access) -> usize {
    match access {
        Access::Read => PROT_READ_EXEC,
        Access::Write => PROT_READ_EXEC | PROT_WRITE,
    }
}

impl Mapper for Mmap {
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<(), MapError> {
        let mut arguments = self.arguments(va, pa, pages, access);
        if pages == 1 && access == Access::Read {
            arguments[3] |= self.apart.flags(va);
        }
        // SAFETY: the low 4 GiB belong to the Guest; no Rust object is
        // there.
        match unsafe { call(nr::MMAP, arguments) } {
            Ok(_) => Ok(()),
            Err(errno::ENOMEM) => {
                self.apart.no_room();
                Err(MapError::NoRoom)
            }
            Err(_) => Err(MapError::Forbidden),
        }
    }

    fn protect(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        access: Access,
    ) -> Result<(), MapError> {
        let (at, bytes) = (va.0 as usize, PAGE_SIZE as usize);
        let arguments = [at, bytes, protection(access), 0, 0, 0];
        // SAFETY: as in `map`.
        if unsafe { call(nr::MPROTECT, arguments) }.is_ok() {
            return Ok(());
        }
        self.map(va, pa, 1, access)
    }

    fn hides(&self) -> bool {
        true
    }

    fn hide(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        const PROT_NONE: usize = 0;
        let bytes = (pages as usize) << PAGE_SHIFT;
        let arguments = [va.0 as usize, bytes, PROT_NONE, 0, 0, 0];
        // SAFETY: as in `map`.
        unsafe { call(nr::MPROTECT, arguments) }
            .map(drop)
            .map_err(|_| MapError::NoRoom)
    }

    fn set_segment(
        &mut self,
        index: u32,
        descriptor: Descriptor,
    ) -> Result<(), MapError> {
        let entry = UserDescriptor::new(index, descriptor);
        entry.set().map_err(|_| MapError::NoRoom)
    }

    fn unmap(&mut self, va: GuestVirt, pages: u32) -> Result<(), MapError> {
        let bytes = (pages as usize) << PAGE_SHIFT;
        // SAFETY: as in `map`.
        unsafe { call(nr::MUNMAP, [va.0 as usize, bytes, 0, 0, 0, 0]) }
            .map_err(|_| MapError::NoRoom)?;
        self.apart.unmapped(va, pages);
        Ok(())
    }
}
