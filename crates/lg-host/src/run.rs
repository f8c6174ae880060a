//! What happens between a trap and the Guest's next instruction.
//!
//! The Switcher brings an [`Event`]: the Guest has trapped, or somebody has
//! kicked it. First the ring of hypercalls is emptied, for the Guest may have
//! left work there. Then the event is decided, in one place ([`Host::decide`]).
//! Then everything is done that has to be done before the Guest may go on
//! ([`Host::get_ready`]): sleep if it halted, interrupts, another view if it
//! changed its page directory, segments. Whoever comes back from there may
//! load the registers and go.

use crate::address::{GuestVirt, as_word};
use crate::cpu::instruction::MAX_INSTRUCTION;
use crate::cpu::registers::{EFLAGS_AC, EFLAGS_RF};
use crate::fast_path;
use crate::kill::Kill;
use crate::memory::Memory;
use crate::outbox::Outboxes;
use crate::paging::{Fault, Shadow};
use crate::patch::TrampolineKind;
use crate::state::Vm;
use crate::turns;
use crate::world::{Mapper, World};
use core::sync::atomic::Ordering;
use lg_abi::hypercall::HYPERCALL_VECTOR;
use lg_abi::shared::{FPU_VECTOR, PAGE_FAULT_VECTOR, SYSCALL_VECTOR};
use lg_wire::state::input;

/// Why the Host was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The processor trapped.
    Trap {
        /// The vector.
        vector: u8,
        /// The error code, 0 for vectors that have none.
        error: u32,
        /// The address, for a page fault.
        cr2: u32,
    },
    /// `int $0x80`; eip stands behind it.
    SystemCall,
    /// A system call by an instruction that this machine does not have:
    /// `sysenter` or `syscall`. Where from is lost.
    StraySystemCall,
    /// Guest code was found running in 64-bit mode.
    LongMode,
    /// It came through a trampoline.
    Trampoline(TrampolineKind),
    /// A timer, another view or the Launcher wants attention.
    Kick,
}

/// The bit of a page fault's error code that says that a protection key forbade
/// the access (Intel SDM volume 3, "Page-Fault Exceptions").
pub const PROTECTION_KEY: u32 = 1 << 5;

/// How long to wait before an interrupt that the Guest would not take is
/// offered again, in nanoseconds. Guests of this kind do not look for pending
/// interrupts when they switch them on.
///
/// MASTERY: write-protecting the page of `irq_enabled` while something is
/// pending would tell us the moment, as the original's author wished.
const RETRY_AFTER: u64 = 200_000;

/// How often a Guest that works asks the Launcher whether it is still on the
/// best processor, in nanoseconds. One that sleeps does not ask.
const BALANCE_EVERY: u64 = 100_000_000;

/// The same for one that the Guest has blocked. That may be for long: so once
/// in what was a tick of the clock, when hosts had one. A Guest that sleeps
/// cannot unblock anything, and is left alone.
const RETRY_BLOCKED_AFTER: u64 = 4_000_000;

/// The Host of one view: all that it works with.
pub struct Host<'a> {
    /// What all views share.
    pub vm: &'a Vm,
    /// The Guest's memory.
    pub memory: Memory,
    /// Copies of pages of the Guest's: [`crate::patch::patched copies`].
    pub copies: Memory,
    /// Frames for other Guests.
    pub outboxes: Outboxes,
    /// What this view maps.
    pub shadow: Shadow<'a>,
    /// Changes what it maps.
    pub mapper: &'a mut dyn Mapper,
    /// Everything else.
    pub world: &'a mut dyn World,
}

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
        self.note_stack_segment();
        let (event, watched) = self.end_debug(event);
        if self.has_reached_far() && self.end_reach(event) && !watched {
            return self.get_ready();
        }
        let event = self.step_back(event);
        self.do_async_hcalls()?;
        self.decide(event)?;
        self.get_ready()
    }

    /// Everything that must happen before the Guest's next instruction,
    /// whatever happened before. Blocks like [`Self::run_guest`].
    ///
    /// # Errors
    ///
    /// A [`Kill`]: the Guest must not run again.
    pub fn get_ready(&mut self) -> Result<(), Kill> {
        if self.has_reached_far() {
            self.put_off_reach();
        }
        self.put_off_debug();
        loop {
            self.look_around();
            if self.vm.wire.break_wanted.load(Ordering::SeqCst) != 0 {
                self.world.broken_out()?;
                continue;
            }
            self.do_async_hcalls()?;
            if self.vm.halted.get() != 0 && !self.has_interrupt() {
                self.halt()?;
                continue;
            }
            self.maybe_do_interrupt()?;
            // A Guest that is busy changes its mind about the next tick all
            // the time. A kick too many costs less than to follow it.
            self.arm_timer(self.may_take(fast_path::LAZY_TIMER));
            if self.vm.cr3.get() == self.shadow.cr3() {
                break;
            }
            self.leave_for_other_view()?;
        }
        if self.vm.in_user_mode() {
            let fpu = FPU_VECTOR as usize;
            if self.vm.ts.get() != 0 && self.vm.idt[fpu].get().is_present() {
                // We cannot make the next FPU instruction trap, so the Guest
                // gets its trap before any instruction.
                self.vm.counters.fpu_traps.count();
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
        Ok(())
    }

    /// Where user code goes on above PAGE_OFFSET, in a page that the tables do
    /// not give to it, the fetch faults. However it has come there (an `iret`
    /// is enough), it is told so before it goes on, for our way out would
    /// fault where its segment ends, and so not fault as the Guest's would.
    fn stop_beyond_limit(&mut self) -> Result<(), Kill> {
        let eip = GuestVirt(self.vm.regs.eip.get());
        if self.may_run_at(eip) {
            return Ok(());
        }
        self.vm.counters.limit_faults.count();
        self.shadow.set_last_fault(eip);
        let error = u32::from(self.is_present(eip)) | 1 << 2;
        self.set_cr2(eip)?;
        self.deliver_trap(low_byte(PAGE_FAULT_VECTOR), Some(error))
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
            Event::SystemCall => {
                self.patch_entry_page();
                self.make_patched_copy()?;
                self.system_call()
            }
            Event::StraySystemCall => {
                // What the Guest's processor would say to an instruction that
                // it does not have. Where it stood, nobody knows.
                self.vm.regs.eip.set(0);
                self.deliver_trap(6, None)
            }
            Event::LongMode => self.long_mode(),
            Event::Trap {
                vector: 13, error, ..
            } => self.general_protection(error),
            Event::Trap {
                vector: 14, error, ..
            } if error & PROTECTION_KEY != 0 => {
                // The Guest's processor has no protection keys. Whatever its
                // code has written to their register is gone by now, and the
                // instruction is carried out again.
                self.vm.counters.key_faults.count();
                Ok(())
            }
            Event::Trap {
                vector: 14,
                error,
                cr2,
            } => self.page_fault(GuestVirt(cr2), error & 3),
            Event::Trap {
                vector: 12,
                error: 0,
                ..
            } if self.vm.in_user_mode() => self.limit_or(12),
            Event::Trap { vector: 17, .. } if !self.vm.in_user_mode() => {
                // Alignment checks are for privilege level 3; that a kernel
                // runs there is our doing.
                let flags = self.vm.regs.eflags.get() & !EFLAGS_AC;
                self.vm.regs.eflags.set(flags);
                Ok(())
            }
            Event::Trap {
                vector: vector @ (3 | 4),
                ..
            } => {
                if vector == 3 && self.is_copys_call()? {
                    return Ok(());
                }
                let gate = self.vm.idt[usize::from(vector)].get();
                if gate.is_present() && !gate.allows(self.vm.cpl()) {
                    // `int3` and `into` ask for the gate's permission, and
                    // this one gave none: eip goes back to the instruction.
                    let eip = self.vm.regs.eip.get();
                    self.vm.regs.eip.set(eip.wrapping_sub(1));
                    let error = u32::from(vector) << 3 | 2;
                    return self.deliver_trap(13, Some(error));
                }
                self.deliver_trap(vector, None)
            }
            Event::Trap { vector, error, .. } => {
                self.deliver_trap(vector, Some(error))
            }
        }
    }

    /// Where user code stands that has jumped into its kernel, if it has. The
    /// jump itself is not always noticed, for the code segment has no end where
    /// that would cost time; but the kernel's code does not get it far.
    fn strayed(&self, event: Event) -> Option<GuestVirt> {
        let behind = match event {
            Event::Trap { vector: 3 | 4, .. } => 1,
            Event::Trap { .. } => 0,
            Event::SystemCall => 2,
            _ => return None,
        };
        let eip = GuestVirt(self.vm.regs.eip.get().wrapping_sub(behind));
        let strayed = self.vm.in_user_mode() && !self.may_run_at(eip);
        strayed.then_some(eip)
    }

    /// A page fault at `va`; `error` has the write bit in bit 1.
    pub(crate) fn page_fault(
        &mut self,
        va: GuestVirt,
        error: u32,
    ) -> Result<(), Kill> {
        let user = self.vm.in_user_mode();
        if va.is_switchers() && !user {
            let eip = self.vm.regs.eip.get();
            return Err(Kill::TouchedSwitcher { va: va.0, eip });
        }
        let write = error & 2 != 0;
        match self.demand_page(va, write, user)? {
            Fault::Mapped => {
                self.vm.counters.shadow_faults.count();
                return Ok(());
            }
            Fault::Guests | Fault::Unmappable if user && self.fix_tls() => {
                self.vm.counters.tls_fixes.count();
                return Ok(());
            }
            Fault::Guests => {}
            Fault::Unmappable => {
                // As a page fault it would come back for ever: the Guest's
                // kernel finds nothing to put right. This trap is SIGSEGV for
                // a program, and EFAULT for a kernel that copies.
                self.vm.counters.guest_faults.count();
                return self.deliver_trap(13, Some(0));
            }
        }
        self.vm.counters.guest_faults.count();
        let present = u32::from(self.is_present(va));
        let error = present | error & 2 | u32::from(user) << 2;
        self.set_cr2(va)?;
        self.deliver_trap(low_byte(PAGE_FAULT_VECTOR), Some(error))
    }

    /// A general protection fault: nearly everything that a kernel does and
    /// that privilege level 3 may not do arrives here.
    fn general_protection(&mut self, error: u32) -> Result<(), Kill> {
        let mut code = [0; MAX_INSTRUCTION];
        let fetched = self.fetch(GuestVirt(self.vm.regs.eip.get()), &mut code);
        let code = &code[..fetched];
        let user = self.vm.in_user_mode();

        if let &[0xCD, vector, ..] = code
            && error == u32::from(vector) << 3 | 2
        {
            return self.software_interrupt(vector, error);
        }
        if !user {
            if let [0xCF, ..] = code {
                self.vm.counters.irets.count();
                self.patch_iret();
                return self.iret();
            }
            if self.debug_register(code) || self.set_debug_register(code)? {
                self.vm.counters.debug_registers.count();
                return Ok(());
            }
        }
        if self.load_segment(code, error)? {
            self.vm.counters.segment_loads.count();
            return Ok(());
        }
        if error == 0 {
            if self.cpuid(code) {
                self.vm.counters.cpuids.count();
                return Ok(());
            }
            if self.fix_data_segments() {
                self.vm.counters.segment_fixes.count();
                if !user {
                    self.patch_segment_load();
                }
                return Ok(());
            }
            if user {
                return self.limit_or(13);
            }
            if self.port_io(code) {
                self.vm.counters.port_io.count();
                return Ok(());
            }
        }
        self.deliver_trap(13, Some(error))
    }

    /// Only faults push RF (SDM volume 3, 19.3.1.1). The processor has set it
    /// for a trap that the Guest does not see.
    pub(crate) fn clear_resume_flag(&self) {
        let flags = self.vm.regs.eflags.get() & !EFLAGS_RF;
        self.vm.regs.eflags.set(flags);
    }

    /// `int $vector` by code that the real processor would not let through.
    fn software_interrupt(
        &mut self,
        vector: u8,
        error: u32,
    ) -> Result<(), Kill> {
        let gate = self.vm.idt[usize::from(vector)].get();
        let eip = self.vm.regs.eip.get();
        if vector == HYPERCALL_VECTOR && !self.vm.in_user_mode() {
            self.patch_hypercall();
            self.vm.regs.eip.set(eip.wrapping_add(2));
            return self.do_hypercall();
        }
        // Those that we have to see for ourselves stay ours, whatever their
        // gates say: nobody shall forge a page fault.
        let callable = vector < 32 && !matches!(vector, 7 | 13 | 14)
            || u32::from(vector) == SYSCALL_VECTOR;
        if callable && gate.allows(self.vm.cpl()) {
            self.clear_resume_flag();
            self.vm.regs.eip.set(eip.wrapping_add(2));
            // Not a fault: there is no error code, whatever the vector.
            return self.go_through(gate, None);
        }
        self.deliver_trap(13, Some(error))
    }

    /// `int $0x80`. The kernel may do it, too: that is how it starts init.
    pub(crate) fn system_call(&mut self) -> Result<(), Kill> {
        self.vm.counters.system_calls.count();
        self.expect_debugger();
        let gate = self.vm.idt[SYSCALL_VECTOR as usize].get();
        if gate.is_present() && !gate.allows(self.vm.cpl()) {
            let eip = self.vm.regs.eip.get();
            self.vm.regs.eip.set(eip.wrapping_sub(2));
            return self.deliver_trap(13, Some(SYSCALL_VECTOR << 3 | 2));
        }
        self.deliver_trap(low_byte(SYSCALL_VECTOR), None)
    }

    /// Guest code jumped to the 64-bit code segment. A user program gets the
    /// fault that its own processor would give it; a kernel should know
    /// better.
    fn long_mode(&mut self) -> Result<(), Kill> {
        self.vm.counters.long_mode.count();
        if !self.vm.in_user_mode() {
            return Err(Kill::LongMode);
        }
        self.deliver_trap(13, Some(crate::cpu::segments::REAL_LONG_CS & !3))
    }

    /// A user program's access that a segment's limit may have stopped: the
    /// page fault that the Guest's own processor would have raised, or no
    /// fault at all, if its tables allow the access; or else a thread-local
    /// segment to put right, or else trap `vector`.
    fn limit_or(&mut self, vector: u8) -> Result<(), Kill> {
        if self.fix_data_segments() {
            self.vm.counters.segment_fixes.count();
            return Ok(());
        }
        if self.fix_tls() {
            self.vm.counters.tls_fixes.count();
            return Ok(());
        }
        if self.branch_beyond_limit()? {
            self.vm.counters.limit_faults.count();
            return Ok(());
        }
        let mut code = [0; MAX_INSTRUCTION];
        let fetched = self.fetch(GuestVirt(self.vm.regs.eip.get()), &mut code);
        let code = &code[..fetched];
        let mut beyond = self.beyond_limit(code).into_iter().flatten();
        let Some(first) = beyond.next() else {
            return self.deliver_trap(vector, Some(0));
        };
        let mut all = [first].into_iter().chain(beyond);
        if let Some(bad) = all.find(|&access| !self.may_touch(access)) {
            self.vm.counters.limit_faults.count();
            return self.page_fault(bad.va, u32::from(bad.write) << 1);
        }
        self.reach_further(code);
        Ok(())
    }

    /// Turns deadlines that have come into interrupts. Looks at the clock
    /// only when somebody has kicked.
    fn look_around(&mut self) {
        let kick = self.vm.wire.kick.load(Ordering::SeqCst);
        if !self.shadow.notice_kick(kick) {
            return;
        }
        self.vm.counters.kicks.count();
        self.note_devices();
        let deadline = self.vm.deadline.get();
        let retry_at = self.vm.retry_at.get();
        if deadline == 0 && retry_at == 0 {
            return;
        }
        let now = self.world.monotonic();
        if deadline != 0 && now >= deadline {
            self.vm.deadline.set(0);
            self.vm.counters.timer_ticks.count();
            self.vm.raise(0);
        }
        if retry_at != 0 && now >= retry_at {
            self.vm.retry_at.set(0);
        }
        if now >= self.vm.balance_at.get() {
            self.vm.balance_at.set(now + BALANCE_EVERY);
            self.world.balance();
        }
    }

    /// Sleeps until something comes from outside.
    fn halt(&mut self) -> Result<(), Kill> {
        self.vm.counters.halts.count();
        self.arm_timer(false);
        let vm = self.vm;
        let mut result = Ok(());
        turns::doze(&vm.wire.kick, &vm.wire.asleep, |seen| {
            // First, because the Launcher sends no kick while it is asked.
            self.tell_of_buffers(input::WHEN_IDLE);
            let nothing_came = !self.has_interrupt()
                && vm.wire.break_wanted.load(Ordering::SeqCst) == 0;
            if nothing_came && !self.shadow.is_news(seen) {
                result = self.let_fetch();
                self.world.sleep(seen);
            }
        });
        self.tell_of_buffers(input::WHEN_WOKEN);
        result
    }

    /// Tells the Launcher that the Guest may have freed a buffer, if some
    /// input waits for that. A driver frees a buffer by a word in its own
    /// memory, which nobody else sees; but it has done so before the Guest has
    /// nothing more to do.
    fn tell_of_buffers(&mut self, when: u32) {
        let waits = &self.vm.wire.input_waits;
        if waits.load(Ordering::SeqCst) & when != 0 {
            waits.store(0, Ordering::SeqCst);
            self.vm.counters.input_calls.count();
            self.world.buffers_may_be_free();
        }
    }

    /// An interrupt waits that the Guest does not take now.
    pub(crate) fn retry_soon(&mut self) {
        self.retry_after(RETRY_AFTER);
    }

    /// One waits that it has blocked.
    pub(crate) fn retry_later(&mut self) {
        self.retry_after(RETRY_BLOCKED_AFTER);
    }

    fn retry_after(&mut self, nanoseconds: u64) {
        if self.vm.retry_at.get() == 0 {
            self.vm.counters.retries.count();
            let now = self.world.monotonic();
            self.vm.retry_at.set(now + nanoseconds);
        }
    }

    /// Sees to it that this view is kicked at the next deadline, or `earlier`.
    fn arm_timer(&mut self, earlier: bool) {
        let (a, b) = (self.vm.deadline.get(), self.vm.retry_at.get());
        let next = if a != 0 && b != 0 { a.min(b) } else { a | b };
        self.world.arm(next, earlier);
    }

    /// The Guest's page directory has changed: the rest of its life goes on in
    /// another process. Blocks until this view has the run token again.
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

/// A vector as the processor counts them: there are 256.
const fn low_byte(vector: u32) -> u8 {
    vector.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

    /// What input waits for, and how often the Launcher is told in a sleep.
    #[test]
    fn input_that_waits_is_told_of_once() {
        for (waits, told) in [
            (0, 0),
            (input::WHEN_IDLE, 1),
            (input::WHEN_WOKEN, 1),
            (input::WHEN_IDLE | input::WHEN_WOKEN, 1),
        ] {
            let mut m = Machine::new();
            m.vm.wire.input_waits.store(waits, Ordering::SeqCst);
            for _ in 0..2 {
                m.host().halt().unwrap();
                assert_eq!(m.world.buffer_calls, told, "{waits}");
            }
            assert_eq!(m.vm.wire.input_waits.load(Ordering::SeqCst), 0);
        }
    }
}
