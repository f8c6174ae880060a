//! The shadow record: what is mapped in one address space.
//!
//! It has a word for each of the million pages of the low 4 GiB, in memory that
//! the kernel provides only where something was written, and a count for each
//! piece of 4 MiB. A bit for each piece says whether anything is there, so that
//! a search for what is mapped passes 64 empty pieces with one look. Pieces of
//! the kernel's linear range that were mapped in one go are recorded apart.

use super::pte::ShadowPte;
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::world::Access;
use lg_abi::page::{ENTRIES, PAGE_SHIFT, directory_index};

/// Pages in the low 4 GiB.
pub const PAGES: usize = 1 << 20;

/// Directory entries, as a length.
const DIRECTORIES: usize = ENTRIES as usize;

/// The most pages that are hidden in one address space.
const MAX_HIDDEN: u32 = 512;

/// The record of one address space. All zero is "nothing is mapped".
#[repr(C)]
pub struct ShadowMemory {
    shadow: [ShadowPte; PAGES],
    counts: [u16; DIRECTORIES],
    linear: [u16; DIRECTORIES],
    hidden: [u16; DIRECTORIES],
    all_hidden: u32,
    /// The tables that each piece of the kernel's was compared with last.
    /// [`UNKNOWN`] where nothing is mapped: whatever is mapped later may come
    /// from other tables.
    tables: [TableWords; DIRECTORIES],
    /// A bit for each piece in which anything is mapped or hidden.
    used: [u64; DIRECTORIES / BITS],
}

/// Bits of a word of `used`.
const BITS: usize = u64::BITS as usize;

/// The directory entries of a piece, as they are in memory. With tables of two
/// levels, the second is 0.
pub(super) type TableWords = [u32; 2];

/// Tables that are not known, or are not there.
pub(super) const UNKNOWN: TableWords = [0; 2];

impl ShadowMemory {
    /// What is mapped at `va`.
    #[must_use]
    pub fn shadow(&self, va: GuestVirt) -> ShadowPte {
        self.shadow[va.page_number() as usize]
    }

    pub(super) fn set_shadow(&mut self, va: GuestVirt, shadow: ShadowPte) {
        let old = &mut self.shadow[va.page_number() as usize];
        let index = directory_index(va.0) as usize;
        let count = &mut self.counts[index];
        match (old.is_mapped(), shadow.is_mapped()) {
            (false, true) => *count += 1,
            (true, false) => *count -= 1,
            _ => {}
        }
        let count = &mut self.hidden[index];
        match (old.is_hidden(), shadow.is_hidden()) {
            (false, true) => {
                *count += 1;
                self.all_hidden += 1;
            }
            (true, false) => {
                *count -= 1;
                self.all_hidden -= 1;
            }
            _ => {}
        }
        *old = shadow;
        self.note_use(index);
    }

    /// The counts of piece `index` may have changed.
    fn note_use(&mut self, index: usize) {
        let mapped = self.counts[index] | self.linear[index];
        if mapped == 0 {
            self.tables[index] = UNKNOWN;
        }
        let bit = 1 << (index % BITS);
        let word = &mut self.used[index / BITS];
        match mapped | self.hidden[index] {
            0 => *word &= !bit,
            _ => *word |= bit,
        }
    }

    /// The first piece from `from` on and before `to` in which anything is
    /// mapped or hidden.
    pub(super) fn next_piece(&self, from: u32, to: u32) -> Option<u32> {
        let (from, to) = (from as usize, (to as usize).min(DIRECTORIES));
        let mut at = from;
        while at < to {
            let rest = self.used[at / BITS] >> (at % BITS);
            if rest != 0 {
                at += rest.trailing_zeros() as usize;
                return (at < to).then(|| as_word(at));
            }
            at = (at / BITS + 1) * BITS;
        }
        None
    }

    /// Whether pages of 4 MiB piece `index` are hidden.
    pub(super) fn hides_some(&self, index: u32) -> bool {
        self.hidden[index as usize] != 0
    }

    /// Whether no more pages can be hidden.
    pub(super) fn hides_enough(&self) -> bool {
        self.all_hidden >= MAX_HIDDEN
    }

    /// The tables that piece `index` was compared with last.
    pub(super) fn tables_of(&self, index: u32) -> TableWords {
        self.tables[index as usize]
    }

    pub(super) fn set_tables_of(&mut self, index: u32, tables: TableWords) {
        self.tables[index as usize] = tables;
    }

    /// How many pages of 4 MiB piece `index` are mapped one by one.
    #[must_use]
    pub fn count(&self, index: u32) -> u32 {
        u32::from(self.counts[index as usize])
    }

    /// How many pages from the start of 4 MiB piece `index` are mapped as a
    /// linear run.
    #[must_use]
    pub fn linear_pages(&self, index: u32) -> u32 {
        u32::from(self.linear[index as usize])
    }

    #[allow(clippy::cast_possible_truncation)] // at most ENTRIES
    pub(super) fn set_linear(&mut self, index: u32, pages: u32) {
        self.linear[index as usize] = pages as u16;
        self.note_use(index as usize);
    }

    /// Where `va` is in physical memory, if it is mapped and the mapping allows
    /// the access. A processor would find this in its TLB, without a look at
    /// the Guest's tables.
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

    /// Records that nothing is mapped between two directory indices.
    pub(super) fn clear_record(&mut self, from: u32, to: u32) {
        let mut next = from;
        while let Some(index) = self.next_piece(next, to) {
            next = index + 1;
            if self.count(index) != 0 || self.hides_some(index) {
                let first = (index * ENTRIES) as usize;
                self.shadow[first..first + DIRECTORIES].fill(ShadowPte::NONE);
                self.counts[index as usize] = 0;
                let hidden = &mut self.hidden[index as usize];
                self.all_hidden -= u32::from(*hidden);
                *hidden = 0;
            }
            self.linear[index as usize] = 0;
            self.note_use(index as usize);
        }
    }

    /// Records that nothing is mapped from the first page number up to the
    /// second.
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
        let pages = self.shadow.get(from as usize..end as usize)?;
        let is_used = |shadow: &ShadowPte| shadow.word() != 0;
        let (blocks, rest) = pages.as_chunks::<TOGETHER>();
        let any = |block: &[ShadowPte; TOGETHER]| {
            block.iter().fold(0, |all, shadow| all | shadow.word()) != 0
        };
        let (first, among) = match blocks.iter().position(any) {
            Some(n) => (n * TOGETHER, &blocks[n][..]),
            None => (blocks.len() * TOGETHER, rest),
        };
        let page = first + among.iter().position(is_used)?;
        Some(from + as_word(page))
    }

    /// How many pages are mapped one by one below directory index `end`.
    pub(super) fn mapped_below(&self, end: u32) -> u32 {
        let mut pages = 0;
        let mut next = 0;
        while let Some(index) = self.next_piece(next, end) {
            next = index + 1;
            pages += self.count(index);
        }
        pages
    }
}
