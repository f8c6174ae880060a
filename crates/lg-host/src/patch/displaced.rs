//! A store to memory that a trampoline has displaced, and that it cannot do.
//!
//! A trampoline is 64-bit code. A store that faults there would be a fault that
//! a Guest cannot understand. But compilers like to put a store in front of a
//! hypercall: SEND_DMA begins with `used_len = 0`, and HALT saves a register.
//! So the trampoline of such a place does nothing of what it has displaced. The
//! Host does it, in order, with the rights of the Guest's kernel. If the store
//! faults, nothing was done yet: the Guest has its page fault at the patch, and
//! comes again.

use super::far::{FAR, INT};
use super::ledger::table::PatchKind;
use crate::address::{GuestVirt, as_word};
use crate::cpu::registers::general;
use crate::host::Host;
use crate::kill::Kill;
use crate::state::Registers;

/// Bits of a page fault's error code: a write, by the kernel.
const WRITE: u32 = 2;

/// `movl $value,offset(%base)` without an index, or `push %register`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Store {
    /// The register whose value shows whether it was done.
    pub(super) needs: u8,
    what: What,
    /// Bytes of the instruction.
    pub(super) length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Constant { offset: i8, value: u32 },
    Push,
}

impl Store {
    /// The store that `code` begins with.
    pub(super) fn at_the_start_of(code: &[u8]) -> Option<Self> {
        let (needs, offset, value, length) = match *code {
            [op @ 0x50..=0x57, ..] if op != 0x54 => {
                return Some(Self {
                    needs: op & 7,
                    what: What::Push,
                    length: 1,
                });
            }
            [0xC7, byte @ 0..=7, a, b, c, d, ..] if byte != 4 && byte != 5 => {
                (byte, 0, [a, b, c, d], 6)
            }
            [0xC7, byte @ 0x40..=0x47, offset, a, b, c, d, ..]
                if byte != 0x44 =>
            {
                (byte & 7, offset.cast_signed(), [a, b, c, d], 7)
            }
            _ => return None,
        };
        let value = u32::from_le_bytes(value);
        Some(Self {
            needs,
            what: What::Constant { offset, value },
            length,
        })
    }

    /// The store that `code` may end with.
    pub(super) fn at_the_end_of(code: &[u8]) -> Option<Self> {
        [7, 6, 1].into_iter().find_map(|length| {
            let start = code.len().checked_sub(length)?;
            let store = Self::at_the_start_of(&code[start..])?;
            (store.length == length).then_some(store)
        })
    }

    /// Where it stores what, if the stack ends at `stack` afterwards.
    fn effect(&self, regs: &Registers, stack: u32) -> (GuestVirt, u32) {
        let register = general(regs, self.needs).get();
        match self.what {
            What::Constant { offset, value } => {
                let to = register.wrapping_add_signed(offset.into());
                (GuestVirt(to), value)
            }
            What::Push => (GuestVirt(stack), register),
        }
    }
}

impl Host<'_> {
    /// Whether memory is as if `store` had just been done.
    pub(super) fn has_stored(&self, store: &Store) -> bool {
        let regs = &self.vm.regs;
        let (at, value) = store.effect(regs, regs.esp.get());
        self.read_virtual(at) == Ok(value)
    }

    /// Carries out what was displaced by the patch whose far call comes back
    /// to `back`. Answers whether the Guest is behind the patch now; else it
    /// has a fault, and all that was displaced is still to be done.
    pub(super) fn do_displaced(&mut self, back: u32) -> Result<bool, Kill> {
        let vm = self.vm;
        let start = GuestVirt(back.wrapping_sub(as_word(FAR)));
        let kind = PatchKind::HypercallAfterStore;
        let Some(patch) = vm.ledger.find(kind, start) else {
            // It came here from a place that is not patched.
            vm.regs.eip.set(0);
            self.deliver_trap(13, Some(0))?;
            return Ok(false);
        };
        let code = patch.original();
        let displaced = code.len().saturating_sub(INT);
        let mut rest = &code[..displaced];
        if let Some(store) = Store::at_the_start_of(rest) {
            let stack = vm.regs.esp.get().wrapping_sub(4);
            let (to, value) = store.effect(&vm.regs, stack);
            if self.write_virtual(to, value).is_err() {
                vm.regs.eip.set(start.0);
                self.page_fault(to, WRITE)?;
                return Ok(false);
            }
            if store.what == What::Push {
                vm.regs.esp.set(stack);
            }
            rest = &rest[store.length..];
        }
        load_registers(&vm.regs, rest);
        vm.regs.eip.set(start.plus(as_word(code.len())).0);
        Ok(true)
    }
}

/// Does what the loads of registers in `code` do.
pub(super) fn load_registers(regs: &Registers, mut code: &[u8]) {
    loop {
        code = match *code {
            [0x89, byte @ 0xC0..=0xFF, ref rest @ ..] => {
                let from = general(regs, byte >> 3).get();
                general(regs, byte).set(from);
                rest
            }
            [op @ 0xB8..=0xBF, a, b, c, d, ref rest @ ..] => {
                let value = u32::from_le_bytes([a, b, c, d]);
                general(regs, op).set(value);
                rest
            }
            [0x31, byte @ 0xC0..=0xFF, ref rest @ ..] => {
                general(regs, byte).set(0);
                regs.eflags.set(regs.eflags.get() & !ARITHMETIC | OF_ZERO);
                rest
            }
            _ => return,
        }
    }
}

/// Flags that arithmetic sets, and what they are if the result is zero.
const ARITHMETIC: u32 = 0x8D5;
const OF_ZERO: u32 = 0x44;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::GuestPhys;
    use crate::host::Event;
    use crate::patch::TrampolineKind;
    use crate::testing::Machine;

    const CODE: u32 = 0xC001_0000;

    /// 32 nops; movl $7,4(%edx); mov %esi,%edx; int $0x1f; ret.
    fn code() -> std::vec::Vec<u8> {
        let mut code = std::vec![0x90; 32];
        code.extend([0xC7, 0x42, 4, 7, 0, 0, 0, 0x89, 0xF2]);
        code.extend([0xCD, 0x1F, 0xC3]);
        code
    }

    /// A machine that stands at the `int` of `code`, for SET_STACK.
    fn standing(code: &[u8]) -> Machine {
        let m = Machine::new();
        let place = GuestPhys(CODE - 0xC000_0000);
        m.ram.memory().write(place, code).unwrap();
        m.vm.regs.eip.set(CODE + 41);
        m.vm.regs.eax.set(7);
        m.vm.regs.esi.set(0x69);
        m.vm.regs.edx.set(0x69);
        m
    }

    fn trapped() -> Event {
        Event::Trap {
            vector: 13,
            error: 0xFA,
            cr2: 0,
        }
    }

    /// Comes through the trampoline of [`code`] with this in edx.
    fn come(m: &mut Machine, edx: u32) {
        let memory = m.ram.memory();
        m.vm.regs.edx.set(edx);
        m.vm.regs.esp.set(0xC000_7FF8);
        let back = CODE + 32 + 7;
        memory.set_word(GuestPhys(0x7FF8), back).unwrap();
        m.host()
            .run_guest(Event::Trampoline(TrampolineKind::HypercallAfterStore))
            .unwrap();
    }

    #[test]
    fn the_host_does_the_store_in_front_of_a_hypercall() {
        let mut m = standing(&code());
        m.host().run_guest(trapped()).unwrap();
        let trampolines = [(TrampolineKind::HypercallAfterStore, std::vec![])];
        assert_eq!(m.world.trampolines, trampolines);
        come(&mut m, 0xC000_9000);
        assert_eq!(m.ram.memory().word(GuestPhys(0x9004)), Ok(7));
        assert_eq!(m.vm.regs.edx.get(), 0x69);
        let behind = CODE + 43;
        assert_eq!(m.vm.regs.eip.get(), behind, "not in the padding");
        assert_eq!(m.vm.regs.esp.get(), 0xC000_8000);
        assert_eq!(m.vm.counters.hypercalls[7].get(), 2);
    }

    #[test]
    fn a_register_that_was_saved_is_on_the_stack() {
        // push %ebx; mov %edx,%ecx; mov %edx,%ebx; int $0x1f
        let mut halt = std::vec![0x90; 36];
        halt.extend([0x53, 0x89, 0xD1, 0x89, 0xD3, 0xCD, 0x1F, 0xC3]);
        let mut m = standing(&halt);
        let regs = &m.vm.regs;
        regs.eax.set(5);
        for register in [&regs.ebx, &regs.ecx, &regs.edx] {
            register.set(0);
        }
        m.host().patch_hypercall();
        assert_eq!(m.world.trampolines.len(), 1);
        let memory = m.ram.memory();
        m.vm.regs.esp.set(0xC000_7FF8);
        m.vm.regs.ebx.set(0x1234);
        memory.set_word(GuestPhys(0x7FF8), CODE + 43).unwrap();
        m.host()
            .run_guest(Event::Trampoline(TrampolineKind::HypercallAfterStore))
            .unwrap();
        assert_eq!(m.vm.regs.eip.get(), CODE + 43);
        assert_eq!(m.vm.regs.esp.get(), 0xC000_7FFC);
        assert_eq!(memory.word(GuestPhys(0x7FFC)), Ok(0x1234));
        assert_eq!(m.vm.regs.ebx.get(), 0);
        assert_eq!(m.vm.counters.hypercalls[5].get(), 1);
    }

    #[test]
    fn a_store_that_faults_is_the_guests_fault_and_begins_again() {
        let mut m = standing(&code());
        m.host().run_guest(trapped()).unwrap();
        const HANDLER: u32 = 0xC000_4000;
        m.vm.idt[14].set(crate::state::Gate {
            handler: HANDLER,
            flags: crate::state::Gate::PRESENT,
        });
        let nowhere = 0x4000_0000;
        come(&mut m, nowhere);
        assert_eq!(m.vm.regs.eip.get(), HANDLER);
        assert_eq!(m.vm.regs.edx.get(), nowhere, "nothing was begun");
        assert_eq!(m.vm.counters.hypercalls[7].get(), 1);
        // Where the handler goes back to: the patch.
        let stack = m.vm.regs.esp.get() - 0xC000_0000;
        let memory = m.ram.memory();
        assert_eq!(memory.word(GuestPhys(stack)), Ok(2), "the error code");
        assert_eq!(memory.word(GuestPhys(stack + 4)), Ok(CODE + 32));
    }

    #[test]
    fn a_jump_to_its_trampoline_from_elsewhere_is_a_protection_fault() {
        let mut m = standing(&code());
        m.vm.regs.esp.set(0xC000_7FF8);
        let event = Event::Trampoline(TrampolineKind::HypercallAfterStore);
        let kill = m.host().run_guest(event).unwrap_err();
        let (vector, eip, detail) = (13, 0, 0);
        assert_eq!(
            kill,
            Kill::UnhandledTrap {
                vector,
                eip,
                detail
            }
        );
    }

    #[test]
    fn what_is_not_sure_to_be_a_store_is_left_alone() {
        // The end of a longer instruction: mov $0x42c79090,%eax.
        let mut longer = code();
        longer[29] = 0xB8;
        // One that had another effect: edx was not overwritten.
        let mut other = code();
        other[39..41].copy_from_slice(&[0x89, 0xF6]);
        for code in [longer, other] {
            let mut m = standing(&code);
            m.vm.regs.edx.set(0xC000_9000);
            m.vm.regs.esi.set(0xC000_9000);
            m.host().patch_hypercall();
            assert!(m.world.trampolines.is_empty());
        }
    }

    #[test]
    fn stores_are_read_from_both_ends() {
        let store = |code: &[u8]| {
            let store = Store::at_the_end_of(code)?;
            Some((store.needs, store.what, store.length))
        };
        let constant = |offset, value| What::Constant { offset, value };
        let plain = [0x90, 0xC7, 2, 1, 0, 0, 0];
        assert_eq!(store(&plain), Some((2, constant(0, 1), 6)));
        let offset = [0xC7, 0x43, 0xFC, 9, 0, 0, 0];
        assert_eq!(store(&offset), Some((3, constant(-4, 9), 7)));
        assert_eq!(store(&[0x90, 0x53]), Some((3, What::Push, 1)));
        for not_one in [
            [0xC7, 0x44, 0x24, 4, 0, 0, 0], // with an index
            [0x90, 0xC7, 5, 1, 0, 0, 0],    // an absolute address
            [0x90, 0xC7, 0xC2, 1, 0, 0, 0], // to a register
            [0x90, 0xC6, 2, 1, 0, 0, 0],    // a byte
            [0x90, 0x90, 1, 0, 0, 0, 0x54], // the stack pointer itself
        ] {
            assert_eq!(store(&not_one), None);
        }
    }
}
