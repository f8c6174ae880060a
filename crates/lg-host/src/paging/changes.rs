//! The Guest changes its tables, and says so.
//!
//! SET_PTE, SET_PMD and SET_PGD name what changed; FLUSH_TLB says that
//! something did. What is mapped is then compared with the tables
//! ([`super::compare`]). Changes for a page directory that another view maps
//! are left as a note in
//! that view's slot. It reads its notes when it gets the run token
//! ([`Host::catch_up`]).

use super::walk::{check_high_word, check_pte};
use crate::address::{GuestVirt, as_word};
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use crate::state::{Changes, MAX_CHANGES, MAX_KERNEL_CHANGES};
use core::cell::Cell;
use lg_abi::page::{
    DIRECTORY_SHIFT, Format, PAGE_SHIFT, Pte, SWITCHER_INDEX, directory_index,
};
use lg_wire::state::{MAX_VIEWS, max_views};

/// A view was not used for long if there were more hand-overs since: enough for
/// several rounds of all views.
const LONG: u64 = 4 * MAX_VIEWS as u64;

/// A view trades its directory if it maps no more pages of a program than
/// this.
const FEW: u32 = 40;

/// In a note: not one page, but the 4 MiB around it.
const WHOLE_DIRECTORY: u32 = 1;

impl Host<'_> {
    /// SET_PTE: the Guest has changed the entry for `va` in the tables of
    /// `cr3`, and has written these words. The high word counts with PAE only.
    pub(crate) fn set_pte(
        &mut self,
        cr3: u32,
        va: GuestVirt,
        [low, high]: [u32; 2],
    ) -> Result<(), Kill> {
        let pte = Pte(low);
        // As in the original, an entry that would not be mapped anyway is not
        // looked at.
        if pte.has(Pte::PRESENT) && pte.0 & (Pte::ACCESSED | Pte::DIRTY) != 0 {
            check_pte(&self.memory, pte)?;
            if self.format() == Format::Pae {
                check_high_word(pte, high)?;
            }
        }
        if va.is_switchers() {
            return if pte.has(Pte::PRESENT) {
                let eip = self.vm.regs.eip.get();
                Err(Kill::TouchedSwitcher { va: va.0, eip })
            } else {
                Ok(())
            };
        }
        if va.0 >= self.vm.page_offset.get() {
            self.note_for_everybody(va);
            return self.recheck_kernel(va, true);
        }
        if cr3 == self.shadow.cr3() {
            return self.recheck_user(va);
        }
        self.note(cr3, va.0 & !WHOLE_DIRECTORY);
        Ok(())
    }

    /// SET_PGD: the Guest has changed entry `index` of the table at `cr3`,
    /// which is a page directory or, with PAE, a pointer table. Up to Linux
    /// 2.6.30 the call is named SET_PMD.
    pub(crate) fn set_pgd(&mut self, cr3: u32, index: u32) -> Result<(), Kill> {
        if self.format() == Format::Pae {
            return self.set_pointer(cr3, index);
        }
        if index >= SWITCHER_INDEX {
            return Ok(());
        }
        let va = index << DIRECTORY_SHIFT;
        if cr3 == self.shadow.cr3() {
            return self.change_table(GuestVirt(va));
        }
        self.note(cr3, va | WHOLE_DIRECTORY);
        Ok(())
    }

    /// The Guest has changed pointer `index` of the pointer table at `cr3`: a
    /// GiB.
    fn set_pointer(&mut self, cr3: u32, index: u32) -> Result<(), Kill> {
        const PIECES: u32 = 1 << (Format::POINTER_SHIFT - DIRECTORY_SHIFT);
        if index >= Format::POINTERS {
            return Ok(());
        }
        let from = index * PIECES;
        let to = (from + PIECES).min(SWITCHER_INDEX);
        if cr3 == self.shadow.cr3() {
            return self.compare(from, to);
        }
        if let Some(slot) = self.view_of(cr3) {
            let user = to <= self.kernel_index();
            self.flush_later(
                slot,
                match user {
                    true => Changes::USER,
                    false => Changes::EVERYTHING,
                },
            );
        }
        Ok(())
    }

    /// SET_PMD, with PAE only: the Guest has changed entry `index` of the page
    /// directory at `directory`. It does not say which pointer tables name that
    /// directory: one, or all of them if it is the kernel's.
    pub(crate) fn set_pmd(
        &mut self,
        directory: u32,
        index: u32,
    ) -> Result<(), Kill> {
        if index >= Format::Pae.entries() {
            return Ok(());
        }
        let vm = self.vm;
        for (slot, view) in vm.views.iter().enumerate() {
            if view.last_use.get() == 0 || slot == self.shadow.slot() {
                continue;
            }
            for start in self.tables(view.cr3.get()).places_of(directory)? {
                let va = start.plus(index * Format::Pae.table_span());
                self.leave_note(slot, va.0 | WHOLE_DIRECTORY);
            }
        }
        for start in self.own_tables().places_of(directory)? {
            self.change_table(start.plus(index * Format::Pae.table_span()))?;
        }
        Ok(())
    }

    /// This view's directory entry for `va` has changed.
    fn change_table(&mut self, va: GuestVirt) -> Result<(), Kill> {
        let index = directory_index(va.0);
        if va.is_switchers() {
            return Ok(());
        }
        let kernel = self.kernel_index();
        // A kernel that takes one table away takes others next, and their
        // pages are gone already. One comparison unmaps all of them.
        let all = index < kernel
            && self.maps_some_of_table(va)
            && self.own_tables().table(va)?.is_none();
        if all {
            self.compare(0, kernel)
        } else {
            self.compare(index, index + 1)
        }
    }

    /// Whether anything is mapped by the page table for `va`.
    fn maps_some_of_table(&self, va: GuestVirt) -> bool {
        let format = self.format();
        if self.shadow.count(directory_index(va.0)) == 0 {
            return false;
        }
        // With two levels, the count is that of the table.
        let span = format.table_span();
        let first = va.0 / span * format.entries();
        let mut pages = first..first + format.entries();
        format == Format::TwoLevels
            || pages.any(|page| {
                let va = GuestVirt(page << PAGE_SHIFT);
                self.shadow.shadow(va).is_mapped()
            })
    }

    /// FLUSH_TLB(0): the user part of the Guest's page directory.
    pub(crate) fn flush_user(&mut self) -> Result<(), Kill> {
        let cr3 = self.vm.cr3.get();
        if cr3 == self.shadow.cr3() {
            return self.compare(0, self.kernel_index());
        }
        if let Some(slot) = self.view_of(cr3) {
            self.flush_later(slot, Changes::USER);
        }
        Ok(())
    }

    /// FLUSH_TLB(1): everything, everywhere.
    pub(crate) fn flush_everything(&mut self) -> Result<(), Kill> {
        for (slot, view) in self.vm.views.iter().enumerate() {
            if slot != self.shadow.slot() && view.last_use.get() != 0 {
                self.flush_later(slot, Changes::EVERYTHING);
            }
        }
        self.compare(0, SWITCHER_INDEX)
    }

    /// The view that the Guest's page directory is to run in; `None` if it is
    /// this one after all. Starts one, or takes one from another directory.
    pub(crate) fn choose_view(&mut self) -> Result<Option<usize>, Kill> {
        let cr3 = self.vm.cr3.get();
        let uses = self.vm.uses.get() + 1;
        self.vm.uses.set(uses);
        let slot = match self.view_of(cr3) {
            Some(slot) if self.trades(slot, cr3) => self.shadow.slot(),
            Some(slot) => slot,
            None => self.find_room()?,
        };
        let view = &self.vm.views[slot];
        if view.cr3.get() != cr3 || view.last_use.get() == 0 {
            view.cr3.set(cr3);
            // Its notes stay: those of the kernel's tables still count.
            let flush = view.flush.get() | Changes::OTHER_DIRECTORY;
            view.flush.set(flush);
        }
        view.last_use.set(uses);
        Ok((slot != self.shadow.slot()).then_some(slot))
    }

    /// The Guest goes from the page directory of this view to the one at `cr3`,
    /// which has the view in `slot`. If that is a program that a process begins
    /// with (exec), its first pages are all that it has, and the program that
    /// the process has run so far is about to go. So the new one goes on here,
    /// and the other view gets the old one: one hand-over less. Answers whether
    /// that is so.
    ///
    /// Where the old program does not go (vfork), its pages are mapped again
    /// when it runs. So a view that maps many pages does not trade.
    fn trades(&self, slot: usize, cr3: u32) -> bool {
        let vm = self.vm;
        // A switch to another process is one to another kernel stack, too.
        if vm.esp1.get() != self.shadow.kernel_stack()
            || slot == self.shadow.slot()
            || vm.slow_paths.get() & fast_path::TRADE != 0
            || self.shadow.has_user_process()
            || self.shadow.mapped_below(self.kernel_index()) > FEW
            || !self.tables(cr3).are_new(self.kernel_index())
        {
            return false;
        }
        let other = &vm.views[slot];
        other.cr3.set(self.shadow.cr3());
        other
            .flush
            .set(other.flush.get() | Changes::OTHER_DIRECTORY);
        vm.counters.trades.count();
        true
    }

    /// This view has the run token again, or for the first time: looks at what
    /// the others have changed meanwhile.
    ///
    /// # Errors
    ///
    /// A [`Kill`] for tables with impossible entries.
    pub fn catch_up(&mut self) -> Result<(), Kill> {
        self.shadow.set_behind(true);
        let caught_up = self.follow_others();
        self.shadow.set_behind(false);
        self.shadow.set_kernel_stack(self.vm.esp1.get());
        caught_up
    }

    fn follow_others(&mut self) -> Result<(), Kill> {
        let vm = self.vm;
        let slot = &vm.views[self.shadow.slot()];
        let flush = slot.flush.replace(0);
        let notes = slot.change_count.replace(0).min(as_word(MAX_CHANGES));
        let notes = &vm.notes[self.shadow.slot()][..notes as usize];
        if self.shadow.cr3() != slot.cr3.get()
            || flush & Changes::OTHER_DIRECTORY != 0
        {
            let before = self.shadow.cr3();
            self.shadow.set_cr3(slot.cr3.get());
            self.change_user()?;
            self.compare_other_kernel_tables(before)?;
        } else if flush & Changes::USER != 0 {
            self.compare(0, self.kernel_index())?;
        }
        if flush & Changes::EVERYTHING == 0 {
            for note in notes.iter().map(Cell::get) {
                if flush == 0 || self.is_kernels(note) {
                    vm.counters.caught_up.count();
                    self.follow(note)?;
                }
            }
        } else {
            self.compare(0, SWITCHER_INDEX)?;
            self.shadow.set_kernel_seen(vm.kernel_change_count.get());
        }
        self.catch_up_kernel()
    }

    fn catch_up_kernel(&mut self) -> Result<(), Kill> {
        let vm = self.vm;
        let count = vm.kernel_change_count.get();
        let missed = count.wrapping_sub(self.shadow.kernel_seen());
        if missed > MAX_KERNEL_CHANGES {
            self.compare(self.kernel_index(), SWITCHER_INDEX)?;
        } else {
            for n in 0..missed {
                let n = self.shadow.kernel_seen().wrapping_add(n);
                let at = n % MAX_KERNEL_CHANGES;
                let va = GuestVirt(vm.kernel_changes[at as usize].get());
                self.recheck_kernel(va, false)?;
            }
        }
        self.shadow.set_kernel_seen(count);
        Ok(())
    }

    fn follow(&mut self, note: u32) -> Result<(), Kill> {
        if note & WHOLE_DIRECTORY != 0 {
            let index = directory_index(note).min(SWITCHER_INDEX - 1);
            return self.compare(index, index + 1);
        }
        self.recheck_user(GuestVirt(note))
    }

    /// Leaves a note for the view that maps `cr3`, if there is one.
    fn note(&mut self, cr3: u32, note: u32) {
        if let Some(slot) = self.view_of(cr3) {
            self.leave_note(slot, note);
        }
    }

    /// Leaves a note for the view in `slot`.
    fn leave_note(&self, slot: usize, note: u32) {
        let view = &self.vm.views[slot];
        let count = view.change_count.get();
        if let Some(free) = self.vm.notes[slot].get(count as usize) {
            free.set(note);
            view.change_count.set(count + 1);
        } else if self.is_kernels(note) {
            self.flush_later(slot, Changes::EVERYTHING);
        } else {
            // Too many to tell one by one.
            self.flush_later(slot, Changes::USER);
        }
    }

    /// Whether a note is of the kernel's part, which a comparison of the user
    /// part does not cover.
    fn is_kernels(&self, note: u32) -> bool {
        directory_index(note) >= self.kernel_index()
    }

    /// Leaves a larger change, of [`Changes`], for the view in `slot`.
    fn flush_later(&self, slot: usize, change: u32) {
        let flush = &self.vm.views[slot].flush;
        flush.set(flush.get() | change);
    }

    fn note_for_everybody(&mut self, va: GuestVirt) {
        let count = self.vm.kernel_change_count.get();
        let at = (count % MAX_KERNEL_CHANGES) as usize;
        self.vm.kernel_changes[at].set(va.0);
        self.vm.kernel_change_count.set(count.wrapping_add(1));
        // This view looks at once, unless it has older changes to look at.
        if self.shadow.kernel_seen() == count {
            self.shadow.set_kernel_seen(count.wrapping_add(1));
        }
    }

    /// The slot of the view that maps `cr3`.
    pub(crate) fn view_of(&self, cr3: u32) -> Option<usize> {
        self.vm
            .views
            .iter()
            .position(|view| view.last_use.get() != 0 && view.cr3.get() == cr3)
    }

    /// A slot for a page directory that has none.
    fn find_room(&mut self) -> Result<usize, Kill> {
        let unused = (0..max_views(self.vm.limit.get()))
            .find(|&slot| self.vm.views[slot].last_use.get() == 0);
        if let Some(slot) = unused
            && self.world.start_view(slot).is_ok()
        {
            return Ok(slot);
        }
        self.vm.counters.views_reused.count();
        // If the machine gives us no second process, there is still this one.
        Ok(self.dispensable().unwrap_or(self.shadow.slot()))
    }

    /// The slot of a view, not this one, that may get another directory: one
    /// that was not used for long, or else any. If all of them are used in
    /// turn, the oldest is the one that is needed next.
    fn dispensable(&self) -> Option<usize> {
        let vm = self.vm;
        let others = || {
            let last_uses = vm.views.iter().map(|view| view.last_use.get());
            let used = last_uses.enumerate().filter(|&(_, last)| last != 0);
            used.filter(|&(slot, _)| slot != self.shadow.slot())
        };
        let (oldest, last_use) = others().min_by_key(|&(_, last)| last)?;
        let uses = vm.uses.get();
        if uses - last_use.min(uses) > LONG {
            return Some(oldest);
        }
        let nth = mixed(uses) as usize % others().count();
        others().nth(nth).map(|(slot, _)| slot)
    }
}

/// A number that looks random and depends on `n` alone.
const fn mixed(n: u64) -> u32 {
    let n = (n ^ n >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ n >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (n >> 32) as u32
}
