//! Patches at hypercalls.
//!
//! A far call needs more bytes than the `int $0x1f`, so the instructions in
//! front of it, which load its arguments, move into the trampoline.

use super::displaced::Store;
use super::far::{FAR, FAR_CALL, INT, NOP, far};
use super::ledger::table::{MAX_PATCH, PatchKind, Place};
use super::limits::MAX_DISPLACED;
use super::trampoline::TrampolineKind;
use crate::address::{GuestVirt, as_word};
use crate::cpu::registers::general;
use crate::fast_path;
use crate::host::Host;
use crate::state::Registers;
use lg_abi::page::PAGE_SIZE;

impl Host<'_> {
    /// A hypercall has trapped; eip is at its `int`. Puts a trampoline in its
    /// place if the instructions before it leave room.
    pub(crate) fn patch_hypercall(&mut self) {
        if !self.may_take(fast_path::HYPERCALL) {
            return;
        }
        let int = self.vm.regs.eip.get();
        if self.is_refused(int) {
            return; // reading the code around it once is enough
        }
        if int % PAGE_SIZE < as_word(MAX_DISPLACED) {
            return; // it may begin in another page
        }
        let from = GuestVirt(int - as_word(MAX_DISPLACED));
        let mut code = [0; MAX_DISPLACED + INT];
        let Some(place) = self.code(from, &mut code) else {
            return;
        };
        let displaced = self.displaceable(&code[..MAX_DISPLACED]);
        if displaced + INT < FAR {
            return;
        }
        let first = MAX_DISPLACED - displaced;
        let start = from.plus(as_word(first));
        let place = Place::Memory(place.plus(as_word(first)));
        let moved = &code[first..MAX_DISPLACED];
        if !self.call_trampoline_at(start, place, moved) {
            self.refuse(int);
        }
    }

    /// Puts a far call to a trampoline at `start`, in the place of the `moved`
    /// instructions and a hypercall. Answers whether it did.
    fn call_trampoline_at(
        &mut self,
        start: GuestVirt,
        place: Place,
        moved: &[u8],
    ) -> bool {
        let length = moved.len() + INT;
        let store = Store::at_the_start_of(moved).map_or(0, |s| s.length);
        let near = store == 0 && self.can_be_near(moved);
        let end = start.0 + as_word(length);
        if self.is_jumped_into(start.0, end, as_word(store)) {
            return false;
        }
        if near {
            return self.call_near_trampoline_at(start, place, moved);
        }
        // A store that faults in 64-bit code could not be told to the Guest.
        let (patch, kind, moved) = match store {
            0 => (PatchKind::Hypercall, TrampolineKind::Hypercall, moved),
            _ => (
                PatchKind::HypercallAfterStore,
                TrampolineKind::HypercallAfterStore,
                &[][..],
            ),
        };
        let Some(room) = self.room_for(patch, place, start, length) else {
            return false;
        };
        let padding = as_word(length - FAR);
        let Some(trampoline) = self.world.make_trampoline(kind, moved, padding)
        else {
            return false;
        };
        let mut bytes = [NOP; MAX_PATCH];
        bytes[..FAR].copy_from_slice(&far(FAR_CALL, trampoline));
        self.write_patch(room, &bytes[..length]);
        true
    }

    /// How many bytes at the end of `code` are instructions that can be moved
    /// elsewhere: loads of a register with a small constant or with another
    /// register, shifts to the left, and in front of them a store. Bytes can be
    /// read in more ways than one, so each must also have had the effect that
    /// we see in the registers, or in memory.
    fn displaceable(&self, code: &[u8]) -> usize {
        let mut length = 0;
        // What a register held before the instructions that we have taken is
        // not known, so each may be written but once, and not read before.
        let mut written = 0_u8;
        let mut flags_written = false;
        while length + INT < FAR {
            let rest = &code[..code.len() - length];
            match load_at_the_end_of(rest, &self.vm.regs, written) {
                Some(load) if written & 1 << load.register == 0 => {
                    flags_written |= load.writes_flags;
                    written |= 1 << load.register;
                    length += load.length;
                }
                _ => {
                    let store = Store::at_the_end_of(rest);
                    let done = store.filter(|store| {
                        // Where its register holds something else by now, its
                        // effect cannot be seen; it is read in step, too.
                        let lost = written & 1 << store.needs != 0;
                        !flags_written && (lost || self.has_stored(store))
                    });
                    return length + done.map_or(0, |store| store.length);
                }
            }
        }
        length
    }
}

/// An instruction that changes a register.
struct Load {
    register: u8,
    writes_flags: bool,
    length: usize,
}

/// The load of a register that `code` may end with, if the registers are as
/// they would be behind it. It may not read a register in `written`.
fn load_at_the_end_of(
    code: &[u8],
    regs: &Registers,
    written: u8,
) -> Option<Load> {
    const ESP: u8 = 4;
    let value = |number: u8| general(regs, number).get();
    match *code {
        // mov $constant,%reg
        [.., op @ 0xB8..=0xBF, a, b, 0, 0]
            if op & 7 != ESP
                && value(op) == u32::from_le_bytes([a, b, 0, 0]) =>
        {
            Some(Load {
                register: op & 7,
                writes_flags: false,
                length: 5,
            })
        }
        // mov %reg,%reg
        [.., 0x89, modrm @ 0xC0..=0xFF]
            if modrm & 7 != ESP
                && written & 1 << (modrm >> 3 & 7) == 0
                && value(modrm) == value(modrm >> 3) =>
        {
            Some(Load {
                register: modrm & 7,
                writes_flags: false,
                length: 2,
            })
        }
        // shl $constant,%reg
        [.., 0xC1, modrm @ 0xE0..=0xE7, by @ 1..=31]
            if modrm & 7 != ESP
                && written & 1 << (modrm & 7) == 0
                && value(modrm) & ((1 << by) - 1) == 0 =>
        {
            Some(Load {
                register: modrm & 7,
                writes_flags: true,
                length: 3,
            })
        }
        // xor %reg,%reg with itself
        [.., 0x31, modrm @ 0xC0..=0xFF]
            if modrm & 7 == modrm >> 3 & 7
                && modrm & 7 != ESP
                && value(modrm) == 0 =>
        {
            Some(Load {
                register: modrm & 7,
                writes_flags: true,
                length: 2,
            })
        }
        _ => None,
    }
}
