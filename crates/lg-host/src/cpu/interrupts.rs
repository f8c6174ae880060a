//! Interrupts: a bit each, delivered when the Guest is ready for one.
//!
//! The Guest switches interrupts on and off by writing `irq_enabled` in the
//! shared page, and blocks single ones in a bitmap beside it. None may be
//! delivered between a store to `irq_enabled` and the `iret` that belongs to
//! it. The Guest has named that stretch of code at LGUEST_INIT.

use crate::address::GuestVirt;
use crate::cpu::traps::low_byte;
use crate::host::Host;
use crate::kill::Kill;
use crate::turns;
use core::sync::atomic::Ordering;
use lg_abi::shared::{FIRST_EXTERNAL_VECTOR, IF};
use lg_wire::trace::{Kind, wait};

impl Host<'_> {
    /// Whether an interrupt waits that is not blocked.
    pub(crate) fn has_interrupt(&self) -> bool {
        self.pending() != 0
    }

    /// Delivers the lowest pending interrupt, if the Guest will take one.
    pub(crate) fn maybe_do_interrupt(&mut self) -> Result<(), Kill> {
        let vm = self.vm;
        let pending = self.pending();
        if pending == 0 {
            if vm.wire.irqs.load(Ordering::SeqCst) != 0 {
                self.trace_wait(wait::BLOCKED);
                self.retry_later();
            }
            return Ok(());
        }
        let eip = vm.regs.eip.get();
        let in_noirq = !vm.in_user_mode()
            && (vm.noirq_start.get()..vm.noirq_end.get()).contains(&eip);
        if in_noirq {
            self.trace_wait(wait::NO_IRQ);
            self.retry_soon();
            return Ok(());
        }
        if vm.halted.get() != 0 {
            // Waiting for an interrupt means wanting one.
            vm.halted.set(0);
            self.set_irq_enabled(IF)?;
        } else if !self.takes_interrupts()? {
            self.trace_wait(wait::OFF);
            self.set_irq_pending(true)?;
            self.retry_soon();
            return Ok(());
        }
        let irq = pending.trailing_zeros();
        turns::lower(&vm.wire.irqs, irq);
        vm.retry_at.set(0);
        self.write_time()?;
        let gate = vm.idt[(FIRST_EXTERNAL_VECTOR + irq) as usize].get();
        if gate.is_present() {
            // An interrupt without a handler is dropped, as in the original:
            // a device may raise one before its driver is there.
            vm.counters.interrupts[irq as usize].count();
            vm.pci.note_delivered(irq);
            let raised = vm.wire.irqs.load(Ordering::SeqCst);
            let words = [gate.handler, raised, 0];
            self.trace(Kind::Delivered, low_byte(irq).into(), words);
            // While debug registers are on, RF is the Guest's: it has had the
            // trap of the breakpoint at the next instruction already.
            if !vm.debug.is_watching() {
                self.clear_resume_flag();
            }
            self.go_through(gate, None)?;
        } else {
            self.trace(Kind::Dropped, low_byte(irq).into(), [0; 3]);
        }
        let more = self.pending() != 0;
        self.set_irq_pending(more)?;
        if more {
            self.retry_soon();
        } else if vm.wire.irqs.load(Ordering::SeqCst) != 0 {
            self.retry_later();
        }
        Ok(())
    }

    /// `blocked_interrupts` of the shared page; everything is blocked before
    /// there is one.
    pub(crate) fn blocked_interrupts(&self) -> u32 {
        if !self.vm.is_initialised() {
            return u32::MAX;
        }
        self.memory
            .word(self.shared(self.layout().blocked_interrupts))
            .unwrap_or(u32::MAX)
    }

    /// Whether the Guest has interrupts switched on.
    pub(crate) fn takes_interrupts(&self) -> Result<bool, Kill> {
        Ok(wants_interrupts(self.irq_enabled()?))
    }

    /// `irq_enabled` of the shared page.
    pub(crate) fn irq_enabled(&self) -> Result<u32, Kill> {
        self.memory.word(self.shared(self.layout().irq_enabled))
    }

    /// Says in the shared page whether an interrupt waits, where the Guest's
    /// release has a field for it. The Guest looks there when it switches
    /// interrupts on by `popf`, and calls SEND_INTERRUPTS. Up to 4.0 it does
    /// not look when it does so by `sti`, so the Host offers the interrupt
    /// again by itself, too.
    fn set_irq_pending(&self, waits: bool) -> Result<(), Kill> {
        match self.layout().irq_pending {
            Some(field) => {
                self.store(self.shared(field), if waits { IF } else { 0 })
            }
            None => Ok(()),
        }
    }

    pub(crate) fn set_irq_enabled(&self, value: u32) -> Result<(), Kill> {
        self.store(self.shared(self.layout().irq_enabled), value)
    }

    /// Tells the Guest the time of day.
    pub(crate) fn write_time(&mut self) -> Result<(), Kill> {
        let now = self.wall_clock();
        self.store(self.shared(self.layout().time_sec), now.sec)?;
        self.store(self.shared(self.layout().time_nsec), now.nsec)
    }

    /// Tells the Guest where it faulted.
    pub(crate) fn set_cr2(&self, va: GuestVirt) -> Result<(), Kill> {
        if !self.vm.is_initialised() {
            return Ok(());
        }
        self.store(self.shared(self.layout().cr2), va.0)
    }

    fn pending(&self) -> u32 {
        let irqs = self.vm.wire.irqs.load(Ordering::SeqCst);
        if irqs == 0 {
            return 0;
        }
        irqs & !self.blocked_interrupts()
    }
}

/// What `irq_enabled` means. Any value but 0 switches interrupts on; but on
/// its way out of a trap a kernel stores all of its saved flags there, and
/// those say it with the interrupt flag. Flags are told by the bit that is
/// always set in them.
fn wants_interrupts(irq_enabled: u32) -> bool {
    /// Bit 1 of eflags is always set.
    const ALWAYS_SET: u32 = 2;
    if irq_enabled & ALWAYS_SET == 0 {
        irq_enabled != 0
    } else {
        irq_enabled & IF != 0
    }
}

#[cfg(test)]
mod tests {
    use super::wants_interrupts;
    use crate::address::{GuestPhys, GuestVirt};
    use crate::cpu::registers::EFLAGS_RF;
    use crate::host::Event;
    use crate::state::Gate;
    use crate::testing::Machine;
    use core::sync::atomic::Ordering;
    use lg_abi::known::Known;
    use lg_abi::layout::Field;
    use lg_abi::shared::{FIRST_EXTERNAL_VECTOR, IF, offset};

    const TIMER: u32 = 0xC000_4000;

    /// For a Guest whose timer is to go off at `deadline`, after the wall clock
    /// was set: whether it has gone off at `now`, and what time the Guest sees.
    fn after_a_jump(clock_set: i32, deadline: u64, now: u64) -> (bool, u32) {
        let mut m = Machine::new();
        let memory = m.ram.memory();
        let shared = |offset| GuestPhys(Machine::DATA + offset);
        memory.set_word(shared(offset::IRQ_ENABLED), IF).unwrap();
        m.vm.idt[FIRST_EXTERNAL_VECTOR as usize].set(Gate {
            handler: TIMER,
            flags: Gate::PRESENT,
        });
        m.vm.deadline.set(deadline);
        m.world.clock_set = clock_set;
        m.world.now = now;
        m.vm.wire.kick.fetch_add(1, Ordering::SeqCst);
        m.host().run_guest(Event::Kick).unwrap();
        let went_off = m.vm.regs.eip.get() == TIMER;
        m.host().write_time().unwrap();
        (went_off, memory.word(shared(offset::TIME_SEC)).unwrap())
    }

    /// The processor sets RF when a page is missing in the shadow. The Guest
    /// sees no fault then, and an interrupt that comes instead of the next
    /// instruction pushes no RF.
    #[test]
    fn an_interrupt_behind_a_shadow_fault_pushes_no_resume_flag() {
        let mut m = Machine::new();
        let memory = m.ram.memory();
        let shared = |offset| GuestPhys(Machine::DATA + offset);
        memory.set_word(shared(offset::IRQ_ENABLED), IF).unwrap();
        m.vm.idt[FIRST_EXTERNAL_VECTOR as usize].set(Gate {
            handler: TIMER,
            flags: Gate::PRESENT,
        });
        m.vm.wire.irqs.store(1, Ordering::SeqCst);
        m.vm.regs.eflags.set(0x202 | EFLAGS_RF);
        m.host().run_guest(Event::Kick).unwrap();
        assert_eq!(m.vm.regs.eip.get(), TIMER);
        let eflags = GuestVirt(m.vm.regs.esp.get() + 8);
        assert_eq!(m.host().read_virtual(eflags).unwrap(), 0x202);
    }

    #[test]
    fn a_guest_of_generation_2_is_told_that_an_interrupt_waits() {
        let known = Known::Linux3_1;
        let layout = &known.interface().layout;
        let mut m = Machine::new();
        m.vm.interface.set(known as u32);
        let memory = m.ram.memory();
        let shared = |field: Field| GuestPhys(Machine::DATA + field.offset());
        let status = shared(layout.hcall_status);
        memory.write(status, &[0xFF; 64]).unwrap();
        let pending = shared(layout.irq_pending.unwrap());
        for vector in [0, 5] {
            let handler = TIMER + vector;
            m.vm.idt[(FIRST_EXTERNAL_VECTOR + vector) as usize].set(Gate {
                handler,
                flags: Gate::PRESENT | Gate::INTERRUPT,
            });
        }
        m.vm.wire.irqs.store(1 | 1 << 5, Ordering::SeqCst);
        m.host().maybe_do_interrupt().unwrap();
        assert_eq!(memory.word(pending), Ok(IF), "interrupts are off");
        for (handler, waits) in [(TIMER, IF), (TIMER + 5, 0)] {
            let enabled = shared(layout.irq_enabled);
            memory.set_word(enabled, IF).unwrap();
            m.host().maybe_do_interrupt().unwrap();
            assert_eq!(m.vm.regs.eip.get(), handler);
            assert_eq!(memory.word(pending), Ok(waits));
            assert_eq!(memory.word(enabled), Ok(0));
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_no_timer_and_is_told() {
        const YEAR: i32 = 31_536_000;
        for jump in [0, 1, -1, YEAR, -YEAR] {
            let time = 1_190_000_000_u32.wrapping_add_signed(jump);
            assert_eq!(after_a_jump(jump, 5_000, 4_999), (false, time));
            assert_eq!(after_a_jump(jump, 5_000, 5_000), (true, time));
        }
    }

    #[test]
    fn saved_flags_without_the_interrupt_flag_do_not_switch_it_on() {
        for (irq_enabled, wanted) in [
            (0, false),
            (512, true),
            (1, true),
            (0x246, true),
            (0x46, false),
        ] {
            assert_eq!(wants_interrupts(irq_enabled), wanted);
        }
    }
}
