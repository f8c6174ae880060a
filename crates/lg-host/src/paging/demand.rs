//! A page fault: whose is it?
//!
//! Ours, if the Guest's tables allow what it did: then we map the page, set
//! the bits that its processor would have set, and it never hears of it.
//! Otherwise it is the Guest's own.

use super::shadow::Mapped;
use super::walk::{page_table, walk};
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::fast_path;
use crate::kill::Kill;
use crate::run::Host;
use crate::world::Access;
use core::ops::BitOr;
use lg_abi::page::{
    DIRECTORY_SHIFT, ENTRIES, PAGE_SHIFT, PAGE_SIZE, Pte, directory_index,
};

/// Whose a page fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Ours, and it has been taken care of.
    Mapped,
    /// The Guest's.
    Guests,
    /// The Guest's tables allow it, but this machine maps nothing there: page 0
    /// (`vm.mmap_min_addr`).
    Unmappable,
}

/// The same page may fault this often in a row, though it is mapped as it
/// should be, before we stop believing that it helps to go on.
const MAX_SPURIOUS: u32 = 16;

impl Host<'_> {
    /// Maps the page of `va`, if the Guest's tables allow the access.
    ///
    /// # Errors
    ///
    /// Tables that cannot be are the Guest's death.
    pub(crate) fn demand_page(
        &mut self,
        va: GuestVirt,
        write: bool,
        user: bool,
    ) -> Result<Fault, Kill> {
        self.shadow.set_last_fault(va);
        let demand = |host: &mut Self| host.demand_here(va, write, user);
        let fault = if user {
            self.in_user_process(demand)
        } else {
            None
        };
        fault.unwrap_or_else(|| self.demand_here(va, write, user))
    }

    /// The same in the address space that is being worked on.
    fn demand_here(
        &mut self,
        va: GuestVirt,
        write: bool,
        user: bool,
    ) -> Result<Fault, Kill> {
        if va.is_switchers() {
            return Ok(Fault::Guests);
        }
        let cr3 = self.shadow.cr3();
        let Some(entry) = walk(&self.memory, cr3, va)? else {
            return Ok(Fault::Guests);
        };
        let mut pte = entry.pte;
        if write && !pte.has(Pte::WRITE) || user && !pte.has(Pte::USER) {
            return Ok(Fault::Guests);
        }
        let used = if write {
            Pte::ACCESSED | Pte::DIRTY
        } else {
            Pte::ACCESSED
        };
        if !pte.has(used) {
            pte.0 |= used;
            let whole = self.memory.word(entry.at)?;
            self.store(entry.at, whole | used)?;
        }
        // A user process has no pieces: it gets the pages that the tables give
        // to user code, one by one.
        let linear =
            va.0 >= self.vm.page_offset.get() && !self.shadow.in_user_process();
        if linear && (self.write_linear(va, write)? || self.map_linear(va)?) {
            return Ok(Fault::Mapped);
        }
        let wanted = self.or_copy(va, self.shadow.wanted(pte), write);
        if self.shadow.shadow(va) == wanted {
            self.vm.counters.spurious_faults.count();
            if self.shadow.count_spurious() > MAX_SPURIOUS {
                if user {
                    // User code that makes faults up, perhaps: its kernel
                    // will know what to do with it.
                    return Ok(Fault::Guests);
                }
                let eip = self.vm.regs.eip.get();
                return Err(Kill::FaultLoop { va: va.0, eip });
            }
            // Our record may be wrong where it cost nothing to be wrong:
            // mapping the page once more puts both right.
        }
        match self.map_page(va, wanted)? {
            Mapped::Yes => Ok(Fault::Mapped),
            Mapped::Forbidden => Ok(Fault::Unmappable),
        }
    }

    /// Maps the 4 MiB piece of the kernel's linear range around `va` in one
    /// go, if all of the Guest's entries for it say the same: physical =
    /// virtual − page offset, Writable, Accessed and Dirty. A kernel's own
    /// memory is nearly always like that, and one mapping costs what a page
    /// costs.
    fn map_linear(&mut self, va: GuestVirt) -> Result<bool, Kill> {
        let index = directory_index(va.0);
        if self.vm.slow_paths.get() & fast_path::LINEAR != 0
            || self.shadow.is_cramped()
        {
            return Ok(false);
        }
        let pages = self.linear_pages(index)?;
        if pages == 0 || va.page_number() % ENTRIES >= pages {
            return Ok(false);
        }
        if self.shadow.linear_pages(index) == pages {
            // It is mapped already, so this fault is a strange one. Let the
            // single page decide.
            return Ok(false);
        }
        self.forget_directories(index, index + 1)?;
        let start = GuestVirt(index << DIRECTORY_SHIFT);
        let offset = self.vm.page_offset.get();
        let pa = GuestPhys(start.0.wrapping_sub(offset));
        let mapped = self.map_run(start, pa, pages)?;
        if mapped == Mapped::Yes {
            self.shadow.set_linear(index, pages);
            self.vm.counters.linear_maps.count();
            self.protect_copied_pages(pa, pages)?;
        }
        Ok(mapped == Mapped::Yes)
    }

    /// The kernel has written to a page of a linear piece, which was made
    /// read-only because the page has, or had, a patched copy. Answers whether
    /// it was so, and put right.
    fn write_linear(
        &mut self,
        va: GuestVirt,
        write: bool,
    ) -> Result<bool, Kill> {
        let linear = self.shadow.linear_pages(directory_index(va.0));
        if !write || linear <= va.page_number() % ENTRIES {
            return Ok(false);
        }
        let offset = self.vm.page_offset.get();
        let frame = va.0.wrapping_sub(offset) & !(PAGE_SIZE - 1);
        if let Some(number) = self.copy_of(GuestPhys(frame)) {
            self.forget_copy(number)?;
        } else if self.vm.copy_count.get() == 0
            || self.shadow.count_spurious() > 1
        {
            return Ok(false);
        }
        self.map_kernel_page(va, Access::Write)?;
        Ok(true)
    }

    /// How many pages from the start of directory entry `index` are linear:
    /// all of those that exist in physical memory, or none.
    pub(super) fn linear_pages(&self, index: u32) -> Result<u32, Kill> {
        /// All that has to be set in every entry.
        const LINEAR: u32 =
            Pte::PRESENT | Pte::WRITE | Pte::ACCESSED | Pte::DIRTY;
        /// All that is looked at.
        const CHECKED: u32 =
            !(PAGE_SIZE - 1) | LINEAR | Pte::WRITE_THROUGH | Pte::SIZE;
        let start = index << DIRECTORY_SHIFT;
        let offset = self.vm.page_offset.get();
        let Some(pa) = start.checked_sub(offset) else {
            return Ok(0);
        };
        let exist = self.memory.limit().saturating_sub(pa) >> PAGE_SHIFT;
        let pages = exist.min(ENTRIES);
        if pages == 0 || index >= lg_abi::page::SWITCHER_INDEX {
            return Ok(0);
        }
        let Some(pde) = page_table(&self.memory, self.shadow.cr3(), index)?
        else {
            return Ok(0);
        };
        // One copy of the table, then no more looks at shared memory.
        let mut table = [0_u32; ENTRIES as usize];
        let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut table);
        self.memory.read(GuestPhys(pde.frame()), bytes)?;
        if !pde.has(Pte::WRITE) {
            return Ok(0); // it withholds that right
        }
        let differs = |(i, &entry): (usize, &u32)| {
            let frame = pa.wrapping_add(as_word(i) * PAGE_SIZE);
            entry & CHECKED ^ (frame | LINEAR)
        };
        let table = table.iter().enumerate();
        if pages == ENTRIES {
            // Without a branch, for a flush of everything looks at all of the
            // kernel's memory in this way.
            let differences = table.map(differs).fold(0, BitOr::bitor);
            return Ok(if differences == 0 { ENTRIES } else { 0 });
        }
        // Device pages above RAM are mapped by drivers, elsewhere, so the
        // last piece ends where the run of agreeing entries does.
        let run = table.take(pages as usize).take_while(|&e| differs(e) == 0);
        Ok(as_word(run.count()))
    }
}
