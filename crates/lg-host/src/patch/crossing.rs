//! Crossings between user mode and the Guest's kernel in 32-bit code.
//!
//! A trampoline changes to 64-bit code and back, which costs more than the
//! kernel needs for a short system call. The Guest sees nothing of that: its
//! programs and its kernel run in 32-bit code at privilege level 3, both. So
//! where nothing but the Guest's mode changes, a *crossing* does it in 32-bit
//! code ([`mod@code`]): from the entry page into the kernel, and by the
//! kernel's `iret` to a program. The kernel's `iret` to itself, behind an
//! interrupt, goes the same way (`back`). The code pushes the frame, or pops
//! it, and writes down in which mode the Guest is ([`words`]).
//!
//! The Host decides at each visit whether a crossing may come before the next
//! one ([`Host::allow_crossings`]). Whatever the code finds unusual goes the
//! slow way, by the trampoline that does the same. What the Host knows of the
//! Guest's mode may be old when it is entered, so it looks first
//! ([`Host::end_crossing`]).
//!
//! A signal in the middle of a crossing finds it in one of two states. In front
//! of the store to `user`, all is undone, and the Guest comes by the trampoline
//! that the crossing stands for. Behind it, what is left is done here.

mod code;
pub mod words;

use super::trampoline::TrampolineKind;
use crate::address::{GuestVirt, as_word};
use crate::cpu::registers::{
    EFLAGS_FIXED, EFLAGS_NT, EFLAGS_USABLE, SegmentRegister,
};
use crate::cpu::selectors::REAL_USER_DS;
use crate::fast_path;
use crate::host::{Event, Host};
use code::{Answered, CODE, Phase};
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use lg_abi::call::CallName;
use lg_abi::interface::Register;
use lg_abi::segment::{GUEST_PL, KERNEL_CS, USER_CS, USER_DS, USER_PL};
use lg_abi::shared::{FPU_VECTOR, SYSCALL_VECTOR};
use lg_wire::trace::group;
use words::{CODE_ADDRESS, Words, word};

pub use code::CODE_SIZE;

/// The code of crossings, which does not depend on where it lies.
#[must_use]
pub fn code() -> &'static [u8; CODE_SIZE] {
    &CODE.bytes
}

/// Whether `eip` is in the code of crossings.
#[must_use]
pub fn is_code(eip: u64) -> bool {
    let start = u64::from(CODE_ADDRESS);
    (start..start + CODE_SIZE as u64).contains(&eip)
}

/// No hypercall has it.
const NO_NUMBER: u32 = u32::MAX;

/// `sigreturn` and `rt_sigreturn` of Linux for i386, in which a kernel loads
/// gs.
const SIGNAL_RETURNS: [u32; 2] = [119, 173];

impl Host<'_> {
    /// A program makes a system call, and the Host sees it. Programs return
    /// from signals by an `int $0x80` of their own, so this sees nearly all of
    /// these.
    pub(crate) fn expect_loads_of_gs(&self) {
        if SIGNAL_RETURNS.contains(&self.vm.regs.eax.get()) {
            self.vm.crossing.unsettle();
        }
    }

    /// Whether patches may lead to crossings.
    pub(crate) fn may_cross(&self) -> bool {
        self.may_take(fast_path::CROSSING) && !self.shadow.has_user_process()
    }

    /// The entry page gets a far call to a crossing: answers where it leads.
    /// `trampoline` does the same by the Host. `to_back`: from behind the call
    /// to behind the `int $0x80`.
    pub(super) fn engage_way_in(&self, trampoline: u32, to_back: u32) -> u32 {
        let words = &self.vm.crossing.words;
        words.entry_trampoline.set(trampoline);
        words.to_back.set(to_back);
        self.engage();
        CODE_ADDRESS + as_word(CODE.way_in)
    }

    /// The kernel's `iret` gets a jump to a crossing: answers where it leads.
    /// `trampoline` does the same by the Host. `variable`: where the kernel
    /// sees `irq_enabled`. `is_later`: the kernel pops nothing.
    pub(super) fn engage_way_out(
        &self,
        trampoline: u32,
        variable: GuestVirt,
        is_later: bool,
    ) -> u32 {
        let words = &self.vm.crossing.words;
        words.trampoline.set(trampoline);
        words.irq_enabled_at.set(variable.0);
        self.engage();
        let way = if is_later {
            CODE.later_way_out
        } else {
            CODE.way_out
        };
        CODE_ADDRESS + as_word(way)
    }

    /// A hypercall gets a near call. `trampoline` does the same by the Host.
    pub(super) fn engage_near(&self, trampoline: u32) {
        let words = &self.vm.crossing.words;
        let interface = self.interface();
        let number = |name| interface.number(name).unwrap_or(NO_NUMBER);
        words.ts_number.set(number(CallName::Ts));
        words.flush_number.set(number(CallName::FlushAsync));
        words.near_trampoline.set(trampoline);
        let near = match interface.arguments {
            [Register::Edx, ..] => CODE.near,
            _ => CODE.later_near,
        };
        words.near.set(CODE_ADDRESS + as_word(near));
        self.engage();
    }

    fn engage(&self) {
        let crossing = &self.vm.crossing;
        crossing.words.begin(self.vm.page_offset.get());
        crossing.words.user.set(u32::from(self.vm.in_user_mode()));
        crossing.engaged.set(1);
    }

    /// The Guest has stopped. Takes over what crossings have changed, and ends
    /// the one in whose middle it is. Answers the event that this is.
    #[inline]
    pub(crate) fn end_crossing(&mut self, event: Event) -> Event {
        if self.vm.crossing.engaged.get() != 0 {
            self.take_crossings();
        }
        match event {
            Event::Crossing => self.end_in_the_middle().unwrap_or(event),
            _ => event,
        }
    }

    /// Takes over the mode, and counts.
    fn take_crossings(&self) {
        let (vm, crossing) = (self.vm, &self.vm.crossing);
        let words = &crossing.words;
        let (ins, outs) = (words.ins.get(), words.outs.get());
        let is_user = words.user.get() != 0;
        let new_ins = ins.wrapping_sub(crossing.ins.replace(ins));
        let new_outs = outs.wrapping_sub(crossing.outs.replace(outs));
        let backs = words.backs.get();
        let new_backs = backs.wrapping_sub(crossing.backs.replace(backs));
        vm.counters.crossings_back.add(u64::from(new_backs));
        self.take_answers();
        if new_ins | new_outs == 0 && is_user == vm.in_user_mode() {
            return;
        }
        vm.counters.crossings_in.add(u64::from(new_ins));
        vm.counters.system_calls.add(u64::from(new_ins));
        vm.counters.crossings_out.add(u64::from(new_outs));
        if is_user {
            vm.user.set(1);
            vm.cs.set(USER_CS.into());
            vm.ss.set(USER_DS.into());
        } else {
            self.enter_kernel_level();
            self.note_handler(vm.idt[SYSCALL_VECTOR as usize].get());
        }
    }

    /// Takes over what hypercalls have said that were answered, and counts.
    #[inline]
    fn take_answers(&self) {
        let (vm, crossing) = (self.vm, &self.vm.crossing);
        let words = &crossing.words;
        let (ts_calls, flushes) = (words.ts_calls.get(), words.flushes.get());
        let new_ts = ts_calls.wrapping_sub(crossing.ts_calls.replace(ts_calls));
        let new_flushes =
            flushes.wrapping_sub(crossing.flushes.replace(flushes));
        if new_ts | new_flushes == 0 {
            return;
        }
        if new_ts != 0 {
            vm.ts.set(words.ts.get());
        }
        let counters = &vm.counters;
        for (name, new) in
            [(CallName::Ts, new_ts), (CallName::FlushAsync, new_flushes)]
        {
            counters.hypercalls[name as usize].add(u64::from(new));
            counters.near_calls.add(u64::from(new));
        }
    }

    /// Code of a crossing was interrupted. `None` if its registers make no
    /// sense: the Guest has jumped there.
    #[cold]
    #[inline(never)]
    fn end_in_the_middle(&mut self) -> Option<Event> {
        let regs = &self.vm.regs;
        // A fault of ours has set it, for the Guest it is none.
        self.clear_resume_flag();
        let at = regs.eip.get().wrapping_sub(CODE_ADDRESS) as usize;
        self.vm.counters.crossings_ended.count();
        if regs.eip.get() < CODE_ADDRESS {
            return self.end_in_near_trampoline();
        }
        match *CODE.phases.get(at)? {
            Phase::None => None,
            Phase::Leaving { eax, pushed } => {
                if CODE.probes.contains(&at) {
                    self.vm.crossing.note_lost_base();
                }
                let esp = GuestVirt(regs.esp.get());
                if let Some(above) = eax {
                    regs.eax.set(self.read_virtual(esp.plus(above)).ok()?);
                }
                regs.esp.set(esp.plus(pushed).0);
                Some(Event::Trampoline(TrampolineKind::Iret))
            }
            Phase::Left { counted } => {
                let words = &self.vm.crossing.words;
                if !counted {
                    words.outs.set(words.outs.get().wrapping_add(1));
                    self.take_crossings();
                }
                self.go_on_by_words();
                regs.ss.set(REAL_USER_DS);
                Some(Event::Kick)
            }
            // It gives no program another mode.
            Phase::Back { .. } if self.vm.in_user_mode() => None,
            Phase::Back { counted } => {
                let words = &self.vm.crossing.words;
                if !counted {
                    words.backs.set(words.backs.get().wrapping_add(1));
                    self.take_crossings();
                }
                self.go_on_by_words();
                Some(Event::Kick)
            }
            Phase::Entered { pushed, counted } => {
                self.finish_way_in(pushed, counted)
            }
            // A program asks for nothing.
            Phase::Asking { .. } | Phase::Answered(_)
                if self.vm.in_user_mode() =>
            {
                None
            }
            Phase::Asking {
                pushed,
                is_ecx_lost,
            } => self.undo_asking(pushed, is_ecx_lost),
            Phase::Answered(left) => self.finish_answer(left),
            phase => self.undo_way_in(phase),
        }
    }

    /// The registers that the code of a crossing has not loaded yet.
    fn go_on_by_words(&self) {
        let (regs, words) = (&self.vm.regs, &self.vm.crossing.words);
        regs.eip.set(words.eip.get());
        regs.esp.set(words.esp.get());
        let flags = words.eflags.get() & EFLAGS_USABLE;
        regs.eflags.set(flags | EFLAGS_FIXED);
        regs.eax.set(words.eax.get());
    }

    /// A way in was interrupted behind the store to `user`.
    fn finish_way_in(&mut self, pushed: bool, counted: bool) -> Option<Event> {
        let (regs, words) = (&self.vm.regs, &self.vm.crossing.words);
        if !counted {
            words.ins.set(words.ins.get().wrapping_add(1));
            self.take_crossings();
        }
        if pushed {
            let esp = regs.esp.get();
            regs.ebx.set(self.read_virtual(GuestVirt(esp)).ok()?);
            regs.esp.set(esp.wrapping_add(4));
        }
        let gate = self.vm.idt[SYSCALL_VECTOR as usize].get();
        if gate.switches_interrupts_off() {
            self.set_irq_enabled(0).ok()?;
        }
        regs.eip.set(gate.handler);
        Some(Event::Kick)
    }

    /// A way in was interrupted before the Guest was in its kernel: it stands
    /// where the far call of the entry page has led.
    fn undo_way_in(&mut self, phase: Phase) -> Option<Event> {
        let regs = &self.vm.regs;
        let (esp, eax) = (regs.esp.get(), regs.eax.get());
        let on_stack = |above: u32| {
            // It is the kernel's stack already, and the mode is not.
            let user = self.vm.user.replace(0);
            let word = self.read_virtual(GuestVirt(esp.wrapping_add(above)));
            self.vm.user.set(user);
            word.ok()
        };
        let flags_of = |above: u32| {
            let kept = EFLAGS_USABLE | EFLAGS_NT;
            on_stack(above).map(|flags| flags & kept | EFLAGS_FIXED)
        };
        // Where the program's stack pointer was, and which registers are there.
        let mut lost = [true, true];
        let at = match phase {
            Phase::Pushing {
                pushed,
                is_ebx_lost,
                is_eax_lost,
            } => {
                lost = [is_ebx_lost, is_eax_lost];
                esp.wrapping_add(4 * pushed)
            }
            Phase::Switched { below, flags } => {
                regs.ss.set(regs.ebx.get() & 0xFFFF);
                if let Some(above) = flags {
                    regs.eflags.set(flags_of(above)?);
                }
                eax.wrapping_add(below).wrapping_sub(8)
            }
            Phase::Checked { flags } => {
                regs.ss.set(REAL_USER_DS);
                regs.eflags.set(flags_of(flags)?);
                eax.wrapping_sub(8)
            }
            Phase::Framed => {
                lost = [false, false];
                regs.ss.set(REAL_USER_DS);
                regs.eflags.set(flags_of(8)?);
                on_stack(12)?.wrapping_sub(8)
            }
            _ => return None,
        };
        self.note_stack_segment();
        let regs = &self.vm.regs;
        let base = self.base(SegmentRegister::Ss);
        for (register, below, is_lost) in
            [(&regs.ebx, 8, lost[0]), (&regs.eax, 4, lost[1])]
        {
            if is_lost {
                let place = at.wrapping_add(base).wrapping_sub(below);
                register.set(self.read_virtual(GuestVirt(place)).ok()?);
            }
        }
        regs.esp.set(at);
        Some(Event::Trampoline(TrampolineKind::EntryPage))
    }

    /// A program is about to go on, but for a trap before its first
    /// instruction: loads what belongs to its thread already, so that the
    /// kernel's way back from that trap can be a crossing.
    pub(crate) fn settle_for_crossing(&mut self) {
        if self.vm.crossing.engaged.get() != 0
            && self.may_cross()
            && !self.has_reached_far()
        {
            self.fit_segments();
            self.settle_extended();
            self.vm.crossing.settled.set(1);
        }
    }

    /// A hypercall was interrupted before it was answered: the Host does it.
    fn undo_asking(&self, pushed: u32, is_ecx_lost: bool) -> Option<Event> {
        let mut stack = self.vm.regs.esp.get();
        let regs = &self.vm.regs;
        if is_ecx_lost {
            regs.ecx.set(self.pop(&mut stack).ok()?);
        }
        if pushed > 0 {
            self.load_flags(self.pop(&mut stack).ok()?);
        }
        regs.esp.set(stack);
        Some(Event::Trampoline(TrampolineKind::NearHypercall))
    }

    /// A hypercall was interrupted behind its answer.
    fn finish_answer(&self, left: Answered) -> Option<Event> {
        let regs = &self.vm.regs;
        let mut stack = regs.esp.get();
        let is_added = left != Answered::All;
        if matches!(left, Answered::All | Answered::Added) {
            regs.ecx.set(self.pop(&mut stack).ok()?);
        }
        if !matches!(left, Answered::Padding | Answered::Return) {
            self.load_flags(self.pop(&mut stack).ok()?);
        }
        let padding = match left {
            Answered::Return => 0,
            _ => self.pop(&mut stack).ok()?,
        };
        let back = self.pop(&mut stack).ok()?;
        let padding = if is_added { 0 } else { padding };
        regs.eip.set(back.wrapping_add(padding));
        regs.esp.set(stack);
        Some(Event::Kick)
    }

    /// As `popf`.
    fn load_flags(&self, flags: u32) {
        let kept = EFLAGS_USABLE | EFLAGS_NT;
        self.vm.regs.eflags.set(flags & kept | EFLAGS_FIXED);
    }

    /// The Guest is about to go on: says which crossings it may make before it
    /// stops again.
    #[inline]
    pub(crate) fn allow_crossings(&self) {
        if self.vm.crossing.engaged.get() != 0 {
            self.set_words();
        }
    }

    fn set_words(&self) {
        let (vm, crossing) = (self.vm, &self.vm.crossing);
        let words = &crossing.words;
        let is_user = vm.in_user_mode();
        words.user.set(u32::from(is_user));
        if is_user {
            crossing.settled.set(1);
            crossing.pause.set(crossing.pause.get().saturating_sub(1));
        }
        let is_quiet = self.may_cross()
            && !vm.debugger.is_on()
            && !vm.debug.is_watching()
            && !vm.debug.is_stepping()
            && !self.has_reached_far();
        let may_enter = is_quiet && self.may_enter_by_crossing();
        let way = match may_enter {
            true => CODE.fast_way_in,
            false => CODE.slow_way_in,
        };
        words.way_in.set(CODE_ADDRESS + as_word(way));
        words.kernel_esp.set(vm.esp1.get());
        let may_go_back = is_quiet && self.may_go_back_by_crossing();
        words.may_go_back.set(u32::from(may_go_back));
        let may_leave = is_quiet && self.may_leave_by_crossing();
        words.may_leave.set(u32::from(may_leave));
        words.ts.set(vm.ts.get());
        let has_gate = vm.idt[FPU_VECTOR as usize].get().is_present();
        words.ts_mask.set(if has_gate { !0 } else { 0 });
        let may_answer = is_quiet && self.may_answer_here();
        words.may_answer.set(u32::from(may_answer));
        if may_leave {
            let (gs, base) = self.usual_gs();
            words.gs.set(gs);
            let magic = word(offset_of!(Words, magic));
            words.probe.set(magic.wrapping_sub(base));
        }
    }

    /// Whether the next system call needs nothing but a frame.
    fn may_enter_by_crossing(&self) -> bool {
        let vm = self.vm;
        let gate = vm.idt[SYSCALL_VECTOR as usize].get();
        let words = &vm.crossing.words;
        words.handler.set(gate.handler);
        let nothing = word(offset_of!(Words, nothing));
        let cleared = match gate.switches_interrupts_off() {
            true => words.irq_enabled_at.get(),
            false => nothing,
        };
        words.cleared_at.set(cleared);
        // The flags that a program pushes itself say that interrupts are on.
        let is_usual_program = || {
            vm.cs.get() == u32::from(USER_CS)
                && vm.ss.get() == u32::from(USER_DS)
                && self.takes_interrupts().unwrap_or(false)
        };
        gate.allows(USER_PL)
            && cleared != 0
            && (!vm.in_user_mode() || is_usual_program())
    }

    /// Whether the kernel can go on where it was interrupted with nothing but
    /// its own registers. Of programs, nothing has to be right for that.
    fn may_go_back_by_crossing(&self) -> bool {
        let vm = self.vm;
        self.may_take(fast_path::BACK)
            && !vm.in_user_mode()
            && vm.cs.get() == u32::from(KERNEL_CS)
            && vm.wire.irqs.load(Ordering::SeqCst) == 0
            && vm.halted.get() == 0
            && self.is_code(KERNEL_CS.into(), GUEST_PL)
    }

    /// Whether a hypercall that asks for nothing needs no visit.
    fn may_answer_here(&self) -> bool {
        let vm = self.vm;
        let layout = self.layout();
        let irq_enabled = vm.crossing.words.irq_enabled_at.get();
        let status = irq_enabled
            .wrapping_sub(layout.irq_enabled.offset())
            .wrapping_add(layout.hcall_status.offset())
            .wrapping_add(vm.next_hcall.get());
        vm.crossing.words.status_at.set(status);
        self.may_take(fast_path::NEAR)
            && irq_enabled != 0
            && vm.wire.irqs.load(Ordering::SeqCst) == 0
            && vm.halted.get() == 0
            && !self.traces(group::HYPERCALLS)
    }

    /// Whether a program can go on with nothing but its own registers.
    fn may_leave_by_crossing(&self) -> bool {
        let vm = self.vm;
        vm.crossing.settled.get() != 0
            && vm.wire.irqs.load(Ordering::SeqCst) == 0
            && vm.halted.get() == 0
            && self.has_usual_descriptors()
            && self.is_extended_settled()
            && self.keeps_base_of_gs()
            && vm.crossing.pause.get() == 0
            && self.is_code(USER_CS.into(), USER_PL)
            && self.is_stack(USER_DS.into())
    }
}

#[cfg(test)]
mod tests;
