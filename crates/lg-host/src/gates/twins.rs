//! Twins: pages of user code in which `int $0x80` costs a third.
//!
//! `int $0x80` is the dearest of all traps, for the machine's kernel has to
//! find out whether a device meant it. Programs that do not use the entry page
//! are full of it, in pages that belong to files: whoever reads the file must
//! see what is in it, so it cannot be patched where it lies. Therefore the page
//! gets a *twin*, a copy outside of the Guest's memory, in which the first byte
//! of each `int $0x80` that was met is an `int3`; and that is what is mapped
//! wherever user code has the page read-only. The second byte stays, so a jump
//! there means what it meant.
//!
//! A twin must never be older than its page. Where the page is mapped for
//! writing it has none; the kernel's own mapping of it is made read-only, so
//! that its next write comes to us; and because a disk writes without asking,
//! both are compared whenever the twin is about to be mapped, or may have been
//! mapped for longer than the Guest's tables said so.
//!
//! A system call that is made often may become a jump: [`direct`](super::direct).
//!
//! What is left: a program that reads its own code sees the `int3`, for on this
//! processor what can be executed can be read. That is what
//! `--no-fast-path=int80` is for.

use super::path;
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::kill::Kill;
use crate::paging::ShadowPte;
use crate::run::Host;
use crate::state::Changes;
use crate::world::Access;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};

/// How many pages can have a twin at the same time.
pub const MAX_TWINS: usize = 32;

/// `int $0x80`, the trap that is too dear.
pub(super) const INT80: [u8; 2] = [0xCD, 0x80];

/// `int3`, which stands for its first byte.
pub(super) const INT3: u8 = 0xCC;

/// Bytes that are compared at a time.
const PIECE: u32 = 512;

impl Host<'_> {
    /// A system call has trapped; eip is behind its `int $0x80`. If that lies
    /// in a page that user code has read-only, the page gets a twin, or the
    /// twin that it has gets one more `int3`. Cells have no twins: what user
    /// code could write there, the programs of others would carry out.
    pub(crate) fn open_twin(&mut self) -> Result<(), Kill> {
        if self.vm.slow_paths.get() & path::INT80 != 0
            || !self.vm.in_user_mode()
            || self.view.has_cell()
        {
            return Ok(());
        }
        let site = GuestVirt(self.vm.regs.eip.get().wrapping_sub(2));
        let shadow = self.view.shadow(site);
        let in_page = site.page_offset() as usize;
        if site.0 >= self.vm.page_offset.get()
            || in_page > PAGE_SIZE as usize - INT80.len()
            || !shadow.is_mapped()
            || shadow.access() == Access::Write
        {
            return Ok(());
        }
        let number = match self.number(shadow.frame()) {
            Some(number) => number,
            None => {
                // Another program may have given the page its twin.
                match self.twin_of(shadow.frame()) {
                    Some(number) if self.is_true(number) => number,
                    stale => {
                        if let Some(number) = stale {
                            self.forget_twin(number)?;
                        }
                        self.make_twin(shadow.frame())?
                    }
                }
            }
        };
        let Some(page) = self.original(number) else {
            return Ok(());
        };
        let mut code = [0; INT80.len()];
        self.memory.read(page.plus(site.page_offset()), &mut code)?;
        let at = twin(number).plus(site.page_offset());
        if code == INT80 && self.twins.byte(at)? == INT80[0] {
            self.twins.write(at, &[INT3])?;
            self.vm.counters.patches.count();
        }
        self.recheck_page(site, true)
    }

    /// An `int3` has trapped; eip is behind it. Whether it was a twin's, and
    /// the Guest's system call has been taken care of.
    pub(crate) fn is_twins_call(&mut self) -> Result<bool, Kill> {
        let eip = self.vm.regs.eip.get();
        let site = GuestVirt(eip.wrapping_sub(1));
        if !self.vm.in_user_mode() {
            return Ok(false);
        }
        let Some(number) = self.number(self.view.shadow(site).frame()) else {
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
            self.vm.counters.twin_calls.count();
            self.open_direct_call(number, site);
            self.vm.regs.eip.set(eip.wrapping_add(1));
            self.system_call()?;
        } else {
            // Somebody has changed the page behind our back.
            self.forget_twin(number)?;
            self.vm.regs.eip.set(site.0);
        }
        Ok(true)
    }

    /// What should be mapped at `va` where the Guest's entry would have
    /// `wanted`: the page, or its twin.
    pub(crate) fn or_twin(
        &self,
        va: GuestVirt,
        wanted: ShadowPte,
    ) -> ShadowPte {
        if self.vm.twin_count.get() == 0
            || va.0 >= self.vm.page_offset.get()
            || !wanted.is_mapped()
            || wanted.access() == Access::Write
        {
            return wanted;
        }
        let Some(number) = self.twin_of(wanted.frame()) else {
            return wanted;
        };
        let twin = wanted.at(self.annex(number));
        let mapped = self.view.shadow(va) == twin;
        if mapped && !self.view.is_behind() || self.is_true(number) {
            self.note_place(number, va);
            twin
        } else {
            wanted
        }
    }

    /// The twin of the page at `frame`.
    pub(crate) fn twin_of(&self, frame: GuestPhys) -> Option<usize> {
        if self.vm.twin_count.get() == 0 || frame.0 == 0 {
            return None;
        }
        self.vm.twins.iter().position(|twin| twin.get() == frame.0)
    }

    /// The page of a twin is about to be written to, or has been: the twin is
    /// mapped nowhere any more before user code runs again.
    pub(crate) fn forget_twin(&mut self, number: usize) -> Result<(), Kill> {
        self.vm.twins[number].set(0);
        self.forget_direct_calls(number);
        self.vm.counters.twins_forgotten.count();
        for (slot, view) in self.vm.views.iter().enumerate() {
            if slot != self.view.slot() && view.last_use.get() != 0 {
                view.flush.set(view.flush.get() | Changes::USER);
            }
        }
        self.compare(0, self.kernel_index())
    }

    /// The pages that have twins and lie in `from .. from + pages`, for whoever
    /// has just mapped them for the kernel to write.
    pub(crate) fn protect_twins_pages(
        &mut self,
        from: GuestPhys,
        pages: u32,
    ) -> Result<(), Kill> {
        if self.vm.twin_count.get() == 0 {
            return Ok(());
        }
        for number in 0..MAX_TWINS {
            let frame = self.vm.twins[number].get();
            let page = frame.wrapping_sub(from.0) >> PAGE_SHIFT;
            if frame != 0 && page < pages {
                let va = frame.wrapping_add(self.vm.page_offset.get());
                self.map_kernel_page(GuestVirt(va), Access::Read)?;
            }
        }
        Ok(())
    }

    /// Copies the page at `frame`; the twin that was made first goes where
    /// there is no room. Answers its number.
    fn make_twin(&mut self, frame: GuestPhys) -> Result<usize, Kill> {
        let count = self.vm.twin_count.get();
        let number = count as usize % MAX_TWINS;
        self.vm.twin_count.set(count.wrapping_add(1).max(1));
        if self.vm.twins[number].get() != 0 {
            self.forget_twin(number)?;
        }
        let mut page = [0; PAGE_SIZE as usize];
        self.memory.read(frame, &mut page)?;
        self.twins.write(twin(number), &page)?;
        self.vm.twins[number].set(frame.0);
        self.vm.twin_places[number].set(0);
        let kernels = frame.0.wrapping_add(self.vm.page_offset.get());
        self.note_for_everybody(GuestVirt(kernels));
        self.recheck_kernel(GuestVirt(kernels), false)?;
        Ok(number)
    }

    /// Whether a twin still is its page, but for what was done to it. Piece by
    /// piece, for only those with an `int3` in them take a closer look.
    fn is_true(&self, number: usize) -> bool {
        let Some(frame) = self.original(number) else {
            return false;
        };
        (0..PAGE_SIZE / PIECE).all(|n| {
            let (page, copy) = (frame.plus(n * PIECE), twin(number));
            let copy = copy.plus(n * PIECE);
            let same = self.memory.is_same(page, &self.twins, copy, PIECE / 8);
            same == Ok(true) || self.differs_rightly(number, page, copy)
        })
    }

    /// Whether a piece of a twin differs from the piece of its page by nothing
    /// but traps in the place of other traps, and direct calls.
    fn differs_rightly(
        &self,
        number: usize,
        page: GuestPhys,
        copy: GuestPhys,
    ) -> bool {
        let mut pieces = [[0; PIECE as usize]; 2];
        let [original, copied] = &mut pieces;
        if self.memory.read(page, original).is_err()
            || self.twins.read(copy, copied).is_err()
        {
            return false;
        }
        let mut second = [0];
        let mut is_int80 = |at: usize| {
            // Its second byte may lie behind the piece.
            let next = page.plus(as_word(at) + 1);
            original[at] == INT80[0]
                && self.memory.read(next, &mut second).is_ok()
                && second[0] == INT80[1]
        };
        (0..PIECE as usize).all(|at| {
            let in_page = (copy.0 + as_word(at)) % PAGE_SIZE;
            original[at] == copied[at]
                || copied[at] == INT3 && is_int80(at)
                || self.is_direct(number, in_page, original[at])
        })
    }

    /// Where the page is whose twin that is.
    fn original(&self, number: usize) -> Option<GuestPhys> {
        let frame = self.vm.twins[number].get();
        (frame != 0).then_some(GuestPhys(frame))
    }

    /// Where the twin is for whoever maps: behind all of the Guest's memory.
    fn annex(&self, number: usize) -> GuestPhys {
        GuestPhys(self.memory.limit()).plus(twin(number).0)
    }

    /// The twin that lies there.
    pub(super) fn number(&self, frame: GuestPhys) -> Option<usize> {
        let at = frame.0.checked_sub(self.memory.limit())?;
        let number = (at >> PAGE_SHIFT) as usize;
        (number < MAX_TWINS).then_some(number)
    }
}

/// Where a twin is among the twins.
pub(super) const fn twin(number: usize) -> GuestPhys {
    GuestPhys(as_word(number) << PAGE_SHIFT)
}

#[cfg(test)]
pub(super) mod tests;
