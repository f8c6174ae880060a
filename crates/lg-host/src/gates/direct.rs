//! Direct calls: `int $0x80` without any trap.
//!
//! In a twin ([`twins`](super::twins)) a system call is an `int3`, and that is
//! still a signal. A jump to a gate would do without, but `int $0x80` has room
//! for a short one only, which does not get far. So it goes to a *stepping
//! stone*: compilers fill the space in front of loops and functions with
//! instructions of seven bytes that do nothing, and in seven bytes there is
//! room for a jump to the gate, and for another one over it for those who walk
//! through. Nothing else is displaced, and whoever goes to the `int $0x80`
//! again, as a kernel does that restarts a call, finds the same way.
//!
//! A near jump says how far away it goes, and the gate where to go on. So a twin
//! with direct calls can be at one place only; where a second program has it
//! elsewhere, they become `int3` again.
//!
//! On the stone, and at the gate's first instruction, the program is not where
//! it believes to be. If it is stopped there, it is put back to where it came
//! from ([`Host::step_back`]).

use super::twins::{INT3, INT80, twin};
use super::{GateKind, path};
use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::run::{Event, Host};
use core::cell::Cell;
use lg_abi::page::PAGE_SIZE;

/// How many direct calls there can be.
pub const MAX_DIRECT: usize = 48;

/// What does nothing, in seven bytes: `lea 0(%esi,1),%esi`, the same with edi,
/// and `nopl 0(%eax)`, with a displacement of 32 bits each.
const NOTHING: [[u8; STONE]; 3] = [
    [0x8D, 0xB4, 0x26, 0, 0, 0, 0],
    [0x8D, 0xBC, 0x27, 0, 0, 0, 0],
    [0x0F, 0x1F, 0x80, 0, 0, 0, 0],
];

/// Bytes of it: of a short jump and a near one.
const STONE: usize = 7;

const SHORT_JUMP: u8 = 0xEB;
const NEAR_JUMP: u8 = 0xE9;

/// Bytes of a short jump, and of `int $0x80`.
const SHORT: u32 = 2;

/// Bytes of a near jump.
const NEAR: u8 = 5;

/// How far it goes, to both sides.
const REACH: u32 = 120;

/// One call in so many is looked at, so that those that are made often come
/// first.
const SAMPLE: u64 = 16;

/// In [`crate::state::Vm::twin_places`]: mapped at more than one place.
const SEVERAL: u32 = u32::MAX;

/// A direct call. All zero is none.
#[repr(C)]
pub struct DirectCall {
    /// The twin that it is in, plus one.
    twin: Cell<u32>,
    /// Where its `int $0x80` is.
    site: Cell<u32>,
    /// Where its stone is, ...
    stone: Cell<u32>,
    /// ... and which [`NOTHING`] that was.
    nothing: Cell<u32>,
    /// Where its gate is.
    gate: Cell<u32>,
}

impl DirectCall {
    fn is_in(&self, twin: usize) -> bool {
        self.twin.get() == as_word(twin) + 1
    }

    fn site(&self) -> GuestVirt {
        GuestVirt(self.site.get())
    }

    fn stone(&self) -> GuestVirt {
        GuestVirt(self.stone.get())
    }

    fn nothing(&self) -> &'static [u8; STONE] {
        &NOTHING[self.nothing.get() as usize % NOTHING.len()]
    }
}

impl Host<'_> {
    /// The `int3` at `site` in twin `number` has trapped: makes it a direct
    /// call, if its turn has come and there is a stone near it.
    pub(super) fn open_direct_call(&mut self, number: usize, site: GuestVirt) {
        let vm = self.vm;
        if !vm.counters.twin_calls.get().is_multiple_of(SAMPLE)
            || !self.may_take(path::DIRECT | path::FLAT_CODE)
            || vm.twin_places[number].get() != site.0 & !(PAGE_SIZE - 1)
            || self.is_refused(site.0)
        {
            return;
        }
        let mut free = vm.direct.iter().zip(0..);
        let free = free.find(|(call, _)| call.twin.get() == 0);
        let Some((call, slot)) = free else {
            return;
        };
        let Some((stone, nothing)) = self.find_stone(number, site) else {
            self.refuse(site.0);
            return;
        };
        let back = site.0.wrapping_add(SHORT);
        let gate = self.world.make_call_gate(slot, back);
        call.site.set(site.0);
        call.stone.set(stone.0);
        call.nothing.set(as_word(nothing));
        call.gate.set(gate);
        call.twin.set(as_word(number) + 1);
        let by = gate.wrapping_sub(stone.0 + as_word(STONE)).to_le_bytes();
        let both = [SHORT_JUMP, NEAR, NEAR_JUMP, by[0], by[1], by[2], by[3]];
        self.write_twin(number, stone, &both);
        // Both count from their end, and the near jump is behind a short one.
        let [by, ..] = stone.0.wrapping_sub(site.0).to_le_bytes();
        self.write_twin(number, site, &[SHORT_JUMP, by]);
        vm.counters.patches.count();
    }

    /// A stone for `site` in twin `number`, and which [`NOTHING`] it is.
    fn find_stone(
        &self,
        number: usize,
        site: GuestVirt,
    ) -> Option<(GuestVirt, usize)> {
        let page = site.0 & !(PAGE_SIZE - 1);
        let at = site.page_offset();
        let from = at.saturating_sub(REACH);
        let end = (at + REACH).min(PAGE_SIZE);
        let mut bytes = [0; 2 * REACH as usize];
        let bytes = &mut bytes[..(end - from) as usize];
        // In the twin, for there stones that are in use look different.
        self.twins.read(twin(number).plus(from), bytes).ok()?;
        let is_second_byte_jumped_to =
            self.is_jumped_into(site.0, site.0 + SHORT, 0);
        if is_second_byte_jumped_to {
            return None;
        }
        bytes.windows(STONE).enumerate().find_map(|(i, window)| {
            let nothing = NOTHING.iter().position(|n| n == window)?;
            let stone = GuestVirt(page + from + as_word(i));
            let end = stone.0 + as_word(STONE);
            let whole = as_word(STONE);
            (!self.is_jumped_into(stone.0, end, whole))
                .then_some((stone, nothing))
        })
    }

    /// The twin is about to be mapped at `va`: direct calls in it do not
    /// survive a second place.
    pub(super) fn note_place(&self, number: usize, va: GuestVirt) {
        let place = &self.vm.twin_places[number];
        let page = va.0 & !(PAGE_SIZE - 1);
        match place.get() {
            0 => place.set(page),
            SEVERAL => {}
            known if known == page => {}
            _ => {
                for call in self.direct_calls(number) {
                    self.write_twin(number, call.stone(), call.nothing());
                    let int3 = [INT3, INT80[1]];
                    self.write_twin(number, call.site(), &int3);
                }
                self.forget_direct_calls(number);
                place.set(SEVERAL);
            }
        }
    }

    fn write_twin(&self, number: usize, at: GuestVirt, bytes: &[u8]) {
        let at: GuestPhys = twin(number).plus(at.page_offset());
        // Twins are whole pages, and none of these places crosses one.
        let _ = self.twins.write(at, bytes);
    }

    /// The twin is no more, or is what it was: nobody comes by its gates.
    pub(super) fn forget_direct_calls(&self, number: usize) {
        for call in self.direct_calls(number) {
            call.twin.set(0);
        }
    }

    /// Whether a page that has `original` at `at` may differ there from its
    /// twin for the sake of a direct call.
    pub(super) fn is_direct(
        &self,
        number: usize,
        at: u32,
        original: u8,
    ) -> bool {
        let holds = |bytes: &[u8], from: GuestVirt| {
            let byte = at.checked_sub(from.page_offset());
            let byte = byte.and_then(|byte| bytes.get(byte as usize));
            byte == Some(&original)
        };
        self.direct_calls(number).any(|call| {
            holds(&INT80, call.site()) || holds(call.nothing(), call.stone())
        })
    }

    /// A program that stands on a stone, or at the gate behind it, goes back to
    /// its `int $0x80`. One that goes there step by step would never get
    /// further: it has made its call now.
    pub(crate) fn step_back(&self, event: Event) -> Event {
        if matches!(event, Event::Gate(_)) {
            return event; // eip is not known yet
        }
        let eip = &self.vm.regs.eip;
        let at = eip.get();
        let call = self.vm.direct.iter().find(|call| {
            let on_stone = call.stone.get().wrapping_add(SHORT) == at;
            (on_stone || call.gate.get() == at) && self.is_here(call)
        });
        let Some(call) = call else {
            return event;
        };
        eip.set(call.site.get());
        if matches!(event, Event::Trap { vector: 1, .. }) {
            eip.set(call.site.get().wrapping_add(SHORT));
            return Event::Gate(GateKind::DirectCall);
        }
        event
    }

    /// Whether this program has `call`, and not another one.
    fn is_here(&self, call: &DirectCall) -> bool {
        let shadow = self.view.shadow(call.site());
        let twin = self.number(shadow.frame());
        shadow.is_mapped() && twin.is_some_and(|twin| call.is_in(twin))
    }

    fn direct_calls(&self, number: usize) -> impl Iterator<Item = &DirectCall> {
        self.vm.direct.iter().filter(move |call| call.is_in(number))
    }
}

#[cfg(test)]
mod tests;
