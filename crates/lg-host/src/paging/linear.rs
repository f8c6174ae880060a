//! Pieces of 4 MiB of the kernel's linear range, each mapped in one go.
//!
//! A kernel maps physical memory at PAGE_OFFSET. Nearly all of its tables there
//! say the same, and one mapping of 4 MiB costs what a page costs. Where a
//! kernel has its text, it may only read: a run of such pages is mapped in one
//! go, too, with a record of each page.

use super::mapping::Mapped;
use super::pte::ShadowPte;
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use crate::world::Access;
use core::ops::BitOr;
use lg_abi::page::{
    DIRECTORY_SHIFT, ENTRIES, Format, PAGE_SHIFT, PAGE_SIZE, Pte,
    directory_index,
};

impl Host<'_> {
    /// Maps the 4 MiB piece of the kernel's linear range around `va` in one go,
    /// if all of the Guest's entries for it say the same: physical = virtual −
    /// page offset, Writable, Accessed and Dirty.
    pub(super) fn map_linear(&mut self, va: GuestVirt) -> Result<bool, Kill> {
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
            // The piece is mapped already, so the fault has another reason.
            // The single page decides.
            return Ok(false);
        }
        self.forget_directories(index, index + 1)?;
        let start = GuestVirt(index << DIRECTORY_SHIFT);
        let offset = self.vm.page_offset.get();
        let pa = GuestPhys(start.0.wrapping_sub(offset));
        let mapped = self.map_run(start, pa, pages, Access::Write)?;
        if mapped == Mapped::Yes {
            self.shadow.set_linear(index, pages);
            self.vm.counters.linear_maps.count();
            self.protect_copied_pages(pa, pages)?;
        }
        Ok(mapped == Mapped::Yes)
    }

    /// Maps the page at `va`, which the kernel may only read, together with its
    /// neighbours in the same piece of which the tables say the same. Answers
    /// whether it did: not for a page that is mapped already.
    pub(super) fn map_read_only_run(
        &mut self,
        va: GuestVirt,
    ) -> Result<bool, Kill> {
        if self.vm.slow_paths.get() & fast_path::LINEAR != 0
            || self.shadow.is_cramped()
            || self.shadow.shadow(va).is_mapped()
        {
            return Ok(false);
        }
        let index = directory_index(va.0);
        let piece = self.own_tables().piece(index)?;
        let offset = self.vm.page_offset.get();
        let (format, first) = (self.format(), index * ENTRIES);
        let agrees = |page: &u32| {
            let at = GuestVirt(page << PAGE_SHIFT);
            // An impossible entry ends a Guest that uses it, not its neighbour.
            let pte = piece.entry(&self.memory, format, at).unwrap_or(Pte(0));
            let wanted = ShadowPte::wanted(pte);
            let there = self.shadow.shadow(at);
            wanted.is_mapped()
                && wanted.access() == Access::Read
                && wanted.frame().0 == at.0.wrapping_sub(offset)
                && (!there.is_mapped() || there == wanted)
        };
        let page = va.page_number();
        if !agrees(&page) {
            return Ok(false);
        }
        let before = (first..page).rev().take_while(agrees).count();
        let behind = (page..first + ENTRIES).take_while(agrees).count();
        let start = GuestVirt((page - as_word(before)) << PAGE_SHIFT);
        let pages = as_word(before + behind);
        let pa = GuestPhys(start.0.wrapping_sub(offset));
        if self.map_run(start, pa, pages, Access::Read)? != Mapped::Yes {
            return Ok(false);
        }
        for n in 0..pages {
            let at = n << PAGE_SHIFT;
            let shadow = ShadowPte::of(pa.plus(at), Access::Read);
            self.shadow.set_shadow(start.plus(at), shadow);
        }
        self.vm.counters.linear_maps.count();
        Ok(true)
    }

    /// If the kernel has written to a page of a linear piece that is read-only
    /// because the page has, or had, a patched copy, makes the page writable.
    /// Answers whether it did.
    pub(super) fn write_linear(
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
        } else if self.vm.patches.copy_count.get() == 0
            || self.shadow.count_spurious() > 1
        {
            return Ok(false);
        }
        self.map_kernel_page(va, Access::Write)?;
        Ok(true)
    }

    /// How many pages from the start of piece `index` are linear: all of those
    /// that exist in physical memory, or none.
    pub(super) fn linear_pages(&self, index: u32) -> Result<u32, Kill> {
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
        match self.format() {
            Format::TwoLevels => self.run_of_tables::<1>(start, pa, pages),
            Format::Pae => self.run_of_tables::<2>(start, pa, pages),
        }
    }

    /// The same for the `pages` pages from `start` and `pa` on. An entry has
    /// `WORDS` words, and a piece as many tables.
    fn run_of_tables<const WORDS: usize>(
        &self,
        start: u32,
        pa: u32,
        pages: u32,
    ) -> Result<u32, Kill> {
        let entries = ENTRIES / as_word(WORDS);
        let mut run = 0;
        while run < pages {
            let va = GuestVirt(start + (run << PAGE_SHIFT));
            let Some(pde) = self.own_tables().table(va)? else {
                break;
            };
            // One copy of the table, then no more looks at shared memory.
            let mut table = [0_u32; ENTRIES as usize];
            let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut table);
            self.memory.read(GuestPhys(pde.frame()), bytes)?;
            if !pde.has(Pte::WRITE) {
                break; // it withholds that right
            }
            let wanted = entries.min(pages - run);
            let frame = pa + (run << PAGE_SHIFT);
            let table = table.as_chunks::<WORDS>().0;
            let agree = run_of_entries(table, frame, wanted);
            run += agree;
            if agree < wanted {
                break;
            }
        }
        // Drivers map the device pages above RAM, and elsewhere. So the last
        // piece ends where the run of agreeing entries does.
        let whole = run == pages || pages < ENTRIES;
        Ok(if whole { run } else { 0 })
    }

    /// Whether the entry for `va` still agrees with the piece around it.
    pub(super) fn is_still_linear(&self, va: GuestVirt) -> Result<bool, Kill> {
        let expected = va.0.wrapping_sub(self.vm.page_offset.get());
        let entry = self.own_tables().walk(va)?;
        Ok(entry.is_some_and(|entry| {
            entry.pte.pfn() == expected >> PAGE_SHIFT
                && ShadowPte::wanted(entry.pte).access()
                    == crate::world::Access::Write
                && ShadowPte::wanted(entry.pte).is_mapped()
        }))
    }

    /// A piece is no longer linear: unmaps all of it.
    pub(super) fn break_linear(&mut self, index: u32) -> Result<(), Kill> {
        self.vm.counters.linear_breaks.count();
        self.forget_directories(index, index + 1)
    }
}

/// How many of the first `pages` entries of `table` are linear and map the
/// frames from `pa` on, up to the first one that does not. An entry has `WORDS`
/// words.
#[inline(always)]
fn run_of_entries<const WORDS: usize>(
    table: &[[u32; WORDS]],
    pa: u32,
    pages: u32,
) -> u32 {
    /// All that has to be set in every entry.
    const LINEAR: u32 = Pte::PRESENT | Pte::WRITE | Pte::ACCESSED | Pte::DIRTY;
    /// All that is looked at.
    const CHECKED: u32 =
        !(PAGE_SIZE - 1) | LINEAR | Pte::WRITE_THROUGH | Pte::SIZE;
    let differs = |(i, entry): (usize, &[u32; WORDS])| {
        let frame = pa.wrapping_add(as_word(i) * PAGE_SIZE);
        let high = entry[1..].iter().fold(0, BitOr::bitor);
        entry[0] & CHECKED ^ (frame | LINEAR) | high
    };
    let entries = || table.iter().take(pages as usize).enumerate();
    // Without a branch: a flush of everything looks at all of the kernel's
    // memory in this way.
    if entries().map(differs).fold(0, BitOr::bitor) == 0 {
        return pages;
    }
    as_word(entries().take_while(|&e| differs(e) == 0).count())
}
