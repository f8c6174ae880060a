//! Mapping and unmapping, and what follows where there is no room.
//!
//! Every change of what is mapped is made here, and is put on record here.

use super::pte::ShadowPte;
use crate::address::{GuestPhys, GuestVirt};
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use crate::world::{Access, MapError};
use lg_abi::page::{
    DIRECTORY_SHIFT, ENTRIES, PAGE_SHIFT, PAGE_SIZE, SWITCHER_INDEX,
    directory_index,
};
use lg_wire::trace::Kind;

/// With fewer pages of programs mapped than this, to drop them makes too little
/// room: the kernel's part goes, too.
const FEW: u32 = 16;

/// Whether something was mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// It is mapped.
    Yes,
    /// The machine never maps anything there.
    Forbidden,
}

impl Host<'_> {
    /// Maps one page and puts it on record.
    pub(crate) fn map_page(
        &mut self,
        va: GuestVirt,
        wanted: ShadowPte,
    ) -> Result<Mapped, Kill> {
        let page = GuestVirt(va.0 & !(PAGE_SIZE - 1));
        let index = directory_index(va.0);
        if self.shadow.linear_pages(index) > page.page_number() % ENTRIES {
            self.break_linear(index)?;
        }
        if wanted.access() == Access::Write
            && let Some(number) = self.copy_of(wanted.frame())
        {
            self.forget_copy(number)?;
        }
        self.vm.counters.maps.count();
        let frame = wanted.frame();
        let shadow = self.shadow.shadow(page);
        let there = shadow.is_mapped() || shadow.is_hidden();
        let protect = there && shadow != wanted && shadow.frame() == frame;
        if protect && self.mapper.protect(page, frame, wanted.access()).is_ok()
        {
            if shadow.is_hidden() {
                self.vm.counters.shown.count();
            } else {
                self.vm.counters.protects.count();
            }
            let write = u16::from(wanted.access() == Access::Write);
            self.trace(Kind::Mapped, write, [page.0, frame.0, 1]);
            self.shadow.set_shadow(page, wanted);
            return Ok(Mapped::Yes);
        }
        let result = self.map(page, frame, 1, wanted.access())?;
        if result == Mapped::Yes {
            self.shadow.set_shadow(va, wanted);
        }
        Ok(result)
    }

    /// Maps one page of a linear piece, with other rights than the piece.
    pub(crate) fn map_kernel_page(
        &mut self,
        va: GuestVirt,
        access: Access,
    ) -> Result<(), Kill> {
        let page = GuestVirt(va.0 & !(PAGE_SIZE - 1));
        let pa = GuestPhys(page.0.wrapping_sub(self.vm.page_offset.get()));
        let mapped = self.map(page, pa, 1, access)?;
        let index = directory_index(va.0);
        let linear = self.shadow.linear_pages(index);
        if mapped == Mapped::Yes && linear <= page.page_number() % ENTRIES {
            // To make room, the piece was unmapped.
            self.shadow.set_shadow(page, ShadowPte::of(pa, access));
        }
        Ok(())
    }

    /// Maps a run of pages without a record, which is the caller's to make.
    pub(super) fn map_run(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<Mapped, Kill> {
        self.map(va, pa, pages, access)
    }

    /// Maps. Where there is no room, unmaps the user part and tries again, then
    /// everything. Page faults bring back what is needed of it.
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<Mapped, Kill> {
        if self.shadow.in_user_process() && pages != 1 {
            // No caller does this. In a run of pages, nothing has checked the
            // right of user code to each of them (see `Shadow::wanted`).
            return Ok(Mapped::Forbidden);
        }
        let kernel = self.kernel_index();
        for end in [0, kernel, SWITCHER_INDEX] {
            if end == kernel && self.shadow.mapped_below(kernel) < FEW {
                // An instruction that needs several pages of a program would
                // drop one of them for the other for ever.
                continue;
            }
            if end != 0 {
                self.vm.counters.overflows.count();
                self.shadow.set_cramped();
                if self.shadow.is_stuck_at(self.vm.regs.eip.get()) {
                    return Err(Kill::OutOfMappings);
                }
                self.drop_everything(0, end)?;
            }
            match self.mapper.map(va, pa, pages, access) {
                Ok(()) => {
                    let write = u16::from(access == Access::Write);
                    self.trace(Kind::Mapped, write, [va.0, pa.0, pages]);
                    return Ok(Mapped::Yes);
                }
                Err(MapError::Forbidden) => return Ok(Mapped::Forbidden),
                Err(MapError::NoRoom) => {}
            }
        }
        Err(Kill::OutOfMappings)
    }

    /// Whether the page at `va` is to be hidden rather than unmapped.
    pub(super) fn is_to_hide(&self, va: GuestVirt, shadow: ShadowPte) -> bool {
        shadow.access() == Access::Read
            && va.0 < self.vm.page_offset.get()
            && self.vm.slow_paths.get() & fast_path::HIDE == 0
            && self.mapper.hides()
            && !self.shadow.hides_enough()
    }

    /// Hides the pages with these numbers, up to the second, all of which are
    /// mapped or hidden. Answers whether that could be done.
    pub(super) fn hide(&mut self, from: u32, to: u32) -> bool {
        let va = GuestVirt(from << PAGE_SHIFT);
        if self.mapper.hide(va, to - from).is_err() {
            return false;
        }
        self.trace(Kind::Unmapped, 1, [va.0, 0, to - from]);
        for page in from..to {
            let va = GuestVirt(page << PAGE_SHIFT);
            let shadow = self.shadow.shadow(va);
            self.vm.counters.hidden.add(shadow.is_mapped().into());
            self.shadow.set_shadow(va, shadow.hidden());
        }
        true
    }

    /// Unmaps one page.
    pub(super) fn unmap_page(&mut self, va: GuestVirt) -> Result<(), Kill> {
        let shadow = self.shadow.shadow(va);
        if !shadow.is_mapped() {
            return Ok(());
        }
        let page = GuestVirt(va.0 & !(PAGE_SIZE - 1));
        let number = page.page_number();
        if self.is_to_hide(va, shadow) && self.hide(number, number + 1) {
            return Ok(());
        }
        self.unmap(page, 1)?;
        self.shadow.set_shadow(va, ShadowPte::NONE);
        Ok(())
    }

    /// Unmaps a stretch whose record the caller clears. To unmap the middle of
    /// a larger mapping may need room; where there is none, everything is
    /// unmapped, which never needs any.
    pub(super) fn unmap(
        &mut self,
        va: GuestVirt,
        pages: u32,
    ) -> Result<(), Kill> {
        self.vm.counters.unmaps.count();
        self.trace(Kind::Unmapped, 0, [va.0, 0, pages]);
        match self.mapper.unmap(va, pages) {
            Ok(()) => Ok(()),
            Err(_) => {
                self.vm.counters.overflows.count();
                self.drop_everything(0, SWITCHER_INDEX)
            }
        }
    }

    /// Unmaps what is mapped between two directory indices, and clears its
    /// record. A run of pieces takes one call.
    pub(super) fn forget_directories(
        &mut self,
        from: u32,
        to: u32,
    ) -> Result<(), Kill> {
        let mut index = from;
        while index < to {
            let start = index;
            while index < to
                && (self.shadow.count(index) != 0
                    || self.shadow.linear_pages(index) != 0)
            {
                index += 1;
            }
            if index > start {
                let va = GuestVirt(start << DIRECTORY_SHIFT);
                self.unmap(va, (index - start) * ENTRIES)?;
                self.shadow.clear_record(start, index);
            }
            index += 1;
        }
        Ok(())
    }

    /// The directory index at which the Guest's kernel begins.
    pub(crate) fn kernel_index(&self) -> u32 {
        directory_index(self.vm.page_offset.get()).min(SWITCHER_INDEX)
    }

    /// Unmaps everything between two directory indices in one call.
    pub(super) fn drop_everything(
        &mut self,
        from: u32,
        to: u32,
    ) -> Result<(), Kill> {
        let va = GuestVirt(from << DIRECTORY_SHIFT);
        self.shadow.clear_record(from, to);
        self.trace(Kind::Unmapped, 0, [va.0, 0, (to - from) * ENTRIES]);
        self.mapper
            .unmap(va, (to - from) * ENTRIES)
            .map_err(|_| Kill::OutOfMappings)
    }
}
