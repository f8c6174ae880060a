//! What must hold after every step, whatever the Guest did.
//!
//! What is mapped is on record, and what executes is what its page says.

use super::{LIMIT, Machine, PAGE_OFFSET};
use lg_abi::page::{ENTRIES, PAGE_SHIFT, PAGE_SIZE, SWITCHER_INDEX};
use lg_abi::shared::LHCALL_RING_SIZE;
use lg_host::address::{GuestPhys, GuestVirt};
use lg_host::world::Access;
use std::cell::Cell;

impl Machine<'_> {
    /// Everything that is mapped must be on record: the Host would never unmap
    /// it otherwise.
    pub(super) fn check(&mut self) {
        let next = self.vm.next_hcall.get();
        assert!(
            (next as usize) < LHCALL_RING_SIZE,
            "the ring has no entry {next}"
        );
        let mapper = self.mappers[self.current].borrow();
        // Pages that have or had patched copies are not the kernel's to write
        // at once.
        let copies = self.vm.copy_count.get() != 0;
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
            assert!(linear || single, "{va:?} is mapped and not on record");
            assert!(index < SWITCHER_INDEX, "{va:?} is not the Guest's");
        }
    }

    /// What executes must be what its page says. A patched copy differs from its
    /// page only in system calls and in the trampoline slots of direct calls,
    /// and a page that has one is not mapped for writing.
    pub(super) fn check_copies(&self) {
        let mapper = self.mappers[self.current].borrow();
        for (&page, &(frame, access)) in &mapper.pages {
            let is_it = |copy: &Cell<u32>| copy.get() == frame;
            let has_copy = frame != 0 && self.vm.copies.iter().any(is_it);
            assert!(
                access == Access::Read || !has_copy,
                "page {page:#x} is writable, and frame {frame:#x} has a copy"
            );
            if let Some(at) = frame.checked_sub(LIMIT) {
                let original =
                    self.vm.copies[(at >> PAGE_SHIFT) as usize].get();
                assert!(
                    original != 0,
                    "page {page:#x} has the copy of no page"
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
        let mut at = 0;
        while at < page.len() {
            let may_differ = match page[at..] {
                [0xCD, 0x80, ..] => 2,
                [0x8D, 0xB4, 0x26, 0, 0, 0, 0, ..]
                | [0x8D, 0xBC, 0x27, 0, 0, 0, 0, ..]
                | [0x0F, 0x1F, 0x80, 0, 0, 0, 0, ..] => 7,
                _ => 0,
            };
            assert!(
                may_differ > 0 || page[at] == copy[at],
                "the copy of {original:#x} is stale at {at:#x}"
            );
            at += may_differ.max(1);
        }
    }
}
