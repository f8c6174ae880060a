//! What happens between a trap and the Guest's next instruction.
//!
//! The Switcher brings an [`Event`]: the Guest has trapped, or a kick has come.
//! First the ring of hypercalls is emptied, because the Guest may have left
//! work there. Then one function decides what the event is ([`Host::decide`]).
//! Then everything is done that has to be done before the Guest goes on
//! ([`Host::get_ready`]): sleep if it halted, interrupts, another view if it
//! changed its page directory, segments. After that the Switcher loads the
//! registers.

use crate::address::as_word;
use crate::cpu::traps::low_byte;
use crate::fast_path;
use crate::host::{Event, Host};
use crate::kill::Kill;
use core::sync::atomic::Ordering;
use lg_abi::shared::FPU_VECTOR;

impl Host<'_> {
    /// The Guest stopped for `event`, its registers are in `vm.regs`. On
    /// return they are ready to be loaded. Blocks while the Guest sleeps,
    /// while the Launcher serves it, and while another view runs.
    ///
    /// # Errors
    ///
    /// A [`Kill`]: the Guest must not run again.
    pub fn run_guest(&mut self, event: Event) -> Result<(), Kill> {
        self.vm.counters.entries.count();
        let event = self.end_crossing(event);
        self.note_stack_segment();
        self.trace_exit(event);
        if let Event::Trampoline(kind) = event
            && !self.vm.debug.is_stepping()
            && !self.has_reached_far()
            && !self.vm.debugger.is_on()
        {
            // Nothing is to be undone. This is most visits.
            self.do_async_hcalls()?;
            self.enter_trampoline(kind)?;
            return self.get_ready();
        }
        self.run_after(event)
    }

    /// As [`Self::run_guest`], where something may have to be undone.
    #[inline(never)]
    fn run_after(&mut self, event: Event) -> Result<(), Kill> {
        let Some(event) = self.end_step(event) else {
            return self.get_ready();
        };
        let is_step = matches!(event, Event::Trap { vector: 1, .. });
        let (event, watched) = self.end_debug(event);
        if self.has_reached_far() && self.end_reach(event) && !watched {
            return self.get_ready();
        }
        let event = self.step_back(event, is_step);
        self.do_async_hcalls()?;
        let before = self.whereabouts();
        self.decide(event)?;
        if self.vm.debugger.is_on() {
            self.note_carried_out(event, before);
        }
        self.get_ready()
    }

    /// Does everything that must be done before the Guest's next instruction.
    /// It may be called twice in a row. Blocks like [`Self::run_guest`].
    ///
    /// # Errors
    ///
    /// A [`Kill`]: the Guest must not run again.
    pub fn get_ready(&mut self) -> Result<(), Kill> {
        loop {
            self.get_ready_to_run()?;
            // A breakpoint at the next instruction is one more reason to stop.
            if !self.vm.debugger.is_on() || self.arm_step() {
                self.trace_resumption();
                return Ok(());
            }
        }
    }

    fn get_ready_to_run(&mut self) -> Result<(), Kill> {
        if self.vm.debugger.is_on() {
            self.put_off_step();
        }
        if self.has_reached_far() {
            self.put_off_reach();
        }
        self.put_off_debug();
        loop {
            self.look_around();
            if self.is_to_stand() {
                self.stand()?;
                continue;
            }
            self.do_async_hcalls()?;
            if self.vm.halted.get() != 0 && !self.has_interrupt() {
                self.halt()?;
                continue;
            }
            if self.vm.debugger.is_on() {
                self.interrupt_under_debugger()?;
                if self.is_to_stand() {
                    continue;
                }
            } else {
                self.maybe_do_interrupt()?;
            }
            // A busy Guest sets its timer again and again. A kick too many
            // costs less than to set the machine's timer each time.
            self.arm_timer(self.may_take(fast_path::LAZY_TIMER));
            if self.vm.cr3.get() != self.shadow.cr3() {
                self.leave_for_other_view()?;
            } else if self.has_old_segments() {
                self.renew_view()?;
            } else {
                break;
            }
        }
        if self.vm.in_user_mode() {
            let fpu = FPU_VECTOR as usize;
            if self.vm.ts.get() != 0 && self.vm.idt[fpu].get().is_present() {
                // The next FPU instruction cannot be made to trap, so the
                // Guest gets its trap before any instruction.
                self.vm.counters.fpu_traps.count();
                self.settle_for_crossing();
                self.deliver_trap(low_byte(FPU_VECTOR), None)?;
            }
        }
        if self.vm.in_user_mode() {
            self.stop_beyond_limit()?;
        }
        if self.vm.in_user_mode() {
            self.arm_debug()?;
        }
        self.settle_segments();
        self.settle_copies()?;
        if self.vm.in_user_mode() {
            self.settle_user_process()?;
            self.settle_extended();
        }
        self.allow_crossings();
        Ok(())
    }

    /// Whether the Launcher, or a debugger's breakpoint, wants the Guest to
    /// stand. The Launcher lets a Guest go on by the word `break_wanted`, and
    /// may do so at the moment at which the Guest stops by itself.
    fn is_to_stand(&self) -> bool {
        self.vm.wire.break_wanted.load(Ordering::SeqCst) != 0
            || self.vm.debugger.has_stopped()
    }

    /// Decides what an event is: a shadow miss, a segment to put right, an
    /// instruction to carry out or step over, a hypercall, something for the
    /// Guest, or its death.
    fn decide(&mut self, event: Event) -> Result<(), Kill> {
        if let Some(va) = self.strayed(event) {
            self.vm.counters.limit_faults.count();
            self.vm.regs.eip.set(va.0);
            return self.page_fault(va, 0);
        }
        match event {
            Event::Kick => Ok(()),
            Event::Trampoline(kind) => self.enter_trampoline(kind),
            Event::Crossing => {
                // A jump there; where it came from is not known.
                self.vm.regs.eip.set(0);
                self.deliver_trap(13, Some(0))
            }
            Event::SystemCall => {
                self.patch_entry_page();
                self.make_patched_copy()?;
                self.system_call()
            }
            Event::StraySystemCall => self.stray_system_call(),
            Event::LongMode => self.long_mode(),
            Event::Trap { vector, error, cr2 } => self.trap(vector, error, cr2),
        }
    }

    /// The Guest's page directory has changed, and another view runs it from
    /// here. Blocks until this view has the run token again.
    fn leave_for_other_view(&mut self) -> Result<(), Kill> {
        if let Some(slot) = self.choose_view()? {
            self.vm.counters.handovers.count();
            self.vm.wire.current.store(as_word(slot), Ordering::SeqCst);
            self.park_extended();
            self.world.hand_over(slot)?;
        }
        self.catch_up()
    }
}
