//! Invariants that must hold after every step.
//!
//! All mappings are in the shadow record, and code that executes is the code of
//! its page.

use super::{LIMIT, Machine, PAGE_OFFSET};
use lg_abi::page::{ENTRIES, PAGE_SHIFT, PAGE_SIZE, SWITCHER_INDEX};
use lg_abi::shared::LHCALL_RING_SIZE;
use lg_host::address::{GuestPhys, GuestVirt};
use lg_host::memory::Memory;
use lg_host::patch::ledger::table::Place;
use lg_host::world::Access;
use std::cell::Cell;

impl Machine<'_> {
    /// Checks that all mappings are in the shadow record. Otherwise the Host
    /// would never unmap them.
    pub(super) fn check(&mut self) {
        let next = self.vm.next_hcall.get();
        assert!(
            (next as usize) < LHCALL_RING_SIZE,
            "the ring has no entry {next}"
        );
        let mapper = self.mappers[self.current].borrow();
        // Pages that have or had patched copies are not writable for the kernel
        // at once.
        let copies = self.vm.patches.copy_count.get() != 0;
        let view = &self.host().shadow;
        for (&page, &(frame, access)) in &mapper.pages {
            let va = GuestVirt(page << PAGE_SHIFT);
            let index = page / ENTRIES;
            let linear = view.linear_pages(index) > page % ENTRIES
                && frame == va.0.wrapping_sub(PAGE_OFFSET)
                && (access == Access::Write || copies);
            let shadow = view.shadow(va);
            let single = shadow.is_mapped()
                && shadow.frame().0 == frame
                && shadow.access() == access;
            assert!(linear || single, "{va:?} is mapped and not in the record");
            assert!(index < SWITCHER_INDEX, "{va:?} is not the Guest's");
        }
    }

    /// Checks code that executes. A patched copy must differ from its page only
    /// by the patches in the ledger, and a page that has a copy must not be
    /// mapped for writing.
    pub(super) fn check_copies(&self) {
        let mapper = self.mappers[self.current].borrow();
        for (&page, &(frame, access)) in &mapper.pages {
            let is_it = |copy: &Cell<u32>| copy.get() == frame;
            let has_copy =
                frame != 0 && self.vm.patches.copies.iter().any(is_it);
            assert!(
                access == Access::Read || !has_copy,
                "page {page:#x} is writable, and frame {frame:#x} has a copy"
            );
            if let Some(at) = frame.checked_sub(LIMIT) {
                let original =
                    self.vm.patches.copies[(at >> PAGE_SHIFT) as usize].get();
                assert!(
                    original != 0,
                    "page {page:#x} has a copy that belongs to no page"
                );
                self.compare(original, at);
            }
        }
    }

    fn compare(&self, original: u32, patched: u32) {
        let mut page = [0; PAGE_SIZE as usize];
        let mut copy = page;
        let read = self.memory().read(GuestPhys(original), &mut page);
        read.expect("it has a copy");
        let read = self.copies().read(GuestPhys(patched), &mut copy);
        read.expect("it is mapped");
        let number = (patched >> PAGE_SHIFT) as usize;
        let ledger = &self.vm.ledger;
        ledger.undo(Place::Copy(number, 0), &mut copy);
        let differs = |at: &usize| page[*at] != copy[*at];
        if let Some(at) = (0..page.len()).find(differs) {
            panic!("the copy of {original:#x} is stale at {at:#x}");
        }
    }

    /// Takes back all patches. Then the Guest's memory and its patched copies
    /// must be as the ledger says.
    pub fn take_back_patches(&mut self) {
        let all = |memory: Memory| {
            let mut bytes = vec![0; memory.limit() as usize];
            let read = memory.read(GuestPhys(0), &mut bytes);
            read.map(|()| bytes).expect("it has this size")
        };
        let ledger = &self.vm.ledger;
        let (mut memory, mut copies) = (all(self.memory()), all(self.copies()));
        ledger.undo(Place::Memory(GuestPhys(0)), &mut memory);
        let pages = copies.chunks_exact_mut(PAGE_SIZE as usize);
        for (number, copy) in pages.enumerate() {
            ledger.undo(Place::Copy(number, 0), copy);
        }
        self.host().take_back_all();
        assert!(all(self.memory()) == memory, "the Guest's memory");
        assert!(all(self.copies()) == copies, "its patched copies");
    }

    /// Makes the patches again.
    pub fn make_patches_again(&mut self) {
        self.host().make_all_again();
    }

    /// Takes one patch back, or makes it again.
    pub fn toggle_patch(&mut self, which: usize) {
        let patches: Vec<_> = self.vm.ledger.patches().collect();
        let Some(which) = which.checked_rem(patches.len()) else {
            return;
        };
        let patch = patches[which];
        if patch.is_in_place() {
            self.host().take_back(patch.id);
        } else {
            self.host().make_again(patch.id);
        }
    }
}
