//! Patched copies of user pages, in which `int $0x80` costs a third.
//!
//! `int $0x80` is the slowest of all traps, because the machine's kernel has to
//! find out whether a device meant it. Programs that do not use the entry page
//! are full of it, in pages that belong to files. A reader of the file must see
//! what is in it, so such a page cannot be patched in place. Therefore the page
//! gets a *patched copy*, a copy outside of the Guest's memory, in which the
//! first byte of each `int $0x80` that was executed is an `int3`. The patched
//! copy is mapped wherever user code has the page read-only. The second byte
//! stays, so a jump there means what it meant. A site is patched only if no
//! reading of the code around it finds an instruction that covers it
//! ([`is_read_alike`]).
//!
//! A patched copy must never be older than its page. Every way in which a page
//! changes is covered ([`writers`]): no view has a writable mapping of a page
//! that has a patched copy, a write by this Host ends the patched copy, and
//! after the Launcher has written to a page, its patched copy is compared with
//! it.
//!
//! A system call that is made often may become a jump:
//! [`direct`](super::direct).
//!
//! Two differences remain visible. A program that reads its own code sees the
//! `int3`, because on this processor executable pages are readable. A program
//! that jumps by pointer into the middle of an instruction, and executes from
//! there an instruction that covers a patched `int $0x80`, gets the patched
//! byte. `--no-fast-path=int80` is for these programs.

mod writers;

use super::jumps::is_read_alike;
use super::ledger::table::{PatchKind, Place};
use super::limits::MAX_UNPATCHED;
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use crate::paging::ShadowPte;
use crate::state::Changes;
use crate::world::Access;
use core::cell::Cell;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_wire::state::{MAX_COPIES, page_bit};

/// `int $0x80`, the slowest trap.
pub(super) const INT80: [u8; 2] = [0xCD, 0x80];

/// `int3`, which replaces its first byte.
pub(super) const INT3: u8 = 0xCC;

/// Bytes that are compared at a time.
const PIECE: u32 = 512;

impl Host<'_> {
    /// A system call has trapped; eip is behind its `int $0x80`. If that lies
    /// in a page that user code has read-only, the page gets a patched copy, or
    /// its patched copy gets one more `int3`. User processes have no patched
    /// copies, because all programs would execute what user code could write
    /// there.
    // Inlined, its copy of a page would be in the frame of every entry.
    #[inline(never)]
    pub(crate) fn make_patched_copy(&mut self) -> Result<(), Kill> {
        if self.vm.slow_paths.get() & fast_path::INT80 != 0
            || !self.vm.in_user_mode()
            || self.shadow.has_user_process()
        {
            return Ok(());
        }
        let site = GuestVirt(self.vm.regs.eip.get().wrapping_sub(2));
        let shadow = self.shadow.shadow(site);
        if site.0 >= self.vm.page_offset.get()
            || !shadow.is_mapped()
            || shadow.access() == Access::Write
        {
            return Ok(());
        }
        let number = self.number(shadow.frame());
        let frame = match number {
            Some(number) => self.original(number),
            None => Some(shadow.frame()),
        };
        let Some(frame) = frame else {
            return Ok(());
        };
        if !self.may_patch(frame, site.page_offset())? {
            return Ok(());
        }
        let number = match number {
            Some(number) => number,
            None => self.copy_for(frame)?,
        };
        let place = Place::Copy(number, site.page_offset());
        let at = copy(number).plus(site.page_offset());
        let is_new = self.copies.byte(at)? == INT80[0];
        if is_new && !self.write_int3(place, site) {
            // The page has more sites than there is room for.
            let place = frame.plus(site.page_offset());
            self.vm.patches.unpatched[slot_of(place)].set(place.0);
        }
        self.recheck_page(site, true)
    }

    /// Puts an `int3` at `place` in a patched copy. Answers whether it could.
    pub(super) fn write_int3(&self, place: Place, site: GuestVirt) -> bool {
        let room = self.room_for(PatchKind::Int3, place, site, 1);
        let could = room.is_some();
        if let Some(room) = room {
            self.write_patch(room, &[INT3]);
        }
        could
    }

    /// The patched copy of the page at `frame`. Another program may have caused
    /// it.
    fn copy_for(&mut self, frame: GuestPhys) -> Result<usize, Kill> {
        match self.copy_of(frame) {
            Some(number) if self.is_true(number) => Ok(number),
            stale => {
                if let Some(number) = stale {
                    self.forget_copy(number)?;
                }
                self.make_copy(frame)
            }
        }
    }

    /// Whether `int $0x80` stands at `at` in the page at `frame`, and may
    /// become an `int3` in its patched copy.
    fn may_patch(&self, frame: GuestPhys, at: u32) -> Result<bool, Kill> {
        let place = frame.plus(at);
        let refused = &self.vm.patches.unpatched[slot_of(place)];
        if refused.get() == place.0 || !self.may_have_copy(frame) {
            return Ok(false);
        }
        let mut page = [0; PAGE_SIZE as usize];
        self.memory.read(frame, &mut page)?;
        let at = at as usize;
        let may = page[at..].starts_with(&INT80) && is_read_alike(&page, at);
        if !may {
            refused.set(place.0);
        }
        Ok(may)
    }

    /// An `int3` has trapped; eip is behind it. Whether it was a patched
    /// copy's, and the Guest's system call has been taken care of.
    pub(crate) fn is_copys_call(&mut self) -> Result<bool, Kill> {
        let eip = self.vm.regs.eip.get();
        let site = GuestVirt(eip.wrapping_sub(1));
        let Some(number) = self.number(self.shadow.shadow(site).frame()) else {
            return Ok(false);
        };
        let mut code = [0; INT80.len()];
        if let Some(page) = self.original(number) {
            let at = page.plus(site.page_offset());
            if self.memory.read(at, &mut code).is_err() {
                return Ok(false);
            }
        }
        if code[0] == INT3 {
            return Ok(false);
        }
        if code == INT80 {
            self.vm.counters.copy_calls.count();
            self.open_direct_call(number, site);
            self.vm.regs.eip.set(eip.wrapping_add(1));
            self.system_call()?;
        } else {
            // The page has changed.
            self.forget_copy(number)?;
            self.vm.regs.eip.set(site.0);
        }
        Ok(true)
    }

    /// What should be mapped at `va` where the Guest's entry would have
    /// `wanted`: the page, or its patched copy. A page that has a patched copy
    /// is mapped writable only when a write to it (`writes`) has faulted.
    pub(crate) fn or_copy(
        &self,
        va: GuestVirt,
        wanted: ShadowPte,
        writes: bool,
    ) -> ShadowPte {
        if !wanted.is_mapped() {
            return wanted;
        }
        let Some(number) = self.copy_of(wanted.frame()) else {
            return wanted;
        };
        if wanted.access() == Access::Write {
            return if writes { wanted } else { wanted.read_only() };
        }
        if va.0 >= self.vm.page_offset.get() {
            return wanted;
        }
        let copy = wanted.at(self.annex(number));
        let mapped = self.shadow.shadow(va) == copy;
        if mapped && !self.shadow.is_behind() || self.is_true(number) {
            self.note_place(number, va);
            copy
        } else {
            wanted
        }
    }

    /// The patched copy of the page at `frame`.
    pub(crate) fn copy_of(&self, frame: GuestPhys) -> Option<usize> {
        if self.vm.patches.copy_filter.get() & page_bit(frame.0) == 0
            || frame.0 == 0
        {
            return None;
        }
        self.vm
            .patches
            .copies
            .iter()
            .position(|copy| copy.get() == frame.0)
    }

    /// The page of a patched copy is about to be written to, or has been: the
    /// patched copy is mapped nowhere any more before user code runs again.
    pub(crate) fn forget_copy(&mut self, number: usize) -> Result<(), Kill> {
        self.note_end(number);
        self.set_copy(number, 0);
        self.vm.ledger.forget_copy(number);
        self.forget_direct_calls(number);
        self.vm.counters.copies_forgotten.count();
        for (slot, view) in self.vm.views.iter().enumerate() {
            if slot != self.shadow.slot() && view.last_use.get() != 0 {
                view.flush.set(view.flush.get() | Changes::USER);
            }
        }
        self.compare(0, self.kernel_index())
    }

    /// Puts on record that patched copy `number` is the one of the page at
    /// `frame`, or of none.
    fn set_copy(&self, number: usize, frame: u32) {
        self.vm.patches.copies[number].set(frame);
        let patches = &self.vm.patches;
        let live = patches.copies.iter().map(Cell::get).filter(|&f| f != 0);
        let filter = live.fold(0, |all, f| all | page_bit(f));
        patches.copy_filter.set(filter);
        let stale = patches.stale_copies.get() & !(1 << number);
        patches.stale_copies.set(stale);
    }

    /// Copies the page at `frame`. Where there is no room, the oldest patched
    /// copy goes. Answers its number. Before the Guest runs again,
    /// [`settle_copies`](Self::settle_copies) takes from it the right to write.
    fn make_copy(&mut self, frame: GuestPhys) -> Result<usize, Kill> {
        let count = self.vm.patches.copy_count.get();
        let number = count as usize % MAX_COPIES;
        if self.vm.patches.copies[number].get() != 0 {
            self.forget_copy(number)?;
        }
        self.vm.patches.copy_count.set(count.wrapping_add(1).max(1));
        let mut page = [0; PAGE_SIZE as usize];
        self.memory.read(frame, &mut page)?;
        self.copies.write(copy(number), &page)?;
        self.set_copy(number, frame.0);
        self.vm.patches.copy_places[number].set(0);
        self.note_beginning(number);
        Ok(number)
    }

    /// Whether a patched copy still is its page, but for the patches in it.
    /// Only pieces with a patch are read twice.
    fn is_true(&self, number: usize) -> bool {
        let Some(frame) = self.original(number) else {
            return false;
        };
        (0..PAGE_SIZE).step_by(PIECE as usize).all(|at| {
            let (page, place) = (frame.plus(at), copy(number).plus(at));
            let same = self.memory.is_same(page, &self.copies, place, PIECE);
            same == Ok(true) || self.is_same_unpatched(page, number, at)
        })
    }

    /// Whether the piece of the Guest's memory at `page` is what the piece at
    /// `at` of patched copy `number` was before it was patched.
    fn is_same_unpatched(
        &self,
        page: GuestPhys,
        number: usize,
        at: u32,
    ) -> bool {
        let mut pieces = [[0; PIECE as usize]; 2];
        let [original, copied] = &mut pieces;
        if self.memory.read(page, original).is_err()
            || self.copies.read(copy(number).plus(at), copied).is_err()
        {
            return false;
        }
        self.vm.ledger.undo(Place::Copy(number, at), copied);
        original == copied
    }

    /// Where the page is whose patched copy that is.
    fn original(&self, number: usize) -> Option<GuestPhys> {
        let frame = self.vm.patches.copies[number].get();
        (frame != 0).then_some(GuestPhys(frame))
    }

    /// Where a mapper finds the patched copy: behind all of the Guest's memory.
    fn annex(&self, number: usize) -> GuestPhys {
        GuestPhys(self.memory.limit()).plus(copy(number).0)
    }

    /// The patched copy that lies there.
    pub(crate) fn number(&self, frame: GuestPhys) -> Option<usize> {
        let at = frame.0.checked_sub(self.memory.limit())?;
        let number = (at >> PAGE_SHIFT) as usize;
        (number < MAX_COPIES).then_some(number)
    }
}

/// Where in [`Patches::unpatched`](super::tables::Patches) the site at `place`
/// is remembered.
const fn slot_of(place: GuestPhys) -> usize {
    (place.0 ^ place.0 >> PAGE_SHIFT) as usize % MAX_UNPATCHED
}

/// Where a patched copy is among the patched copies.
pub(super) const fn copy(number: usize) -> GuestPhys {
    GuestPhys(as_word(number) << PAGE_SHIFT)
}

#[cfg(test)]
pub(super) mod tests;

#[cfg(test)]
mod oracle;
