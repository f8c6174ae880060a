//! How a page changes that has a twin, and how its twin learns of it.
//!
//! The Guest writes by a mapping. After a twin was made, each view makes its
//! writable mappings of the page read-only before the Guest runs in it again
//! ([`Host::settle_twins`]). A later mapping of the page
//! is read-only, too, until a write faults; that write ends the twin.
//!
//! This Host writes by the window on the Guest's memory: page-table bits, trap
//! frames, the shared page, patches. All of that goes by [`Host::store`], which
//! marks the twin as stale.
//!
//! Devices write at any time. A kick or an answer to SEND_DMA follows what they
//! wrote, and then the twins that a view maps are compared with their pages.
//! Pages that other Guests write to, those of networks, have no twins.
//!
//! A page whose twins end soon after they were made, time and again, gets no
//! more of them: a write to it would always cost a page fault.

use super::{MAX_FLIPS, MAX_TWINS, filter_bit};
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::kill::Kill;
use crate::run::Host;
use crate::world::Access;
use lg_abi::page::{
    ENTRIES, PAGE_SHIFT, PAGE_SIZE, SWITCHER_INDEX, directory_index,
};

/// System calls after which a twin has paid for itself.
const WORTH_IT: u64 = 64;

/// Twins of one page that may end before that.
const MAX_SHORT_LIVES: u32 = 4;

impl Host<'_> {
    /// Stores a word in the Guest's memory.
    pub(crate) fn store(&self, at: GuestPhys, word: u32) -> Result<(), Kill> {
        self.memory.set_word(at, word)?;
        self.note_write(at, 4);
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

    /// Memory was written to: the twins of its pages are stale.
    fn note_write(&self, at: GuestPhys, length: u32) {
        let vm = self.vm;
        let first = GuestPhys(at.0 & !(PAGE_SIZE - 1));
        let last = at.0.saturating_add(length.saturating_sub(1));
        let last = GuestPhys(last & !(PAGE_SIZE - 1));
        let bits = filter_bit(first) | filter_bit(last);
        if vm.twin_filter.get() & bits == 0 {
            return;
        }
        for number in [first, last].into_iter().filter_map(|f| self.twin_of(f))
        {
            vm.stale_twins.set(vm.stale_twins.get() | 1 << number);
        }
    }

    /// A device may have written since twins were last compared.
    pub(crate) fn note_devices(&self) {
        let writes = &self.vm.device_writes;
        writes.set(writes.get().wrapping_add(1));
    }

    /// The Guest is about to run in this view: it writes to no page that has a
    /// twin, and the twins that it executes are what their pages are.
    pub(crate) fn settle_twins(&mut self) -> Result<(), Kill> {
        let vm = self.vm;
        if self.view.twins_seen() != vm.twin_count.get() {
            self.protect_new_twins()?;
        }
        let writes = vm.device_writes.get();
        if self.view.device_writes_seen() != writes {
            self.view.set_device_writes_seen(writes);
            let mapped = self.view.mapped_twins();
            for number in bits(mapped) {
                if vm.twins[number].get() != 0 && !self.is_true(number) {
                    vm.stale_twins.set(vm.stale_twins.get() | 1 << number);
                }
            }
        }
        for number in bits(vm.stale_twins.get()) {
            self.forget_twin(number)?;
        }
        Ok(())
    }

    /// Takes from this view the right to write to pages that have twins.
    fn protect_new_twins(&mut self) -> Result<(), Kill> {
        self.view.set_twins_seen(self.vm.twin_count.get());
        for index in 0..SWITCHER_INDEX {
            if self.view.count(index) == 0 {
                continue;
            }
            let mut from = index * ENTRIES;
            let end = from + ENTRIES;
            while let Some(page) = self.view.next_used(from, end) {
                from = page + 1;
                let va = GuestVirt(page << PAGE_SHIFT);
                let shadow = self.view.shadow(va);
                if shadow.is_mapped()
                    && shadow.access() == Access::Write
                    && self.twin_of(shadow.frame()).is_some()
                {
                    self.map_page(va, shadow.read_only())?;
                }
            }
        }
        self.protect_twins_pages(
            GuestPhys(0),
            self.memory.limit() >> PAGE_SHIFT,
        )
    }

    /// The same for the pages in `from .. from + pages`, where they are part of
    /// a linear piece of the kernel.
    pub(crate) fn protect_twins_pages(
        &mut self,
        from: GuestPhys,
        pages: u32,
    ) -> Result<(), Kill> {
        if self.vm.twin_filter.get() == 0 {
            return Ok(());
        }
        for number in 0..MAX_TWINS {
            let frame = self.vm.twins[number].get();
            let page = frame.wrapping_sub(from.0) >> PAGE_SHIFT;
            let va = frame.wrapping_add(self.vm.page_offset.get());
            let linear = self.view.linear_pages(directory_index(va));
            if frame != 0
                && page < pages
                && linear > GuestVirt(va).page_number() % ENTRIES
            {
                self.map_kernel_page(GuestVirt(va), Access::Read)?;
            }
        }
        Ok(())
    }

    /// Whether the page at `frame` may have a twin at all.
    pub(super) fn may_have_twin(&self, frame: GuestPhys) -> bool {
        let flips = self.vm.flips.iter().map(core::cell::Cell::get);
        let known = |flip: &u32| flip & !(PAGE_SIZE - 1) == frame.0;
        let short_lives = flips.filter(known).map(|flip| flip % PAGE_SIZE);
        frame.0 != 0
            && short_lives.max().unwrap_or(0) < MAX_SHORT_LIVES
            && !self.outboxes.is_networks(frame)
    }

    /// A twin has been made.
    pub(super) fn note_beginning(&self, number: usize) {
        let calls = self.vm.counters.system_calls.get();
        self.vm.twin_births[number].set(calls);
    }

    /// A twin ends. Counts it, if it did not live long.
    pub(super) fn note_end(&self, number: usize) {
        let vm = self.vm;
        let frame = vm.twins[number].get();
        let calls = vm.counters.system_calls.get();
        let lived = calls.wrapping_sub(vm.twin_births[number].get());
        let known = |flip: &&core::cell::Cell<u32>| {
            flip.get() & !(PAGE_SIZE - 1) == frame
        };
        let flip = vm.flips.iter().find(known);
        match flip {
            Some(flip) if lived >= WORTH_IT => flip.set(0),
            Some(flip) => flip.set(flip.get() + 1),
            None if lived >= WORTH_IT => {}
            None => {
                let next = vm.next_flip.get();
                vm.flips[next as usize % MAX_FLIPS].set(frame | 1);
                vm.next_flip.set(next.wrapping_add(1));
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

const _: () = assert!(MAX_TWINS <= u32::BITS as usize);
