//! The Guest is single-stepped for a debugger, in its kernel and elsewhere.
//!
//! The single-step flag makes the processor trap after each instruction. The
//! Guest does not see the flag: it is set last before the Guest goes on, and is
//! taken back first when it stops. Other parts of the Host that step user code
//! ([`crate::cpu::debug`], [`crate::cpu::reach`]) work below this and see the
//! trap only if they, or the Guest, have wanted it.
//!
//! An instruction that the Host carries out makes no such trap, but the Guest
//! is elsewhere afterwards. All patches are taken back meanwhile. So a step is
//! one instruction of the Guest's, whatever was patched there.

use super::{Debugger, work};
use crate::address::GuestVirt;
use crate::cpu::accesses::sized_accesses;
use crate::cpu::instruction::{MAX_INSTRUCTION, instruction, length, opcode};
use crate::cpu::registers::EFLAGS_TF;
use crate::host::{Event, Host};
use crate::kill::Kill;
use core::sync::atomic::Ordering;
use lg_wire::debug::{Kind, Stop};

/// The vector of debug exceptions.
const DEBUG_VECTOR: u8 = 1;

/// The vector of `int3`.
const BREAKPOINT_VECTOR: u8 = 3;

/// How many instructions are stepped between two interrupts at the least. A
/// step takes a thousand times the time of an instruction. So a handler would
/// take longer than the time to the next tick of the Guest's clock, and nothing
/// else would run.
const PAUSE: u32 = 4096;

/// What an instruction does with the flags: [`Debugger::flag_use`].
mod flag_use {
    pub(super) const NONE: u32 = 0;
    pub(super) const PUSHES: u32 = 1;
    pub(super) const POPS: u32 = 2;
}

/// Whether it is `pop %ss` or a `mov` to it.
fn loads_stack_segment(code: &[u8]) -> bool {
    const SS: u8 = 2;
    instruction(code).is_some_and(|found| match (found.opcode, found.rest) {
        (0x17, _) => true,
        (0x8E, [mod_rm, ..]) => mod_rm >> 3 & 7 == SS,
        _ => false,
    })
}

/// Where the Guest was, to see whether it is elsewhere: eip, and whether it ran
/// user code.
pub(crate) type Whereabouts = (u32, u32);

impl Host<'_> {
    /// Where the Guest is.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        (self.vm.regs.eip.get(), self.vm.user.get())
    }

    /// The Guest is about to go on. Answers whether it does; if not, it has
    /// reached a breakpoint.
    #[cold]
    pub(crate) fn arm_step(&self) -> bool {
        let (debugger, regs) = (&self.vm.debugger, &self.vm.regs);
        let eip = regs.eip.get();
        if debugger.lifted().is_some_and(|(va, _)| va != eip) {
            // An interrupt came first.
            self.put_down();
        }
        let here = |kind, first, last| {
            kind == Kind::Execution && (first..=last).contains(&eip)
        };
        let passes = debugger.passes(eip);
        if !passes && debugger.find(here).is_some() {
            self.stop(Stop::Execution, 0);
            return false;
        }
        if !debugger.is_on() {
            return true;
        }
        debugger.pause.set(debugger.pause.get().saturating_sub(1));
        let mut code = [0; 2 * MAX_INSTRUCTION];
        let read = self.look(self.loaded(), eip, &mut code);
        let code = &code[..read];
        let mut earned = self.set_off(code);
        let mut last = code;
        if loads_stack_segment(code)
            && let Some(length) = length(code)
        {
            // The processor does not trap before it has carried out the next
            // one as well.
            last = &code[length..];
            earned = earned.max(self.set_off(last));
        }
        debugger.earned.set(earned);
        debugger.flag_use.set(match opcode(last) {
            Some(0x9C) => flag_use::PUSHES,
            Some(0x9D | 0xCF) => flag_use::POPS,
            _ => flag_use::NONE,
        });
        let flags = regs.eflags.get();
        debugger.own_step.set(flags & EFLAGS_TF);
        debugger.armed.set(1);
        regs.eflags.set(flags | EFLAGS_TF);
        true
    }

    /// The watchpoint that the instruction `code` sets off, plus one; or 0.
    fn set_off(&self, code: &[u8]) -> u32 {
        let debugger = &self.vm.debugger;
        if !debugger.has(work::COMPARE) {
            return 0;
        }
        let accesses = sized_accesses(code, &self.vm.regs);
        let meets = |kind: Kind, first: u32, last: u32| {
            accesses.iter().flatten().any(|&(access, size)| {
                let from = self.linear(access).0;
                let to = from.saturating_add(size - 1);
                let counts = match kind {
                    Kind::Write => access.write,
                    Kind::Read => !access.write,
                    Kind::Access => true,
                    Kind::Software | Kind::Execution => false,
                };
                counts && from <= last && first <= to
            })
        };
        debugger
            .find(meets)
            .map_or(0, |number| crate::address::as_word(number) + 1)
    }

    /// The Guest cannot go on yet, or has stopped: it has its own flags again.
    #[cold]
    pub(crate) fn put_off_step(&self) {
        let debugger = &self.vm.debugger;
        if debugger.armed.replace(0) != 0 {
            let flags = &self.vm.regs.eflags;
            let own = debugger.own_step.get();
            flags.set(flags.get() & !EFLAGS_TF | own);
        }
    }

    /// The Guest has stopped for `event`. Answers what is left of it.
    #[cold]
    pub(crate) fn end_step(&mut self, event: Event) -> Option<Event> {
        let debugger = &self.vm.debugger;
        let Event::Trap { vector, .. } = event else {
            self.put_off_step();
            return Some(event);
        };
        if vector == DEBUG_VECTOR && debugger.armed.get() != 0 {
            let own = debugger.own_step.get();
            self.put_flags_right(own);
            self.note_done();
            return (own != 0).then_some(event);
        }
        self.put_off_step();
        let is_ours = vector == BREAKPOINT_VECTOR && self.is_at_breakpoint();
        (!is_ours).then_some(event)
    }

    /// A stepped instruction has been carried out: its flags become what they
    /// are without our step, also where it has pushed or popped them.
    fn put_flags_right(&self, own: u32) {
        let (debugger, regs) = (&self.vm.debugger, &self.vm.regs);
        match debugger.flag_use.get() {
            flag_use::POPS => {
                debugger.own_step.set(regs.eflags.get() & EFLAGS_TF);
            }
            flag_use::PUSHES => {
                let top = GuestVirt(regs.esp.get());
                if let Ok(pushed) = self.read_virtual(top) {
                    // It was just written, so it can be.
                    let _ = self.write_virtual(top, pushed & !EFLAGS_TF | own);
                }
            }
            _ => {}
        }
        self.put_off_step();
    }

    /// The Host has decided what `event` means. If it has carried out an
    /// instruction by that, or the Guest goes on in a handler, a step is done.
    #[cold]
    pub(crate) fn note_carried_out(&self, event: Event, before: Whereabouts) {
        let now = self.whereabouts();
        if event == Event::Kick || now == before {
            return;
        }
        let behind = now.0.wrapping_sub(before.0);
        if now.1 != before.1 || behind as usize > MAX_INSTRUCTION {
            // What it would have set off has not happened.
            self.vm.debugger.earned.set(0);
        }
        self.note_done();
    }

    /// Delivers an interrupt, unless the debugger means the next instruction. A
    /// Guest that waits for an interrupt gets it, and a step ends there.
    #[cold]
    pub(crate) fn interrupt_under_debugger(&mut self) -> Result<(), Kill> {
        let vm = self.vm;
        let debugger = &vm.debugger;
        let waits = debugger.keeps_interrupts() || debugger.pause.get() != 0;
        if vm.halted.get() == 0 && waits {
            return Ok(());
        }
        let before = self.whereabouts();
        self.maybe_do_interrupt()?;
        if self.whereabouts() != before {
            debugger.pause.set(PAUSE);
            if debugger.has(work::STEP) {
                self.stop(Stop::Step, 0);
            }
        }
        Ok(())
    }

    /// One instruction is done.
    fn note_done(&self) {
        let debugger = &self.vm.debugger;
        self.put_down();
        let earned = debugger.earned.replace(0) as usize;
        let compared = earned
            .checked_sub(1)
            .and_then(|number| debugger.compared.get(number));
        if let Some(compared) = compared {
            let stop = match Kind::from_number(compared.kind.get()) {
                Some(Kind::Write) => Stop::Write,
                Some(Kind::Read) => Stop::Read,
                _ => Stop::Access,
            };
            self.stop(stop, compared.first.get());
        } else if debugger.has(work::STEP) {
            self.stop(Stop::Step, 0);
        }
    }

    /// The Guest stands before its next instruction. The Launcher learns why
    /// when the Host asks to stand.
    pub(crate) fn stop(&self, stop: Stop, value: u32) {
        self.vm.debugger.note_stop(stop, value);
        self.vm.wire.break_wanted.store(1, Ordering::SeqCst);
    }

    /// An `int3` has trapped; eip is behind it. If it is a breakpoint, eip goes
    /// back to it, and the Guest is to stand. If the Guest's code sees it at
    /// another address than the debugger, as two programs may that share a
    /// page, it is stepped over instead.
    fn is_at_breakpoint(&self) -> bool {
        let va = GuestVirt(self.vm.regs.eip.get().wrapping_sub(1));
        let Some(planted) = self.breakpoint_at(va) else {
            return false;
        };
        self.vm.regs.eip.set(va.0);
        if planted == va {
            self.stop(Stop::Breakpoint, 0);
        } else {
            self.lift_at(va);
        }
        true
    }

    /// Lifts the breakpoint at `va` for one instruction, if there is one.
    pub(super) fn lift_at(&self, va: GuestVirt) {
        let debugger = &self.vm.debugger;
        if let Some((planted, place)) = self.lift_breakpoint(va) {
            // The next instruction is at `va`, and it comes back to `planted`.
            debugger.lifted[0].set(va.0);
            debugger.lifted[1].set(place.0);
            debugger.planted.set(planted.0);
            debugger.set(work::LIFTED);
        }
    }

    /// Puts the breakpoint back that was lifted, if one was.
    pub(super) fn put_down(&self) {
        let debugger: &Debugger = &self.vm.debugger;
        if let Some((_, place)) = debugger.lifted() {
            debugger.clear(work::LIFTED);
            self.put_breakpoint(GuestVirt(debugger.planted.get()), place);
        }
    }
}
