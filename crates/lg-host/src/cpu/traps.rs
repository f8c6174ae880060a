//! How a trap gets into the Guest. How it gets out is in [`crate::cpu::iret`].
//!
//! What a processor would do, done by hand: change to the kernel's stack if
//! the trap comes from user mode, push the frame that the handler expects, and
//! go on at the gate's address. The frame carries the selectors and the
//! interrupt flag that the Guest believes in, not the real ones.

use crate::address::{GuestPhys, GuestVirt, as_word};
use crate::cpu::registers::{
    EFLAGS_AC, EFLAGS_NT, EFLAGS_RF, EFLAGS_TF, EFLAGS_VM,
};
use crate::host::Host;
use crate::kill::Kill;
use crate::state::Gate;
use lg_abi::page::PAGE_SIZE;
use lg_abi::segment::KERNEL_CS;
use lg_abi::shared::IF;
use lg_wire::trace::Kind;

/// Vectors at which the processor pushes an error code (Intel SDM volume 3,
/// "Exception and Interrupt Reference").
const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

/// A vector as a byte: there are 256.
pub(crate) const fn low_byte(vector: u32) -> u8 {
    vector.to_le_bytes()[0]
}

/// A stack of the Guest's from which words are popped. Its page is looked up
/// once as long as the words lie in one page, and the Guest's mode and its
/// page directory stay the same.
pub(crate) struct Stack {
    /// Where the next word is.
    pub(crate) at: u32,
    /// A page, and where it is.
    page: Option<(u32, GuestPhys)>,
}

impl Stack {
    /// The stack whose top is at `at`.
    pub(crate) fn new(at: u32) -> Self {
        Self { at, page: None }
    }

    /// Where `length` bytes at `va` are, if they lie in the known page.
    fn place(&self, va: GuestVirt, length: u32) -> Option<GuestPhys> {
        let (number, place) = self.page?;
        let is_in = va.page_number() == number
            && va.page_offset() <= PAGE_SIZE - length;
        is_in.then(|| place.plus(va.page_offset()))
    }
}

impl Host<'_> {
    /// Delivers trap `vector`. `error` is dropped where the vector has none,
    /// and 0 where it should have one.
    pub(crate) fn deliver_trap(
        &mut self,
        vector: u8,
        error: Option<u32>,
    ) -> Result<(), Kill> {
        let gate = self.gate_for_trap(vector, error.unwrap_or(0))?;
        let error = has_error_code(vector).then(|| error.unwrap_or(0));
        self.go_through(gate, error)
    }

    /// The gate of trap `vector`, which is about to be delivered.
    pub(crate) fn gate_for_trap(
        &self,
        vector: u8,
        error: u32,
    ) -> Result<Gate, Kill> {
        let gate = self.vm.idt[usize::from(vector)].get();
        if !gate.is_present() || !self.vm.is_initialised() {
            return Err(self.unhandled(vector, error));
        }
        if let Some(counter) = self.vm.counters.traps.get(usize::from(vector)) {
            counter.count();
        }
        let cr2 = self.shadow.last_fault().0;
        let words = [error, gate.handler, cr2];
        self.trace(Kind::Trap, u16::from(vector), words);
        Ok(gate)
    }

    /// Does what a processor does at a gate.
    pub(crate) fn go_through(
        &mut self,
        gate: Gate,
        error: Option<u32>,
    ) -> Result<(), Kill> {
        let [eip, cs, flags] = self.interrupted()?;
        let mut stack = self.vm.regs.esp.get();
        if self.vm.in_user_mode() {
            let (esp, ss) = (stack, self.vm.ss.get());
            stack = self.enter_kernel_level();
            match error {
                Some(error) => {
                    self.push_all(&mut stack, [error, eip, cs, flags, esp, ss])
                }
                None => self.push_all(&mut stack, [eip, cs, flags, esp, ss]),
            }?;
        } else {
            match error {
                Some(error) => {
                    self.push_all(&mut stack, [error, eip, cs, flags])
                }
                None => self.push_all(&mut stack, [eip, cs, flags]),
            }?;
        }
        self.go_on_at_gate(gate, stack)
    }

    /// eip, cs and flags as a trap pushes them.
    pub(crate) fn interrupted(&self) -> Result<[u32; 3], Kill> {
        let regs = &self.vm.regs;
        let mut flags = regs.eflags.get() & !IF;
        if self.irq_enabled()? & IF != 0 {
            flags |= IF;
        }
        Ok([regs.eip.get(), self.vm.cs.get(), flags])
    }

    /// Leaves user level, and answers where the kernel's stack is. User code
    /// has no right to that stack, so this comes before anything is pushed.
    pub(crate) fn enter_kernel_level(&self) -> u32 {
        let vm = self.vm;
        vm.ss.set(vm.ss1.get());
        vm.cs.set(u32::from(KERNEL_CS));
        vm.user.set(0);
        vm.esp1.get()
    }

    /// The frame is on the stack: goes on at the gate's handler.
    pub(crate) fn go_on_at_gate(
        &mut self,
        gate: Gate,
        stack: u32,
    ) -> Result<(), Kill> {
        let regs = &self.vm.regs;
        regs.esp.set(stack);
        regs.eip.set(gate.handler);
        self.note_handler(gate);
        // AC is cleared, too. It counts at privilege level 3, where the Guest's
        // kernel runs here and its own processor would not.
        let cleared = EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_AC | EFLAGS_VM;
        regs.eflags.set(regs.eflags.get() & !cleared);
        if gate.switches_interrupts_off() {
            self.set_irq_enabled(0)?;
        }
        Ok(())
    }

    fn unhandled(&self, vector: u8, error: u32) -> Kill {
        let detail = if u32::from(vector) == lg_abi::shared::PAGE_FAULT_VECTOR {
            self.shadow.last_fault().0
        } else {
            error
        };
        let eip = self.vm.regs.eip.get();
        Kill::UnhandledTrap {
            vector,
            eip,
            detail,
        }
    }

    /// Pushes `words` so that they lie in memory in this order.
    pub(crate) fn push_all<const N: usize>(
        &mut self,
        stack: &mut u32,
        words: [u32; N],
    ) -> Result<(), Kill> {
        self.write_words_below(GuestVirt(*stack), words)?;
        *stack = stack.wrapping_sub(as_word(N) * 4);
        Ok(())
    }

    /// Pops `N` words, in the order in which they lie in memory.
    #[inline]
    pub(crate) fn pop_all<const N: usize>(
        &mut self,
        stack: &mut Stack,
    ) -> Result<[u32; N], Kill> {
        let va = GuestVirt(stack.at);
        let length = as_word(N) * 4;
        let place = stack.place(va, length).or_else(|| {
            let start = GuestVirt(va.0 - va.page_offset());
            let place = self.locate(start)?;
            stack.page = Some((va.page_number(), place));
            stack.place(va, length)
        });
        let words = match place {
            Some(place) => self.memory.words(place)?,
            None => self.read_words(va)?,
        };
        stack.at = stack.at.wrapping_add(length);
        Ok(words)
    }

    pub(crate) fn pop(&self, stack: &mut u32) -> Result<u32, Kill> {
        let word = self.read_virtual(GuestVirt(*stack))?;
        *stack = stack.wrapping_add(4);
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use crate::host::Event;
    use crate::kill::Kill;
    use crate::testing::Machine;

    #[test]
    fn user_code_ends_where_its_segment_does() {
        for eip in [0xC000_0000, 0xC000_1000, 0xFFFF_F000] {
            let mut m = Machine::new();
            m.vm.user.set(1);
            m.vm.regs.eip.set(eip);
            let kill = m.host().run_guest(Event::Kick).unwrap_err();
            let (vector, detail) = (14, eip);
            assert_eq!(
                kill,
                Kill::UnhandledTrap {
                    vector,
                    eip,
                    detail
                }
            );
        }
        let mut m = Machine::new();
        m.vm.user.set(1);
        m.vm.regs.eip.set(0xBFFF_FFFF);
        assert_eq!(m.host().run_guest(Event::Kick), Ok(()));
    }
}
