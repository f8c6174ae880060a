//! What this view has mapped, on record.
//!
//! A word for each of the million pages of the low 4 GiB, in memory that the
//! kernel provides only where something was written; and a count for each
//! 4 MiB, so that an empty stretch costs one look. Pieces of the kernel's
//! linear range that were mapped in one go are on a record of their own.
//!
//! A page that is to be read only is mostly a page of a file, and the next
//! program in this view is likely to have the same page at the same place. So
//! it is not unmapped but *hidden*: nobody can get at it, but the machine still
//! knows where it was, and shows it again for a quarter of what it costs to
//! map it and touch it once more.

use super::user::UserSpace;
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::cpu::tls::{TLS_ENTRIES, USUAL};
use crate::fast_path;
use crate::kill::Kill;
use crate::run::Host;
use crate::world::{Access, MapError};
use lg_abi::page::{
    DIRECTORY_SHIFT, ENTRIES, PAGE_SHIFT, PAGE_SIZE, Pte, SWITCHER_INDEX,
    directory_index,
};
use lg_abi::segment::Descriptor;

/// Pages in the low 4 GiB.
pub const PAGES: usize = 1 << 20;

/// Directory entries, as a length.
const DIRECTORIES: usize = ENTRIES as usize;

/// In a [`ShadowPte`], for which most of the bits of a [`Pte`] mean nothing.
const HIDDEN: u32 = Pte::USER;

/// A view that hides this many pages hides no more.
const MAX_HIDDEN: u32 = 512;

/// What is mapped at a page: nothing, or a frame, read-only or writable.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct ShadowPte(u32);

impl ShadowPte {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// What should be mapped for the Guest's entry `pte`.
    #[must_use]
    pub const fn wanted(pte: Pte) -> Self {
        if !pte.has(Pte::PRESENT | Pte::ACCESSED) {
            return Self::NONE;
        }
        let writable = if pte.has(Pte::WRITE | Pte::DIRTY) {
            Pte::WRITE
        } else {
            0
        };
        Self(pte.frame() | Pte::PRESENT | writable)
    }

    /// The page at `frame`, mapped for `access`.
    const fn of(frame: GuestPhys, access: Access) -> Self {
        let writable = match access {
            Access::Write => Pte::WRITE,
            Access::Read => 0,
        };
        Self(frame.0 | Pte::PRESENT | writable)
    }

    /// The same rights to another page.
    #[must_use]
    pub const fn at(self, frame: GuestPhys) -> Self {
        Self(frame.0 | self.0 & (PAGE_SIZE - 1))
    }

    /// The physical address of what is mapped.
    #[must_use]
    pub const fn frame(self) -> GuestPhys {
        GuestPhys(Pte(self.0).frame())
    }

    /// What the mapping may be used for.
    #[must_use]
    pub const fn access(self) -> Access {
        if self.0 & Pte::WRITE != 0 {
            Access::Write
        } else {
            Access::Read
        }
    }

    /// The same page, for reading.
    #[must_use]
    pub const fn read_only(self) -> Self {
        Self(self.0 & !Pte::WRITE)
    }

    /// Whether anything is mapped.
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        self.0 & Pte::PRESENT != 0
    }

    /// The same page, where nobody can get at it.
    const fn hidden(self) -> Self {
        Self(Pte(self.0).frame() | HIDDEN)
    }

    /// Whether there is a page where nobody can get at it.
    #[must_use]
    pub const fn is_hidden(self) -> bool {
        self.0 & HIDDEN != 0
    }
}

/// The memory that a view's record needs. All zero is "nothing mapped".
#[repr(C)]
pub struct ShadowMemory {
    shadow: [ShadowPte; PAGES],
    counts: [u16; DIRECTORIES],
    linear: [u16; DIRECTORIES],
    hidden: [u16; DIRECTORIES],
    all_hidden: u32,
}

/// Once there was no room, so many faults are answered with a page each. Where
/// there is room for one piece of 4 MiB and not for two, code in one and data
/// in the other would drop each other for ever.
const CRAMPED: u32 = 1000;

/// With fewer pages of programs mapped than this, dropping them makes too
/// little room: the kernel's part goes, too.
const FEW: u32 = 16;

/// So many times in a row there may be no room at one instruction. An
/// instruction that copies memory faults once for each page.
const STUCK: u32 = 10_000;

/// What a view maps, and for whom.
pub struct Shadow<'a> {
    /// The instruction at which there was no room last, and how often in a
    /// row.
    stuck: (u32, u32),
    slot: usize,
    cr3: u32,
    memory: &'a mut ShadowMemory,
    kernel_seen: u32,
    kick_seen: u32,
    copies_seen: u32,
    device_writes_seen: u32,
    /// Copies that may be mapped: a bit each.
    mapped_copies: u32,
    last_fault: GuestVirt,
    spurious: u32,
    behind: bool,
    /// For how many faults to come there is no room for large mappings.
    cramped: u32,
    /// The address space of user code, unless we are working on it.
    user_process: Option<UserSpace<'a>>,
    /// `memory` is the user process's.
    in_user_process: bool,
    /// The entries of the local descriptor table that user code has.
    table: [Descriptor; TLS_ENTRIES],
    has_unusual_table: bool,
}

impl<'a> Shadow<'a> {
    /// A view that maps nothing, for the page directory at `cr3`.
    #[must_use]
    pub fn new(slot: usize, cr3: u32, memory: &'a mut ShadowMemory) -> Self {
        Self {
            slot,
            cr3,
            memory,
            kernel_seen: 0,
            kick_seen: 0,
            copies_seen: 0,
            device_writes_seen: 0,
            mapped_copies: 0,
            last_fault: GuestVirt(0),
            spurious: 0,
            behind: false,
            cramped: 0,
            stuck: (0, 0),
            user_process: None,
            in_user_process: false,
            table: USUAL,
            has_unusual_table: false,
        }
    }

    /// The thread-local entries of user code's local descriptor table.
    pub(crate) fn table(&self) -> &[Descriptor; TLS_ENTRIES] {
        &self.table
    }

    pub(crate) fn set_table(&mut self, number: usize, entry: Descriptor) {
        self.table[number] = entry;
        self.has_unusual_table = self.table != USUAL;
    }

    /// Whether they are as they were at first.
    pub(crate) fn has_usual_table(&self) -> bool {
        !self.has_unusual_table
    }

    /// Gives it a user process for user code.
    pub fn put_user_process(&mut self, user_process: UserSpace<'a>) {
        self.user_process = Some(user_process);
    }

    pub(super) fn take_user_process(&mut self) -> Option<UserSpace<'a>> {
        self.user_process.take()
    }

    pub(super) fn change_places(&mut self, user_process: &mut UserSpace<'a>) {
        core::mem::swap(&mut self.memory, &mut user_process.memory);
        self.in_user_process = !self.in_user_process;
    }

    /// Whether user code runs in an address space of its own.
    #[must_use]
    pub fn has_user_process(&self) -> bool {
        self.user_process.is_some()
    }

    /// Whether it is the user process that is being worked on.
    pub(super) fn in_user_process(&self) -> bool {
        self.in_user_process
    }

    /// What should be mapped for the Guest's entry `pte`.
    pub(super) fn wanted(&self, pte: Pte) -> ShadowPte {
        if self.in_user_process && !pte.has(Pte::USER) {
            return ShadowPte::NONE;
        }
        ShadowPte::wanted(pte)
    }

    /// The number of this view.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The page directory that this view maps.
    #[must_use]
    pub fn cr3(&self) -> u32 {
        self.cr3
    }

    pub(super) fn set_cr3(&mut self, cr3: u32) {
        self.cr3 = cr3;
    }

    /// What is mapped at `va`.
    #[must_use]
    pub fn shadow(&self, va: GuestVirt) -> ShadowPte {
        self.memory.shadow[va.page_number() as usize]
    }

    pub(super) fn set_shadow(&mut self, va: GuestVirt, shadow: ShadowPte) {
        let memory = &mut *self.memory;
        let old = &mut memory.shadow[va.page_number() as usize];
        let index = directory_index(va.0) as usize;
        let count = &mut memory.counts[index];
        match (old.is_mapped(), shadow.is_mapped()) {
            (false, true) => *count += 1,
            (true, false) => *count -= 1,
            _ => {}
        }
        let count = &mut memory.hidden[index];
        match (old.is_hidden(), shadow.is_hidden()) {
            (false, true) => {
                *count += 1;
                memory.all_hidden += 1;
            }
            (true, false) => {
                *count -= 1;
                memory.all_hidden -= 1;
            }
            _ => {}
        }
        *old = shadow;
    }

    /// Whether pages of 4 MiB piece `index` are hidden.
    pub(super) fn hides_some(&self, index: u32) -> bool {
        self.memory.hidden[index as usize] != 0
    }

    /// Whether no more pages can be hidden.
    pub(super) fn hides_enough(&self) -> bool {
        self.memory.all_hidden >= MAX_HIDDEN
    }

    /// How many pages of 4 MiB piece `index` are mapped one by one.
    #[must_use]
    pub fn count(&self, index: u32) -> u32 {
        u32::from(self.memory.counts[index as usize])
    }

    /// How many pages from the start of 4 MiB piece `index` are mapped as a
    /// linear run.
    #[must_use]
    pub fn linear_pages(&self, index: u32) -> u32 {
        u32::from(self.memory.linear[index as usize])
    }

    #[allow(clippy::cast_possible_truncation)] // at most ENTRIES
    pub(super) fn set_linear(&mut self, index: u32, pages: u32) {
        self.memory.linear[index as usize] = pages as u16;
    }

    /// Where `va` is in physical memory, if this view maps it and the mapping
    /// allows the access: what a processor would find in its TLB, without a
    /// look at the Guest's tables.
    pub(super) fn translate(
        &self,
        va: GuestVirt,
        access: Access,
        page_offset: u32,
    ) -> Option<GuestPhys> {
        let index = directory_index(va.0);
        if self.linear_pages(index) > va.page_number() % ENTRIES {
            return Some(GuestPhys(va.0.wrapping_sub(page_offset)));
        }
        if self.count(index) == 0 {
            return None;
        }
        let shadow = self.shadow(va);
        let allowed = access == Access::Read || shadow.access() == access;
        (shadow.is_mapped() && allowed)
            .then(|| shadow.frame().plus(va.page_offset()))
    }

    /// Everything between two directory indices is mapped no more.
    pub(super) fn clear_record(&mut self, from: u32, to: u32) {
        for index in from..to {
            if self.count(index) != 0 || self.hides_some(index) {
                let first = (index * ENTRIES) as usize;
                self.memory.shadow[first..first + DIRECTORIES]
                    .fill(ShadowPte::NONE);
                self.memory.counts[index as usize] = 0;
                let hidden = &mut self.memory.hidden[index as usize];
                self.memory.all_hidden -= u32::from(*hidden);
                *hidden = 0;
            }
            self.memory.linear[index as usize] = 0;
        }
    }

    /// The pages with these numbers, up to the second, are mapped no more.
    pub(super) fn forget(&mut self, from: u32, to: u32) {
        for index in from / ENTRIES..to.div_ceil(ENTRIES) {
            if self.count(index) == 0 {
                continue;
            }
            let mut page = from.max(index * ENTRIES);
            let end = to.min((index + 1) * ENTRIES);
            while let Some(used) = self.next_used(page, end) {
                let va = GuestVirt(used << PAGE_SHIFT);
                self.set_shadow(va, ShadowPte::NONE);
                page = used + 1;
            }
        }
    }

    /// The first page from `from` on and before `end` that is mapped or
    /// hidden. Most are not, so sixteen are looked at together.
    pub(crate) fn next_used(&self, from: u32, end: u32) -> Option<u32> {
        const TOGETHER: usize = 16;
        let pages = self.memory.shadow.get(from as usize..end as usize)?;
        let is_used = |shadow: &ShadowPte| shadow.0 != 0;
        let (blocks, rest) = pages.as_chunks::<TOGETHER>();
        let any = |block: &[ShadowPte; TOGETHER]| {
            block.iter().fold(0, |all, shadow| all | shadow.0) != 0
        };
        let (first, among) = match blocks.iter().position(any) {
            Some(n) => (n * TOGETHER, &blocks[n][..]),
            None => (blocks.len() * TOGETHER, rest),
        };
        let page = first + among.iter().position(is_used)?;
        Some(from + as_word(page))
    }

    /// Whether the tables may have said something else meanwhile than they
    /// did when this view last looked, and than they do now.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind
    }

    pub(super) fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// How many of the changed kernel pages this view has looked at.
    pub(super) fn kernel_seen(&self) -> u32 {
        self.kernel_seen
    }

    pub(super) fn set_kernel_seen(&mut self, seen: u32) {
        self.kernel_seen = seen;
    }

    /// How many patched copies had been made when this view last gave up the
    /// right to write to their pages.
    pub(crate) fn copies_seen(&self) -> u32 {
        self.copies_seen
    }

    pub(crate) fn set_copies_seen(&mut self, seen: u32) {
        self.copies_seen = seen;
    }

    /// How often devices had written when patched copies were last compared.
    pub(crate) fn device_writes_seen(&self) -> u32 {
        self.device_writes_seen
    }

    pub(crate) fn set_device_writes_seen(&mut self, seen: u32) {
        self.device_writes_seen = seen;
    }

    /// The patched copies that may be mapped: a bit each.
    pub(crate) fn mapped_copies(&self) -> u32 {
        self.mapped_copies
    }

    pub(super) fn set_mapped_copies(&mut self, copies: u32) {
        self.mapped_copies = copies;
    }

    /// Remembers the count of kicks; answers whether it is a new one.
    pub(crate) fn notice_kick(&mut self, kick: u32) -> bool {
        let news = self.is_news(kick);
        self.kick_seen = kick;
        news
    }

    /// Whether that many kicks are more than this view has noticed.
    pub(crate) fn is_news(&self, kick: u32) -> bool {
        self.kick_seen != kick
    }

    /// How many pages are mapped one by one below directory index `end`.
    pub(super) fn mapped_below(&self, end: u32) -> u32 {
        (0..end).map(|index| self.count(index)).sum()
    }

    /// There is no room at the instruction at `eip`. Answers whether it has
    /// been so for too long.
    pub(super) fn is_stuck_at(&mut self, eip: u32) -> bool {
        let (last, times) = self.stuck;
        self.stuck = (eip, if eip == last { times + 1 } else { 1 });
        self.stuck.1 > STUCK
    }

    /// Whether there has been no room lately; asked once a fault.
    pub(super) fn is_cramped(&mut self) -> bool {
        let cramped = self.cramped > 0;
        self.cramped = self.cramped.saturating_sub(1);
        cramped
    }

    /// The last address that faulted.
    pub(crate) fn last_fault(&self) -> GuestVirt {
        self.last_fault
    }

    pub(crate) fn set_last_fault(&mut self, va: GuestVirt) {
        if self.last_fault != va {
            self.spurious = 0;
        }
        self.last_fault = va;
    }

    /// One more fault at the last address that should not have been; answers
    /// how many.
    pub(super) fn count_spurious(&mut self) -> u32 {
        self.spurious += 1;
        self.spurious
    }
}

/// Whether a mapping came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
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
        if let Some(number) = self.number(frame) {
            let copies = self.shadow.mapped_copies() | 1 << number;
            self.shadow.set_mapped_copies(copies);
        }
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

    /// Maps a run of pages, writable, without a record.
    pub(super) fn map_run(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
    ) -> Result<Mapped, Kill> {
        self.map(va, pa, pages, Access::Write)
    }

    /// Maps, and where there is no room makes some: first the user part goes,
    /// then everything. What is needed of it comes back by page faults.
    fn map(
        &mut self,
        va: GuestVirt,
        pa: GuestPhys,
        pages: u32,
        access: Access,
    ) -> Result<Mapped, Kill> {
        if self.shadow.in_user_process() && pages != 1 {
            // No caller does this. In a run of pages, the right of user code
            // to each of them has not been looked at (see `Shadow::wanted`).
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
                self.shadow.cramped = CRAMPED;
                if self.shadow.is_stuck_at(self.vm.regs.eip.get()) {
                    return Err(Kill::OutOfMappings);
                }
                self.drop_everything(0, end)?;
            }
            match self.mapper.map(va, pa, pages, access) {
                Ok(()) => return Ok(Mapped::Yes),
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

    /// Unmaps a stretch whose record the caller clears. A stretch out of the
    /// middle of a larger mapping may need room of its own; where there is
    /// none, all around it goes, which never needs any.
    pub(super) fn unmap(
        &mut self,
        va: GuestVirt,
        pages: u32,
    ) -> Result<(), Kill> {
        self.vm.counters.unmaps.count();
        match self.mapper.unmap(va, pages) {
            Ok(()) => Ok(()),
            Err(_) => {
                self.vm.counters.overflows.count();
                self.drop_everything(0, SWITCHER_INDEX)
            }
        }
    }

    /// Unmaps whatever is mapped between two directory indices, and forgets
    /// it. Runs of pieces go at once.
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

    /// A linear piece is linear no more: all of it goes.
    pub(super) fn break_linear(&mut self, index: u32) -> Result<(), Kill> {
        self.vm.counters.linear_breaks.count();
        self.forget_directories(index, index + 1)
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
        self.mapper
            .unmap(va, (to - from) * ENTRIES)
            .map_err(|_| Kill::OutOfMappings)
    }
}
