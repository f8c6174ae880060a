//! Direct calls: `int $0x80` without any trap.
//!
//! In a patched copy ([`copies`](super::copies)) a system call is an `int3`,
//! which still costs a signal. A jump to a trampoline costs none, but
//! `int $0x80` has room only for a short jump, which does not reach that far.
//! So it goes to a *trampoline slot*. Compilers fill the space in front of
//! loops and functions with instructions of seven bytes that do nothing. Seven
//! bytes have room for a jump to the trampoline, and for a short jump over it
//! for code that comes from above. Nothing else is displaced. A kernel that
//! restarts a system call goes to the `int $0x80` again, and that leads the
//! same way.
//!
//! A near jump contains a distance, and the trampoline contains the address
//! where the program goes on. So a patched copy with direct calls can be mapped
//! at one place only. When a second program maps it elsewhere, its direct calls
//! become `int3` again.
//!
//! A program that is stopped on the trampoline slot, or at the trampoline's
//! first instruction, has an eip that its kernel must not see. It is put back
//! to its `int $0x80` ([`Host::step_back`]).

use super::copies::copy;
use super::ledger::Room;
use super::ledger::table::{PatchKind, Place};
use super::tables::DirectCall;
use super::trampoline::TrampolineKind;
use crate::address::{GuestVirt, as_word};
use crate::fast_path;
use crate::host::{Event, Host};
use lg_abi::page::PAGE_SIZE;

/// Instructions of seven bytes that do nothing: `lea 0(%esi,1),%esi`, the same
/// with edi, and `nopl 0(%eax)`, with a displacement of 32 bits each.
const NOTHING: [[u8; TRAMPOLINE_SLOT]; 3] = [
    [0x8D, 0xB4, 0x26, 0, 0, 0, 0],
    [0x8D, 0xBC, 0x27, 0, 0, 0, 0],
    [0x0F, 0x1F, 0x80, 0, 0, 0, 0],
];

/// Bytes of a trampoline slot: a short jump and a near one.
const TRAMPOLINE_SLOT: usize = 7;

const SHORT_JUMP: u8 = 0xEB;
const NEAR_JUMP: u8 = 0xE9;

/// Bytes of a short jump, and of `int $0x80`.
const SHORT: u32 = 2;

/// Bytes of a near jump.
const NEAR: u8 = 5;

/// How far a short jump goes, to both sides.
const REACH: u32 = 120;

/// One call in so many is looked at, so that frequent calls come first.
const SAMPLE: u64 = 16;

/// In [`Patches::copy_places`](super::tables::Patches): mapped at more than one
/// place.
const SEVERAL: u32 = u32::MAX;

impl DirectCall {
    fn is_in(&self, copy: usize) -> bool {
        self.copy.get() == as_word(copy) + 1
    }

    fn site(&self) -> GuestVirt {
        GuestVirt(self.site.get())
    }
}

impl Host<'_> {
    /// The `int3` at `site` in patched copy `number` has trapped: makes it a
    /// direct call, if it is the one in [`SAMPLE`] and there is a trampoline
    /// slot near it.
    pub(super) fn open_direct_call(&mut self, number: usize, site: GuestVirt) {
        let patches = &self.vm.patches;
        if !self.vm.counters.copy_calls.get().is_multiple_of(SAMPLE)
            || !self.may_take(fast_path::DIRECT | fast_path::FLAT_CODE)
            || patches.copy_places[number].get() != site.0 & !(PAGE_SIZE - 1)
            || self.is_refused(site.0)
        {
            return;
        }
        let mut free = patches.direct.iter().zip(0..);
        let free = free.find(|(call, _)| call.copy.get() == 0);
        let Some((call, slot)) = free else {
            return;
        };
        let Some((pad, room)) = self.find_slot(number, site) else {
            self.refuse(site.0);
            return;
        };
        let back = site.0.wrapping_add(SHORT);
        let trampoline = self.world.make_call_trampoline(slot, back);
        call.site.set(site.0);
        call.slot.set(pad.0);
        call.trampoline.set(trampoline);
        call.copy.set(as_word(number) + 1);
        let by = trampoline
            .wrapping_sub(pad.0 + as_word(TRAMPOLINE_SLOT))
            .to_le_bytes();
        let both = [SHORT_JUMP, NEAR, NEAR_JUMP, by[0], by[1], by[2], by[3]];
        self.write_patch(room, &both);
        // Both count from their end, and the near jump is behind a short one.
        let [by, ..] = pad.0.wrapping_sub(site.0).to_le_bytes();
        self.replace_int3(number, site, &[SHORT_JUMP, by]);
    }

    /// Patches with `bytes` where an `int3` was in patched copy `number`.
    fn replace_int3(&self, number: usize, site: GuestVirt, bytes: &[u8]) {
        let place = Place::Copy(number, site.page_offset());
        for int3 in self.vm.ledger.overlapping(place, bytes.len()) {
            self.end_patch(&int3);
        }
        let kind = PatchKind::DirectCall;
        if let Some(room) = self.room_for(kind, place, site, bytes.len()) {
            self.write_patch(room, bytes);
        }
    }

    /// A trampoline slot for `site` in patched copy `number`, and room for its
    /// patch.
    fn find_slot(
        &self,
        number: usize,
        site: GuestVirt,
    ) -> Option<(GuestVirt, Room)> {
        let page = site.0 & !(PAGE_SIZE - 1);
        let at = site.page_offset();
        let from = at.saturating_sub(REACH);
        let end = (at + REACH).min(PAGE_SIZE);
        let mut bytes = [0; 2 * REACH as usize];
        let bytes = &mut bytes[..(end - from) as usize];
        // Read from the patched copy, where slots that are in use look
        // different.
        self.copies.read(copy(number).plus(from), bytes).ok()?;
        let is_second_byte_jumped_to =
            self.is_jumped_into(site.0, site.0 + SHORT, 0);
        if is_second_byte_jumped_to {
            return None;
        }
        let length = TRAMPOLINE_SLOT;
        let mut windows = (from..).zip(bytes.windows(length));
        let (at, _) = windows.find(|&(at, window)| {
            let slot = page + at;
            NOTHING.iter().any(|nothing| nothing == window)
                && !self.is_jumped_into(
                    slot,
                    slot + as_word(length),
                    as_word(length),
                )
        })?;
        let (place, slot) = (Place::Copy(number, at), GuestVirt(page + at));
        let room = self.room_for(PatchKind::DirectSlot, place, slot, length)?;
        Some((slot, room))
    }

    /// The patched copy is about to be mapped at `va`: direct calls in it do
    /// not survive a second place.
    pub(super) fn note_place(&self, number: usize, va: GuestVirt) {
        let place = &self.vm.patches.copy_places[number];
        let page = va.0 & !(PAGE_SIZE - 1);
        match place.get() {
            0 => place.set(page),
            SEVERAL => {}
            known if known == page => {}
            _ => {
                self.end_direct_calls(number);
                place.set(SEVERAL);
            }
        }
    }

    /// Direct calls in patched copy `number` become `int3` again.
    fn end_direct_calls(&self, number: usize) {
        let copy = Place::Copy(number, 0);
        for patch in self.vm.ledger.beside(copy) {
            if patch.kind == PatchKind::Int3 {
                continue;
            }
            let was_there = self.end_patch(&patch);
            if was_there && patch.kind == PatchKind::DirectCall {
                self.write_int3(patch.place, patch.site);
            }
        }
        self.forget_direct_calls(number);
    }

    /// Patched copy `number` has ended, or has no direct calls any more: its
    /// trampolines are free.
    pub(super) fn forget_direct_calls(&self, number: usize) {
        for call in self.direct_calls(number) {
            call.copy.set(0);
        }
    }

    /// A program that stands on a trampoline slot, or at the trampoline behind
    /// it, goes back to its `int $0x80`; and so does one in the middle of the
    /// patched entry page. If it came there by a single step (`is_step`), it
    /// would never get further: it makes its call now.
    pub(crate) fn step_back(&self, event: Event, is_step: bool) -> Event {
        if matches!(event, Event::Trampoline(_)) {
            return event; // eip is not known yet
        }
        let eip = &self.vm.regs.eip;
        let at = eip.get();
        let call = self.vm.patches.direct.iter().find(|call| {
            let in_slot = call.slot.get().wrapping_add(SHORT) == at;
            (in_slot || call.trampoline.get() == at) && self.is_here(call)
        });
        let site = match call {
            Some(call) => call.site(),
            None => match self.entry_before(GuestVirt(at)) {
                Some(site) => site,
                None => return event,
            },
        };
        eip.set(site.0);
        if is_step {
            eip.set(site.0.wrapping_add(SHORT));
            return Event::Trampoline(TrampolineKind::DirectCall);
        }
        event
    }

    /// Whether this program has `call`, and not another one.
    fn is_here(&self, call: &DirectCall) -> bool {
        let shadow = self.shadow.shadow(call.site());
        let copy = self.number(shadow.frame());
        shadow.is_mapped() && copy.is_some_and(|copy| call.is_in(copy))
    }

    fn direct_calls(&self, number: usize) -> impl Iterator<Item = &DirectCall> {
        self.vm
            .patches
            .direct
            .iter()
            .filter(move |call| call.is_in(number))
    }
}

#[cfg(test)]
mod tests;
