//! Hypercalls that ask for nothing, answered in 32-bit code.
//!
//! Linux calls FLUSH_ASYNC wherever it ends a batch of calls, and most batches
//! are empty. With TS it says what the Host only has to know when a program
//! goes on. Neither needs a visit to the Host. So such a call gets a near call
//! to a trampoline that executes what was displaced, and goes on in the code of
//! [`crossing`](super::crossing). If the ring is empty, that code counts the
//! call, and writes TS down. Every other call goes on by a far jump to the
//! trampoline [`TrampolineKind::NearHypercall`], as does each of these while
//! the Host wants to be asked.
//!
//! The trampoline has not visited the Host when a signal stops it. What it has
//! displaced has no effect but on registers, so the Host does all of it again
//! ([`Host::end_in_near_trampoline`]).

use super::crossing::words::{Words, word};
use super::displaced::load_registers;
use super::far::{INT, NEAR_CALL_SIZE, near_call};
use super::ledger::table::{MAX_PATCH, Patch, PatchKind, Place};
use super::limits::MAX_DISPLACED;
use super::trampoline::TrampolineKind;
use crate::address::{GuestVirt, as_word};
use crate::fast_path;
use crate::host::{Event, Host};
use core::mem::offset_of;
use lg_abi::call::CallName;

/// Bytes of `push $padding; jmp *%ss:near`.
const REST_SIZE: usize = 2 + 7;

impl Host<'_> {
    /// Whether the call that has trapped is one that may need no visit, and
    /// `moved` can be in front of the code that answers it.
    pub(super) fn can_be_near(&self, moved: &[u8]) -> bool {
        let name = self.interface().name(self.vm.regs.eax.get());
        matches!(name, Some(CallName::FlushAsync | CallName::Ts))
            && self.may_take(fast_path::NEAR)
            && self.may_cross()
            && moved.len() + INT >= NEAR_CALL_SIZE
            && moved.len() + REST_SIZE <= MAX_DISPLACED
    }

    /// Puts a near call to a trampoline at `start`, in the place of the `moved`
    /// instructions and a hypercall. Answers whether it did.
    pub(super) fn call_near_trampoline_at(
        &mut self,
        start: GuestVirt,
        place: Place,
        moved: &[u8],
    ) -> bool {
        let length = moved.len() + INT;
        let kind = TrampolineKind::NearHypercall;
        let Some(room) =
            self.room_for(PatchKind::NearHypercall, place, start, length)
        else {
            return false;
        };
        let padding = as_word(length - NEAR_CALL_SIZE);
        let [low, ..] = padding.to_le_bytes();
        // push $padding; jmp *%ss:near
        let mut code = [0; MAX_DISPLACED];
        let jump = word(offset_of!(Words, near)).to_le_bytes();
        let parts: [&[u8]; 3] = [moved, &[0x6A, low, 0x36, 0xFF, 0x25], &jump];
        let mut end = 0;
        for part in parts {
            code[end..][..part.len()].copy_from_slice(part);
            end += part.len();
        }
        let Some(slow) = self.world.make_trampoline(kind, &[], 0) else {
            return false;
        };
        let made = self.world.make_trampoline(kind, &code[..end], 0);
        let Some(trampoline) = made else {
            return false;
        };
        self.engage_near(slow);
        let call = near_call(start, trampoline);
        let mut bytes = [super::far::NOP; MAX_PATCH];
        bytes[..NEAR_CALL_SIZE].copy_from_slice(&call);
        self.write_patch(room, &bytes[..length]);
        true
    }

    /// A trampoline was interrupted in 32-bit code, or its code was jumped to.
    /// `None` if no near call has led there.
    pub(super) fn end_in_near_trampoline(&mut self) -> Option<Event> {
        let regs = &self.vm.regs;
        if self.vm.in_user_mode() {
            return None;
        }
        // On the stack is the way back, and in front of it the padding, if
        // that is there already.
        let esp = regs.esp.get();
        let with_padding = self.near_patch_at(esp.wrapping_add(4));
        let (patch, esp) = match self.near_patch_at(esp) {
            Some(patch) => (patch, esp.wrapping_sub(4)),
            None => (with_padding?, esp),
        };
        let code = patch.original();
        let padding = as_word(code.len().checked_sub(NEAR_CALL_SIZE)?);
        self.write_virtual(GuestVirt(esp), padding).ok()?;
        let regs = &self.vm.regs;
        load_registers(regs, &code[..code.len() - INT]);
        regs.esp.set(esp);
        Some(Event::Trampoline(TrampolineKind::NearHypercall))
    }

    /// The patch whose near call has pushed the word at `esp`.
    fn near_patch_at(&self, esp: u32) -> Option<Patch> {
        let back = self.read_virtual(GuestVirt(esp)).ok()?;
        let site = back.wrapping_sub(as_word(NEAR_CALL_SIZE));
        let kind = PatchKind::NearHypercall;
        self.vm.ledger.find(kind, GuestVirt(site))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::GuestPhys;
    use crate::testing::Machine;

    const CODE: u32 = 0xC001_0000;
    /// Where the displaced instruction begins, and where the `int` ends.
    const SITE: u32 = CODE + 32;
    const END: u32 = SITE + 7;
    const STACK: u32 = 0xC000_7FF8;
    /// The number of TS, and what a kernel says of it.
    const CALL: u32 = 8;
    const TS: u32 = 8;

    /// A machine whose kernel has said TS at a place that is patched now.
    fn patched() -> Machine {
        let mut m = Machine::new();
        // 32 nops; mov $CALL,%eax; int $0x1f; ret
        let mut code = std::vec![0x90; 32];
        let number = m.host().interface().number(CallName::Ts).unwrap();
        assert_eq!(number, CALL);
        let [low, ..] = number.to_le_bytes();
        code.extend([0xB8, low, 0, 0, 0, 0xCD, 0x1F, 0xC3]);
        let place = GuestPhys(CODE - 0xC000_0000);
        m.ram.memory().write(place, &code).unwrap();
        m.vm.regs.eip.set(SITE + 5);
        m.vm.regs.eax.set(number);
        m.host().patch_hypercall();
        m
    }

    fn words(m: &Machine, words: &[u32]) {
        for (at, &word) in (STACK - 0xC000_0000..).step_by(4).zip(words) {
            m.ram.memory().set_word(GuestPhys(at), word).unwrap();
        }
    }

    #[test]
    fn a_call_that_may_need_no_visit_has_a_near_call() {
        let m = patched();
        let mut bytes = [0; 8];
        let place = GuestPhys(SITE - 0xC000_0000);
        m.ram.memory().read(place, &mut bytes).unwrap();
        let [call, a, b, c, d, padding @ ..] = bytes;
        assert_eq!((call, padding), (0xE8, [0x90, 0x90, 0xC3]));
        let kind = TrampolineKind::NearHypercall;
        let [slow, ours] = &m.world.trampolines[..] else {
            panic!("{:?}", m.world.trampolines);
        };
        assert_eq!(*slow, (kind, std::vec![]));
        // mov $CALL,%eax; push $2; jmp *%ss:near
        let way = word(offset_of!(Words, near)).to_le_bytes();
        let code = [&[0xB8, 8, 0, 0, 0, 0x6A, 2, 0x36, 0xFF, 0x25], &way[..]];
        assert_eq!(*ours, (kind, code.concat()));
        let way = u32::from_le_bytes([a, b, c, d]);
        assert_eq!(way.wrapping_add(SITE + 5), 0x1000);
    }

    /// A signal in the trampoline, in front of each of its instructions.
    #[test]
    fn a_trampoline_may_be_interrupted_anywhere() {
        let back = SITE + 5;
        for (stack, esp, has_loaded) in [
            (&[back][..], STACK, false),
            (&[back], STACK, true),
            (&[2, back], STACK, true),
        ] {
            let mut m = patched();
            words(&m, stack);
            let regs = &m.vm.regs;
            regs.eax.set(if has_loaded { CALL } else { 0x1234 });
            regs.edx.set(TS);
            regs.esp.set(esp);
            regs.eip.set(0xFFFE_1000);
            m.host().run_guest(Event::Crossing).unwrap();
            assert_eq!(m.vm.ts.get(), TS);
            assert_eq!(m.vm.regs.eip.get(), END);
            assert_eq!(m.vm.regs.esp.get(), esp + 4 * as_word(stack.len()));
            assert_eq!(m.vm.regs.eax.get(), CALL);
        }
    }

    #[test]
    fn a_jump_into_a_trampoline_is_a_protection_fault() {
        for stack in [[0, 0], [SITE, END], [2, SITE + 6]] {
            let mut m = patched();
            words(&m, &stack);
            m.vm.regs.esp.set(STACK);
            m.vm.regs.eip.set(0xFFFE_1000);
            let kill = m.host().run_guest(Event::Crossing).unwrap_err();
            let (vector, eip, detail) = (13, 0, 0);
            let expected = crate::kill::Kill::UnhandledTrap {
                vector,
                eip,
                detail,
            };
            assert_eq!(kill, expected);
        }
    }

    #[test]
    fn without_the_fast_path_it_is_a_far_call() {
        for slow in [fast_path::NEAR, fast_path::CROSSING] {
            let mut m = Machine::new();
            m.vm.slow_paths.set(slow);
            assert!(!m.host().can_be_near(&[0xB8, 8, 0, 0, 0]));
        }
        assert!(patched().host().can_be_near(&[0xB8, 8, 0, 0, 0]));
        assert!(!patched().host().can_be_near(&[0x31, 0xD2]), "too short");
        assert!(!patched().host().can_be_near(&[0x90; 16]), "too long");
        let mut other = patched();
        other.vm.regs.eax.set(7);
        assert!(!other.host().can_be_near(&[0xB8, 7, 0, 0, 0]));
    }
}
