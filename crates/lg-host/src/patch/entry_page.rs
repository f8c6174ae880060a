//! A patch in the entry page, by which programs make system calls.
//!
//! The page is the kernel's, and every program has it. Its `int $0x80` has room
//! for a short jump only, which goes to a far call behind the `ret`. The Host
//! sends the program back to the `ret`, where the kernel believes it to be.

use super::far::{FAR, FAR_CALL, NOP, far};
use super::ledger::table::{Patch, PatchKind, Place};
use super::trampoline::TrampolineKind;
use crate::address::{GuestVirt, as_word};
use crate::fast_path;
use crate::host::Host;
use lg_abi::page::PAGE_SIZE;

/// Bytes from the entry to the signal return behind it.
const ENTRY_ROOM: usize = 32;

/// Where in the entry page's code the far call goes: behind the `ret`, with
/// room around it.
const ENTRY_CALL: u8 = 16;

/// Bytes of `int $0x80`, and of the short jump in its place.
const INT: u32 = 2;

/// From behind the far call back to the `ret`.
pub(super) const ENTRY_BACK: u32 = ENTRY_CALL as u32 + as_word(FAR) - INT;

/// Bytes of the patch.
const LENGTH: usize = ENTRY_CALL as usize + FAR;

impl Host<'_> {
    /// A system call has trapped; eip is behind its `int $0x80`. If that was in
    /// the entry page that the kernel gives its user programs, puts a
    /// trampoline there. Every program has the same page.
    pub(crate) fn patch_entry_page(&mut self) {
        if !self.may_take(fast_path::ENTRY_PAGE) {
            return;
        }
        let eip = self.vm.regs.eip.get();
        let page = GuestVirt(eip & !(PAGE_SIZE - 1));
        let entry = eip.wrapping_sub(2) & (PAGE_SIZE - 1);
        let mut header = [0; 28];
        let Some(frame) = self.code(page, &mut header) else {
            return;
        };
        let is_elf = header.starts_with(b"\x7fELF");
        let [.., a, b, c, d] = header;
        let says = u32::from_le_bytes([a, b, c, d]) & (PAGE_SIZE - 1);
        if !is_elf || says != entry {
            return;
        }
        // int $0x80; ret; and nothing up to the signal return, 32 bytes on:
        // pop %eax; mov $119,%eax.
        let mut code = [0; ENTRY_ROOM + 3];
        let Some(place) = self.code(page.plus(entry), &mut code) else {
            return;
        };
        let fits = code.starts_with(&[0xCD, 0x80, 0xC3])
            && code[3..ENTRY_ROOM]
                .iter()
                .all(|&b| matches!(b, 0 | NOP | 0xCC))
            && code.ends_with(&[0x58, 0xB8, 0x77]);
        debug_assert_eq!(place, frame.plus(entry), "one page");
        if !fits {
            return;
        }
        let (kind, place) = (PatchKind::EntryPage, Place::Memory(place));
        let site = page.plus(entry);
        let Some(room) = self.room_for(kind, place, site, LENGTH) else {
            return;
        };
        let kind = TrampolineKind::EntryPage;
        let Some(trampoline) = self.world.make_trampoline(kind, &[], 0) else {
            return;
        };
        // The way back and a restart stay where they were: behind the first
        // instruction, and at it.
        let mut patch = [0; LENGTH];
        patch.copy_from_slice(&code[..LENGTH]);
        let (entrance, call) = patch.split_at_mut(ENTRY_CALL.into());
        entrance[..2].copy_from_slice(&[0xEB, ENTRY_CALL - 2]);
        call.copy_from_slice(&far(FAR_CALL, trampoline));
        self.write_patch(room, &patch);
        let call = entry + u32::from(ENTRY_CALL);
        self.vm.patches.entry_call.set(call);
    }

    /// Where a program began that stands between the jump in the entry page and
    /// the far call that it goes to.
    pub(super) fn entry_before(&self, at: GuestVirt) -> Option<GuestVirt> {
        let call = self.vm.patches.entry_call.get();
        if at.page_offset() != call || call == 0 || !self.vm.in_user_mode() {
            return None;
        }
        let place = self.physical(at)?;
        let ledger = &self.vm.ledger;
        let mut patches = ledger.overlapping(Place::Memory(place), 1);
        let is_entry = |patch: Patch| {
            patch.kind == PatchKind::EntryPage
                && Place::Memory(place) == patch.place.plus(ENTRY_CALL.into())
        };
        let found = patches.any(is_entry);
        found.then(|| GuestVirt(at.0 - u32::from(ENTRY_CALL)))
    }
}
