//! The time-stamp counter, where the Guest does not read the processor's.
//!
//! A Guest that goes on in another boot, or on another machine, knows the value
//! and the frequency of another counter. There the view lets its `rdtsc` fault,
//! and the Host carries it out ([`lg_wire::moved`]).

use crate::cpu::instruction::{MAX_INSTRUCTION, instruction};
use crate::host::Host;

/// How long the instruction is that `code` begins with, if it reads the
/// counter, and whether it is `rdtscp`.
fn reads_counter(code: &[u8]) -> Option<(u32, bool)> {
    const RDTSC: u16 = 0x0F31;
    const GROUP_7: u16 = 0x0F01;
    /// The byte behind the opcode.
    const RDTSCP: u8 = 0xF9;
    let found = instruction(code)?;
    let read = match (found.opcode, found.rest) {
        (RDTSC, _) => (found.length, false),
        (GROUP_7, [RDTSCP, ..]) => (found.length + 1, true),
        _ => return None,
    };
    (read.0 as usize <= MAX_INSTRUCTION).then_some(read)
}

impl Host<'_> {
    /// Carries out the `rdtsc` or `rdtscp` at which the Guest has faulted, if
    /// `code` is one and it has to fault here.
    pub(crate) fn read_counter(&mut self, code: &[u8]) -> bool {
        let moved = self.vm.moved.get();
        if moved.tsc_khz == 0 {
            return false;
        }
        let Some((length, with_processor)) = reads_counter(code) else {
            return false;
        };
        let value = moved.counter_at(self.world.monotonic());
        let regs = &self.vm.regs;
        #[expect(clippy::cast_possible_truncation, reason = "two halves")]
        let (low, high) = (value as u32, (value >> 32) as u32);
        regs.eax.set(low);
        regs.edx.set(high);
        if with_processor {
            // Its only one.
            regs.ecx.set(0);
        }
        regs.eip.set(regs.eip.get().wrapping_add(length));
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::address::{GuestPhys, GuestVirt};
    use crate::cpu::registers::{EFLAGS_RF, EFLAGS_TF};
    use crate::host::Event;
    use crate::state::Gate;
    use crate::testing::Machine;
    use lg_abi::page::Pte;
    use lg_wire::moved::Moved;

    /// Code that faults with vector 13 at user level: the machine after it, a
    /// second after its monotonic clock began.
    fn faulted(code: &[u8], moved: Moved) -> Machine {
        let mut m = Machine::new();
        let frame = 0x5000;
        m.set_user_pte(1, Pte(frame | 0x67));
        m.ram.memory().write(GuestPhys(frame), code).unwrap();
        m.vm.user.set(1);
        m.vm.regs.eip.set(0x1000);
        m.vm.regs.ecx.set(7);
        m.vm.moved.set(moved);
        m.world.now = 1_000_000_000;
        let event = Event::Trap {
            vector: 13,
            error: 0,
            cr2: 0,
        };
        // There is no handler: what is delivered ends the Guest.
        let handled = m.host().run_guest(event).is_ok();
        assert_eq!(handled, m.vm.regs.eip.get() != 0x1000);
        m
    }

    const MOVED: Moved = Moved {
        tsc_khz: 1_000_000,
        tsc_at_zero: 5 << 32,
        later: 0,
    };

    #[test]
    fn it_is_read_where_it_faults() {
        for (code, length, ecx) in [
            (&[0x0F, 0x31][..], 2, 7),
            (&[0x66, 0x0F, 0x31], 3, 7),
            (&[0x0F, 0x01, 0xF9], 3, 0),
        ] {
            let m = faulted(code, MOVED);
            let regs = &m.vm.regs;
            assert_eq!(regs.eip.get(), 0x1000 + length);
            assert_eq!((regs.eax.get(), regs.edx.get()), (1_000_000_000, 5));
            assert_eq!(regs.ecx.get(), ecx);
            assert_eq!(m.vm.counters.counter_reads.get(), 1);
        }
    }

    /// A debugger in the Guest sees the place behind the instruction, as it
    /// would without the fault.
    #[test]
    fn a_step_ends_behind_an_instruction_that_was_carried_out() {
        const HANDLER: u32 = 0xC000_7000;
        let fault = Event::Trap {
            vector: 13,
            error: 0,
            cr2: 0,
        };
        for (code, length) in [
            (&[0x0F, 0x31][..], 2),
            (&[0x0F, 0x01, 0xF9], 3),
            (&[0x0F, 0xA2], 2),
        ] {
            for steps in [false, true] {
                let mut m = Machine::new();
                m.set_user_pte(1, Pte(0x5067));
                m.ram.memory().write(GuestPhys(0x5000), code).unwrap();
                m.vm.idt[1].set(Gate {
                    handler: HANDLER,
                    flags: Gate::PRESENT,
                });
                let flags = if steps { EFLAGS_TF } else { 0 };
                m.vm.user.set(1);
                m.vm.regs.eip.set(0x1000);
                m.vm.regs.eflags.set(flags | EFLAGS_RF);
                m.vm.moved.set(MOVED);
                m.world.cpuid = Some([0; 4]);
                m.host().run_guest(fault).unwrap();
                let regs = &m.vm.regs;
                assert_eq!(regs.eflags.get() & EFLAGS_RF, 0);
                if !steps {
                    assert_eq!(regs.eip.get(), 0x1000 + length);
                    continue;
                }
                assert_eq!(regs.eip.get(), HANDLER);
                assert_eq!(m.vm.debug.read(6) >> 14 & 1, 1, "a step");
                let top = GuestVirt(regs.esp.get());
                let pushed = m.host().read_virtual(top);
                assert_eq!(pushed.unwrap(), 0x1000 + length);
            }
        }
    }

    #[test]
    fn another_fault_is_a_fault() {
        for code in [&[0x0F, 0x32][..], &[0x0F, 0x01, 0xF8]] {
            assert_eq!(faulted(code, MOVED).vm.regs.eip.get(), 0x1000);
        }
        let m = faulted(&[0x0F, 0x31], Moved::default());
        assert_eq!(m.vm.regs.eip.get(), 0x1000);
    }
}
