//! Writes to a page that has a patched copy, and how they end the copy.
//!
//! The Guest writes by a mapping. After a patched copy was made, each view
//! makes its writable mappings of the page read-only before the Guest runs in
//! it again ([`Host::settle_copies`]). A later mapping of the page is
//! read-only, too, until a write faults; that write ends the patched copy.
//!
//! This Host writes by the window on the Guest's memory: page-table bits, trap
//! frames, the shared page, patches. All of that goes by [`Host::store`], which
//! marks the patched copy as stale.
//!
//! Devices write at any time. The Launcher, which does it for them, notes the
//! pages in a filter ([`Wire::written_pages`](lg_wire::state::Wire)) before it
//! kicks or answers. At the next way out, the patched copies of such pages are
//! compared with their pages. Pages that other Guests write to, those of
//! networks, have no patched copies.
//!
//! A page whose patched copies end soon after they were made, time and again,
//! gets no more of them: a write to it would always cost a page fault.

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::host::Host;
use crate::kill::Kill;
use crate::patch::limits::MAX_FLIPS;
use crate::world::Access;
use core::sync::atomic::Ordering;
use lg_abi::page::{
    ENTRIES, PAGE_SHIFT, PAGE_SIZE, SWITCHER_INDEX, directory_index,
};
use lg_wire::state::{MAX_COPIES, page_bit};

/// System calls after which a patched copy was worth its cost.
const WORTH_IT: u64 = 64;

/// Copies of one page that may end before that.
const MAX_SHORT_LIVES: u32 = 4;

impl Host<'_> {
    /// Stores a word in the Guest's memory.
    pub(crate) fn store(&self, at: GuestPhys, word: u32) -> Result<(), Kill> {
        self.memory.set_word(at, word)?;
        self.note_write(at, 4);
        Ok(())
    }

    /// Stores words in the Guest's memory.
    pub(crate) fn store_words<const N: usize>(
        &self,
        at: GuestPhys,
        words: [u32; N],
    ) -> Result<(), Kill> {
        self.memory.set_words(at, words)?;
        self.note_write(at, as_word(N) * 4);
        Ok(())
    }

    /// Stores bytes in the Guest's memory.
    pub(crate) fn store_bytes(
        &self,
        at: GuestPhys,
        bytes: &[u8],
    ) -> Result<(), Kill> {
        self.memory.write(at, bytes)?;
        self.note_write(at, as_word(bytes.len()));
        Ok(())
    }

    /// Memory was written to: the patched copies of its pages are stale.
    #[inline]
    fn note_write(&self, at: GuestPhys, length: u32) {
        let first = GuestPhys(at.0 & !(PAGE_SIZE - 1));
        let last = at.0.saturating_add(length.saturating_sub(1));
        let last = GuestPhys(last & !(PAGE_SIZE - 1));
        let bits = page_bit(first.0) | page_bit(last.0);
        if self.vm.patches.copy_filter.get() & bits != 0 {
            self.note_stale(first, last);
        }
    }

    #[cold]
    fn note_stale(&self, first: GuestPhys, last: GuestPhys) {
        let vm = self.vm;
        for number in [first, last].into_iter().filter_map(|f| self.copy_of(f))
        {
            vm.patches
                .stale_copies
                .set(vm.patches.stale_copies.get() | 1 << number);
        }
    }

    /// The Guest is about to run in this view: it writes to no page that has a
    /// patched copy, and the patched copies that it executes are what their
    /// pages are.
    pub(crate) fn settle_copies(&mut self) -> Result<(), Kill> {
        let vm = self.vm;
        if self.shadow.copies_seen() != vm.patches.copy_count.get() {
            self.protect_new_copies()?;
        }
        let written = vm.wire.written_pages.load(Ordering::Relaxed);
        if written & vm.patches.copy_filter.get() != 0 {
            self.compare_written_copies();
        }
        for number in bits(vm.patches.stale_copies.get()) {
            self.forget_copy(number)?;
        }
        Ok(())
    }

    /// The Launcher has written to pages that may have patched copies: compares
    /// these copies with their pages.
    #[cold]
    fn compare_written_copies(&self) {
        let vm = self.vm;
        let written = vm.wire.written_pages.swap(0, Ordering::SeqCst);
        for number in 0..MAX_COPIES {
            let frame = vm.patches.copies[number].get();
            let is_written = written & page_bit(frame) != 0;
            if frame != 0 && is_written && !self.is_true(number) {
                vm.patches
                    .stale_copies
                    .set(vm.patches.stale_copies.get() | 1 << number);
            }
        }
    }

    /// Takes from this view the right to write to pages that have patched
    /// copies.
    fn protect_new_copies(&mut self) -> Result<(), Kill> {
        self.shadow
            .set_copies_seen(self.vm.patches.copy_count.get());
        for index in 0..SWITCHER_INDEX {
            if self.shadow.count(index) == 0 {
                continue;
            }
            let mut from = index * ENTRIES;
            let end = from + ENTRIES;
            while let Some(page) = self.shadow.next_used(from, end) {
                from = page + 1;
                let va = GuestVirt(page << PAGE_SHIFT);
                let shadow = self.shadow.shadow(va);
                if shadow.is_mapped()
                    && shadow.access() == Access::Write
                    && self.copy_of(shadow.frame()).is_some()
                {
                    self.map_page(va, shadow.read_only())?;
                }
            }
        }
        self.protect_copied_pages(
            GuestPhys(0),
            self.memory.limit() >> PAGE_SHIFT,
        )
    }

    /// The same for the pages in `from .. from + pages`, where they are part of
    /// a linear piece of the kernel.
    pub(crate) fn protect_copied_pages(
        &mut self,
        from: GuestPhys,
        pages: u32,
    ) -> Result<(), Kill> {
        if self.vm.patches.copy_filter.get() == 0 {
            return Ok(());
        }
        for number in 0..MAX_COPIES {
            let frame = self.vm.patches.copies[number].get();
            let page = frame.wrapping_sub(from.0) >> PAGE_SHIFT;
            let va = frame.wrapping_add(self.vm.page_offset.get());
            let linear = self.shadow.linear_pages(directory_index(va));
            if frame != 0
                && page < pages
                && linear > GuestVirt(va).page_number() % ENTRIES
            {
                self.map_kernel_page(GuestVirt(va), Access::Read)?;
            }
        }
        Ok(())
    }

    /// Whether the page at `frame` may have a patched copy at all.
    pub(super) fn may_have_copy(&self, frame: GuestPhys) -> bool {
        let flips = self.vm.patches.flips.iter().map(core::cell::Cell::get);
        let known = |flip: &u32| flip & !(PAGE_SIZE - 1) == frame.0;
        let short_lives = flips.filter(known).map(|flip| flip % PAGE_SIZE);
        frame.0 != 0
            && short_lives.max().unwrap_or(0) < MAX_SHORT_LIVES
            && !self.outboxes.is_networks(frame)
    }

    /// A patched copy has been made.
    pub(super) fn note_beginning(&self, number: usize) {
        let calls = self.vm.counters.system_calls.get();
        self.vm.patches.copy_births[number].set(calls);
    }

    /// A patched copy ends. Counts it, if it did not live long.
    pub(super) fn note_end(&self, number: usize) {
        let vm = self.vm;
        let frame = vm.patches.copies[number].get();
        let calls = vm.counters.system_calls.get();
        let lived = calls.wrapping_sub(vm.patches.copy_births[number].get());
        let known = |flip: &&core::cell::Cell<u32>| {
            flip.get() & !(PAGE_SIZE - 1) == frame
        };
        let flip = vm.patches.flips.iter().find(known);
        match flip {
            Some(flip) if lived >= WORTH_IT => flip.set(0),
            Some(flip) => flip.set(flip.get() + 1),
            None if lived >= WORTH_IT => {}
            None => {
                let next = vm.patches.next_flip.get();
                vm.patches.flips[next as usize % MAX_FLIPS].set(frame | 1);
                vm.patches.next_flip.set(next.wrapping_add(1));
            }
        }
    }
}

/// The numbers of the bits that are set.
fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lowest < u32::BITS).then_some(lowest as usize)
    })
}

const _: () = assert!(MAX_COPIES <= u32::BITS as usize);
