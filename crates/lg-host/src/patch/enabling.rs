//! A patch where a driver switches interrupts on again.
//!
//! A kernel sends a request with interrupts off, and a disk may have answered
//! before SEND_DMA returns. The interrupt then waits, because a Guest does not
//! say when it switches interrupts on. Its kernel goes to sleep over a request
//! that is done, notices it there, and wakes up again. That takes longer than
//! all the rest. But the store to `irq_enabled` is an instruction of ten bytes,
//! so it can be patched. It stands behind one of the calls that have led to
//! this SEND_DMA, and their return addresses are on the stack. So the stack is
//! searched, at first each time and then now and again, and the store becomes a
//! call of a trampoline. A wrong guess costs a visit to the Host each time that
//! the kernel comes by there, and changes nothing else.
//!
//! Not every such store is wanted. While a Guest still hands in requests, an
//! answer to the first keeps the others from being merged: a disk that was read
//! by the kernel's cache took five times as long. A kernel that waits for the
//! answer calls the driver's function by a pointer and does nothing else. So
//! only a store right behind a call by a pointer counts.

use super::far::{FAR, FAR_CALL, NOP, far};
use super::ledger::table::{PatchKind, Place};
use super::trampoline::TrampolineKind;
use crate::address::{GuestVirt, as_word};
use crate::cpu::instruction::{self, MAX_INSTRUCTION};
use crate::fast_path;
use crate::host::Host;
use lg_abi::shared::IF;

/// How many times the stack is searched at first. After that it is searched
/// once in so many times: a kernel may go another way to its disks later.
const SEARCHES: u32 = 64;

/// How much of it.
const WORDS: usize = 64;

/// How many instructions behind a call are read.
const STEPS: usize = 2;

/// `movl $IF,irq_enabled`.
const STORE: usize = 10;

/// Bytes of it behind the far call.
pub(super) const ENABLING_PADDING: u32 = as_word(STORE - FAR);

impl Host<'_> {
    /// A request was answered by an interrupt that its sender does not take
    /// yet. Answers whether the Host will probably be told when it does.
    pub(crate) fn patch_enabling(&mut self) -> bool {
        if !self.may_take(fast_path::ENABLING) || self.vm.in_user_mode() {
            return false;
        }
        let answers = self.vm.patches.answers.get();
        self.vm.patches.answers.set(answers.wrapping_add(1));
        if answers >= SEARCHES && !answers.is_multiple_of(SEARCHES) {
            return self.vm.ledger.has(PatchKind::Enabling);
        }
        let mut stack = [0; 4 * WORDS];
        let got = self.fetch(GuestVirt(self.vm.regs.esp.get()), &mut stack);
        for word in stack[..got].chunks_exact(4) {
            let &[a, b, c, d] = word else { break };
            let back = GuestVirt(u32::from_le_bytes([a, b, c, d]));
            if !self.is_behind_a_call_by_pointer(back) {
                continue;
            }
            if let Some(store) = self.find_enabling(back) {
                return self.has_enabling_patch(store)
                    || self.make_enabling_trampoline(store);
            }
        }
        false
    }

    /// Whether `at` may be where a call by a pointer comes back to.
    fn is_behind_a_call_by_pointer(&self, at: GuestVirt) -> bool {
        const LONGEST: u32 = 6;
        let first = self.vm.page_offset.get().saturating_add(LONGEST);
        if at.0 < first || at.is_switchers() {
            return false;
        }
        let mut code = [0; LONGEST as usize];
        if self.fetch(GuestVirt(at.0 - LONGEST), &mut code) < code.len() {
            return false;
        }
        let indirect = |op: u8, byte: u8| op == 0xFF && byte >> 3 & 7 == 2;
        indirect(code[0], code[1])
            || indirect(code[3], code[4])
            || indirect(code[4], code[5])
    }

    /// Where interrupts are switched on behind `at`, if that is soon.
    fn find_enabling(&self, mut at: GuestVirt) -> Option<GuestVirt> {
        for _ in 0..STEPS {
            let mut code = [0; MAX_INSTRUCTION];
            let got = self.fetch(at, &mut code);
            let code = &code[..got];
            if self.is_enabling(code) || self.has_enabling_patch(at) {
                return Some(at);
            }
            if matches!(code, [0xC2 | 0xC3 | 0xCF | 0xE9 | 0xEB, ..]) {
                return None;
            }
            at = at.plus(as_word(instruction::length(code)?));
        }
        None
    }

    /// Whether `code` begins with the store.
    fn is_enabling(&self, code: &[u8]) -> bool {
        let &[0xC7, 0x05, a, b, c, d, e, f, g, h, ..] = code else {
            return false;
        };
        let variable = GuestVirt(u32::from_le_bytes([a, b, c, d]));
        let value = u32::from_le_bytes([e, f, g, h]);
        let irq_enabled = self.shared(self.layout().irq_enabled);
        value == IF && self.physical(variable) == Some(irq_enabled)
    }

    fn has_enabling_patch(&self, at: GuestVirt) -> bool {
        let ledger = &self.vm.ledger;
        let patch = ledger.find(PatchKind::Enabling, at);
        patch.is_some_and(|patch| patch.is_in_place())
    }

    fn make_enabling_trampoline(&mut self, at: GuestVirt) -> bool {
        let mut code = [0; STORE];
        let Some(place) = self.code(at, &mut code) else {
            return false; // it may end in another page
        };
        let end = at.0.wrapping_add(as_word(STORE));
        if self.is_jumped_into(at.0, end, as_word(STORE)) {
            return false;
        }
        let (kind, place) = (PatchKind::Enabling, Place::Memory(place));
        let Some(room) = self.room_for(kind, place, at, STORE) else {
            return false;
        };
        let kind = TrampolineKind::Enabling;
        let Some(trampoline) =
            self.world.make_trampoline(kind, &[], ENABLING_PADDING)
        else {
            return false;
        };
        let mut patch = [NOP; STORE];
        patch[..FAR].copy_from_slice(&far(FAR_CALL, trampoline));
        self.write_patch(room, &patch);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::GuestPhys;
    use crate::host::Event;
    use crate::state::Gate;
    use crate::testing::Machine;
    use lg_abi::shared::offset;
    use std::vec::Vec;

    const CODE: u32 = 0xC001_0000;
    const STACK: u32 = 0xC000_7F00;
    const HANDLER: u32 = 0xC000_4000;

    fn store(value: u32) -> Vec<u8> {
        let irq_enabled = 0xC000_0000 + Machine::DATA + offset::IRQ_ENABLED;
        let mut code = std::vec![0xC7, 0x05];
        code.extend(irq_enabled.to_le_bytes());
        code.extend(value.to_le_bytes());
        code
    }

    /// A kernel of which `tail` stands behind a call, and the stack says so.
    fn called_before(tail: &[u8]) -> Machine {
        let m = Machine::new();
        let memory = m.ram.memory();
        let mut code = std::vec![NOP; 64];
        // call *0x38(%ebx)
        code.extend([0xFF, 0x53, 0x38]);
        code.extend(tail);
        let place = GuestPhys(CODE - 0xC000_0000);
        memory.write(place, &code).unwrap();
        let stack = GuestPhys(STACK - 0xC000_0000);
        memory.set_word(stack, 7).unwrap();
        memory.set_word(stack.plus(4), STACK).unwrap();
        memory.set_word(stack.plus(8), CODE + 67).unwrap();
        m.vm.regs.esp.set(STACK);
        m
    }

    fn code(m: &Machine, at: u32, len: usize) -> Vec<u8> {
        let mut bytes = std::vec![0; len];
        let place = GuestPhys(CODE - 0xC000_0000 + at);
        m.ram.memory().read(place, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_store_behind_the_call_that_led_here_is_patched() {
        // mov %esi,%eax; the store; ret
        let mut tail = std::vec![0x89, 0xF0];
        tail.extend(store(IF));
        tail.push(0xC3);
        let mut m = called_before(&tail);
        assert!(m.host().patch_enabling());
        let trampoline = [FAR_CALL, 0, 0x10, 0, 0, 0x33, 0, NOP, NOP, NOP];
        assert_eq!(code(&m, 69, STORE), trampoline);
        assert_eq!(
            m.world.trampolines,
            [(TrampolineKind::Enabling, std::vec![])]
        );
        // It is found again, and is not made again.
        assert!(m.host().patch_enabling());
        assert_eq!(m.world.trampolines.len(), 1);
    }

    #[test]
    fn the_interrupt_that_waits_comes_through_the_trampoline() {
        let mut m = called_before(&[]);
        m.vm.idt[33].set(Gate {
            handler: HANDLER,
            flags: Gate::PRESENT,
        });
        m.vm.raise(1);
        m.host().run_guest(Event::Kick).unwrap();
        assert_ne!(m.vm.regs.eip.get(), HANDLER, "they are off");
        let memory = m.ram.memory();
        let stack = GuestPhys(STACK - 0xC000_0000);
        memory.set_word(stack, CODE + 10).unwrap();
        m.host()
            .run_guest(Event::Trampoline(TrampolineKind::Enabling))
            .unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER);
        // Eip, cs and flags, where the far return was: it goes on behind the
        // padding.
        assert_eq!(m.vm.regs.esp.get(), STACK + 8 - 12);
        let frame = GuestPhys(stack.0 + 8 - 12);
        assert_eq!(memory.word(frame), Ok(CODE + 13));
    }

    #[test]
    fn a_store_that_does_not_come_next_or_is_another_has_no_trampoline() {
        let off = store(0);
        let mut after_return = std::vec![0xC3];
        after_return.extend(store(IF));
        let mut after_jump = std::vec![0xEB, 0];
        after_jump.extend(store(IF));
        let mut elsewhere = store(IF);
        elsewhere[2] += 8;
        // je into the middle of the store.
        let mut jumped_into = std::vec![0x74, 4];
        jumped_into.extend(store(IF));
        for tail in [off, after_return, after_jump, elsewhere, jumped_into] {
            let mut m = called_before(&tail);
            assert!(!m.host().patch_enabling());
            assert_eq!(code(&m, 67, tail.len()), tail);
        }
    }

    #[test]
    fn the_stack_is_searched_less_often_after_a_while() {
        let mut tail = store(IF);
        tail.push(0xC3);
        let mut m = called_before(&tail);
        m.vm.patches.answers.set(SEARCHES + 1);
        assert!(!m.host().patch_enabling());
        m.vm.patches.answers.set(2 * SEARCHES);
        assert!(m.host().patch_enabling());
        let mut m = called_before(&tail);
        m.vm.slow_paths.set(fast_path::ENABLING);
        assert!(!m.host().patch_enabling());
        assert_eq!(code(&m, 67, tail.len()), tail);
    }
}
