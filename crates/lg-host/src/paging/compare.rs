//! Comparing what is mapped with what the Guest's tables say now.
//!
//! Only the difference is touched: most flushes change next to nothing.

use super::pte::ShadowPte;
use super::record::UNKNOWN;
use super::walk::Tables;
use crate::address::GuestVirt;
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use lg_abi::page::{
    ENTRIES, Format, PAGE_SHIFT, SWITCHER_INDEX, directory_index,
};

impl Host<'_> {
    /// Compares one page above PAGE_OFFSET, which may be part of a linear
    /// piece, and which the tables may give to user code as well.
    pub(super) fn recheck_kernel(
        &mut self,
        va: GuestVirt,
        eager: bool,
    ) -> Result<(), Kill> {
        self.in_user_process(|host| host.recheck_page(va, eager))
            .unwrap_or(Ok(()))?;
        let index = directory_index(va.0).min(SWITCHER_INDEX - 1);
        if self.shadow.linear_pages(index) > va.page_number() % ENTRIES {
            return match self.is_still_linear(va)? {
                true => Ok(()),
                false => self.break_linear(index),
            };
        }
        self.recheck_page(va, eager)
    }

    /// Compares one page with the tables. `eager`: map it if it is to be
    /// mapped, rather than wait for the fault.
    pub(crate) fn recheck_page(
        &mut self,
        va: GuestVirt,
        eager: bool,
    ) -> Result<(), Kill> {
        let shadow = self.shadow.shadow(va);
        let wanted = self
            .own_tables()
            .walk(va)?
            .map_or(ShadowPte::NONE, |entry| self.shadow.wanted(entry.pte));
        let wanted = self.or_copy(va, wanted, false);
        if shadow == wanted {
            return Ok(());
        }
        let eager = eager && self.vm.slow_paths.get() & fast_path::EAGER == 0;
        if wanted.is_mapped() && eager {
            self.vm.counters.eager_maps.count();
            self.map_page(va, wanted)?;
            return Ok(());
        }
        self.unmap_page(va)
    }

    /// Compares everything that is mapped between two directory indices with
    /// the tables, and touches only what differs.
    pub(crate) fn compare(&mut self, from: u32, to: u32) -> Result<(), Kill> {
        self.compare_and(Others::Mapped, from, to)
    }

    /// The same. `others` says what happens where the tables want another page
    /// than is there.
    pub(super) fn compare_and(
        &mut self,
        others: Others,
        from: u32,
        to: u32,
    ) -> Result<(), Kill> {
        let mut next = from.max(self.kernel_index());
        while let Some(index) = self.shadow.next_piece(next, to) {
            next = index + 1;
            self.note_tables(index);
        }
        self.in_user_process(|host| host.compare_here(others, from, to))
            .unwrap_or(Ok(()))?;
        self.compare_here(others, from, to)
    }

    /// Piece `index` is about to be compared: puts on record with which tables.
    fn note_tables(&mut self, index: u32) {
        let used = self.shadow.count(index) | self.shadow.linear_pages(index);
        let tables = match used {
            0 => UNKNOWN,
            _ => self.own_tables().words(index).unwrap_or(UNKNOWN),
        };
        self.shadow.set_tables_of(index, tables);
    }

    /// Compares the kernel's part with the tables of another directory than the
    /// one at `before`. Most kernels share these tables among all directories.
    /// Pieces that have the same tables as before need no comparison: changes
    /// in them are noted for every view.
    pub(super) fn compare_other_kernel_tables(
        &mut self,
        before: u32,
    ) -> Result<(), Kill> {
        let mut from = self.kernel_index();
        let mut next = from;
        while let Some(index) = self.shadow.next_piece(next, SWITCHER_INDEX) {
            next = index + 1;
            let compared = self.shadow.tables_of(index);
            let has =
                |tables: Tables<'_>| tables.words(index) == Some(compared);
            // The other directory may have got tables or rights since, of which
            // the Guest need not tell.
            if compared != UNKNOWN
                && has(self.tables(before))
                && has(self.own_tables())
            {
                if from < index {
                    self.compare(from, index)?;
                }
                from = index + 1;
            }
        }
        self.compare(from, SWITCHER_INDEX)
    }

    /// Compares in the address space that is being worked on.
    fn compare_here(
        &mut self,
        others: Others,
        from: u32,
        to: u32,
    ) -> Result<(), Kill> {
        let mut gone = Gone::default();
        let mut next = from;
        while let Some(index) = self.shadow.next_piece(next, to) {
            next = index + 1;
            let linear = self.shadow.linear_pages(index);
            if linear != 0 {
                self.unmap_gone(&mut gone)?;
                if self.linear_pages(index)? != linear {
                    self.break_linear(index)?;
                }
            }
            if self.shadow.count(index) != 0 {
                self.compare_piece(others, index, &mut gone)?;
            }
            if self.shadow.hides_some(index) {
                self.unmap_gone(&mut gone)?;
            }
        }
        self.unmap_gone(&mut gone)
    }

    fn compare_piece(
        &mut self,
        others: Others,
        index: u32,
        gone: &mut Gone,
    ) -> Result<(), Kill> {
        match self.format() {
            Format::TwoLevels => {
                self.compare_piece_as(Format::TwoLevels, others, index, gone)
            }
            Format::Pae => self.compare_piece_pae(others, index, gone),
        }
    }

    #[inline(never)]
    fn compare_piece_pae(
        &mut self,
        others: Others,
        index: u32,
        gone: &mut Gone,
    ) -> Result<(), Kill> {
        self.compare_piece_as(Format::Pae, others, index, gone)
    }

    #[inline(always)]
    fn compare_piece_as(
        &mut self,
        format: Format,
        others: Others,
        index: u32,
        gone: &mut Gone,
    ) -> Result<(), Kill> {
        self.vm.counters.comparisons.count();
        let piece = self.own_tables().piece(index)?;
        let mut left = self.shadow.count(index);
        let mut from = index * ENTRIES;
        let end = from + ENTRIES;
        while let Some(page) = self.shadow.next_used(from, end) {
            from = page + 1;
            let va = GuestVirt(page << PAGE_SHIFT);
            let shadow = self.shadow.shadow(va);
            if shadow.is_hidden() && !gone.hide {
                self.unmap_gone(gone)?;
            }
            if !shadow.is_mapped() {
                continue;
            }
            let pte = piece.entry(&self.memory, format, va)?;
            let wanted = self.or_copy(va, self.shadow.wanted(pte), false);
            if wanted == shadow {
                self.vm.counters.kept.count();
                self.unmap_gone(gone)?;
            } else {
                self.vm.counters.dropped.count();
                self.replace(va, wanted, others, gone)?;
            }
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Maps what is wanted at `va` instead of what is there, or adds the page
    /// to those that go.
    fn replace(
        &mut self,
        va: GuestVirt,
        wanted: ShadowPte,
        others: Others,
        gone: &mut Gone,
    ) -> Result<(), Kill> {
        let shadow = self.shadow.shadow(va);
        let same_page = wanted.frame() == shadow.frame();
        if wanted.is_mapped() && (same_page || others == Others::Mapped) {
            self.unmap_gone(gone)?;
            self.map_page(va, wanted)?;
            return Ok(());
        }
        let hide = !wanted.is_mapped() && self.is_to_hide(va, shadow);
        if !gone.takes(va.page_number(), hide) {
            self.unmap_gone(gone)?;
            if !self.shadow.shadow(va).is_mapped() {
                // Where there was no room to unmap these, everything went, and
                // this page with it.
                return Ok(());
            }
        }
        gone.add(va.page_number(), hide);
        Ok(())
    }

    fn unmap_gone(&mut self, gone: &mut Gone) -> Result<(), Kill> {
        let Gone { first, pages, hide } = core::mem::take(gone);
        if pages == 0 || hide && self.hide(first, first + pages) {
            return Ok(());
        }
        self.unmap(GuestVirt(first << PAGE_SHIFT), pages)?;
        self.shadow.forget(first, first + pages);
        Ok(())
    }
}

/// What happens where another page is to be mapped than is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// It is mapped.
    Mapped,
    /// It is mapped when it is used.
    Awaited,
}

/// A stretch of pages that one call takes away. If they are to be unmapped,
/// nothing lies between them that is mapped and stays; if they are to be
/// hidden, nothing lies between them.
#[derive(Clone, Copy, Default)]
struct Gone {
    first: u32,
    pages: u32,
    hide: bool,
}

impl Gone {
    /// Whether `page`, which is behind the others, can go with them.
    fn takes(self, page: u32, hide: bool) -> bool {
        let next = self.first + self.pages == page;
        self.pages == 0 || self.hide == hide && (next || !hide)
    }

    /// One more, which it [takes](Self::takes).
    fn add(&mut self, page: u32, hide: bool) {
        if self.pages == 0 {
            (self.first, self.hide) = (page, hide);
        }
        self.pages = page + 1 - self.first;
    }
}
