//! Pages of user code above PAGE_OFFSET: tables decide, not a limit.
//!
//! Where user code and its kernel share an address space, the segments of user
//! code end where the kernel begins. That stops accidents, and costs nothing.
//! But a kernel may have pages for its programs above that address, and Linux
//! has one (the entry page, with COMPAT_VDSO). The code segment does not end
//! there, so such a page can be executed. A limit stops an instruction that
//! reads or writes it. If the tables allow the access, that one instruction is
//! carried out with segments that end where the Switcher's pages begin: it is
//! single-stepped, and the next one has the short segments again. Code that
//! does this all the time keeps the wide segments until its next trap.

use crate::address::GuestVirt;
use crate::cpu::accesses::Access;
use crate::cpu::instruction::{MAX_INSTRUCTION, moves_flags};
use crate::cpu::registers::EFLAGS_TF;
use crate::cpu::selectors::{REAL_USER_DS, REAL_WIDE_DS};
use crate::fast_path;
use crate::host::{Event, Host};
use lg_abi::page::{Pte, SWITCHER_ADDR};

/// How far the data segments of user code go, in `Vm::reach`.
mod how_far {
    /// Up to the kernel.
    pub(super) const SHORT: u32 = 0;
    /// Up to the Switcher, for one instruction to come.
    pub(super) const STEP_WANTED: u32 = 1;
    /// Up to the Switcher, until the trap to come.
    pub(super) const WIDE_WANTED: u32 = 2;
    /// User code is single-stepped with wide segments.
    pub(super) const STEP: u32 = 3;
    /// User code has wide segments.
    pub(super) const WIDE: u32 = 4;
    /// User code is single-stepped: its code segment has no end while it is
    /// beyond that end, and gets one again when it has left.
    pub(super) const CODE_STEP: u32 = 5;
}

/// The most instructions in a row that are stepped.
const MAX_STEPS: u32 = 64;

impl Host<'_> {
    /// Where the data segments of user code end. In an address space of its
    /// own there is nothing to protect from accidents.
    pub(crate) fn user_limit(&self) -> u32 {
        if self.shadow.has_user_process() {
            SWITCHER_ADDR
        } else {
            self.vm.page_offset.get()
        }
    }

    /// Whether user code may execute what is at `va`, so that a trap there need
    /// not be a page fault. Below the kernel, the processor finds out.
    pub(crate) fn may_run_at(&self, va: GuestVirt) -> bool {
        va.0 < self.vm.page_offset.get() || self.entry(va).is_some()
    }

    /// Whether the tables allow user code this access above its limit.
    pub(crate) fn may_touch(&self, access: Access) -> bool {
        let entry = self.entry(access.va);
        entry.is_some_and(|e| !access.write || e.pte.has(Pte::WRITE))
    }

    /// Lets the instruction at eip have what a limit has kept from it.
    pub(crate) fn reach_further(&mut self, code: &[u8]) {
        let vm = self.vm;
        vm.counters.limits_passed.count();
        let steps = vm.steps.get().saturating_add(1);
        vm.steps.set(steps);
        // An instruction that stores the flags would store our single-step
        // flag. Where the Guest steps itself, the trap is its own.
        let steps_anyway = vm.regs.eflags.get() & EFLAGS_TF != 0;
        let step = steps <= MAX_STEPS && !steps_anyway && !moves_flags(code);
        vm.reach.set(if step {
            how_far::STEP_WANTED
        } else {
            how_far::WIDE_WANTED
        });
    }

    /// Whether user code has been beyond its limit lately: if not, there is
    /// nothing to undo.
    pub(crate) fn has_reached_far(&self) -> bool {
        self.vm.reach.get() | self.vm.steps.get() != 0
    }

    /// User code has trapped for `event`: its segments are short again.
    /// Answers whether there was no event but our own step.
    #[cold]
    pub(crate) fn end_reach(&mut self, event: Event) -> bool {
        self.note_other_trap(event);
        let stepped =
            matches!(self.vm.reach.get(), how_far::STEP | how_far::CODE_STEP);
        self.put_off_reach();
        self.vm.reach.set(how_far::SHORT);
        stepped && matches!(event, Event::Trap { vector: 1, .. })
    }

    /// User code cannot go on yet: undoes what [`Self::begin_reach`] has done,
    /// which is done again later.
    #[cold]
    pub(crate) fn put_off_reach(&mut self) {
        let vm = self.vm;
        match vm.reach.get() {
            how_far::STEP => {
                let flags = vm.regs.eflags.get();
                vm.regs.eflags.set(flags & !EFLAGS_TF);
                vm.reach.set(how_far::STEP_WANTED);
            }
            how_far::WIDE => vm.reach.set(how_far::WIDE_WANTED),
            how_far::CODE_STEP => {
                let flags = vm.regs.eflags.get();
                vm.regs.eflags.set(flags & !EFLAGS_TF);
                vm.reach.set(how_far::SHORT);
            }
            _ => return,
        }
        let regs = &vm.regs;
        for selector in [&regs.ds, &regs.es, &regs.fs, &regs.gs] {
            if selector.get() == REAL_WIDE_DS {
                selector.set(REAL_USER_DS);
            }
        }
    }

    /// The Guest is about to go on.
    pub(crate) fn begin_reach(&mut self) {
        let vm = self.vm;
        let next = match vm.reach.get() {
            how_far::STEP_WANTED => how_far::STEP,
            how_far::WIDE_WANTED => how_far::WIDE,
            _ => return self.step_beyond_the_end(),
        };
        if !vm.in_user_mode() {
            // Something else came first, perhaps an interrupt.
            vm.reach.set(how_far::SHORT);
            return;
        }
        vm.reach.set(next);
        if next == how_far::STEP {
            vm.regs.eflags.set(vm.regs.eflags.get() | EFLAGS_TF);
        }
        let regs = &vm.regs;
        for selector in [&regs.ds, &regs.es, &regs.fs, &regs.gs, &regs.ss] {
            if selector.get() == REAL_USER_DS {
                selector.set(REAL_WIDE_DS);
            }
        }
    }

    /// If user code goes on beyond the end of its code segment, and may do so,
    /// it gets another segment until it comes back.
    fn step_beyond_the_end(&self) {
        let vm = self.vm;
        if !vm.in_user_mode() || !self.is_beyond_the_end() {
            return;
        }
        let steps = vm.steps.get().saturating_add(1);
        vm.steps.set(steps);
        let flags = vm.regs.eflags.get();
        let mut code = [0; MAX_INSTRUCTION];
        let fetched = self.fetch(GuestVirt(vm.regs.eip.get()), &mut code);
        let visible = moves_flags(&code[..fetched]);
        if steps <= MAX_STEPS && flags & EFLAGS_TF == 0 && !visible {
            vm.reach.set(how_far::CODE_STEP);
            vm.regs.eflags.set(flags | EFLAGS_TF);
        }
    }

    /// Whether user code is beyond the end of its code segment, if that has
    /// one.
    pub(crate) fn is_beyond_the_end(&self) -> bool {
        !self.may_take(fast_path::FLAT_CODE)
            && self.vm.regs.eip.get() >= self.user_limit()
    }

    /// Whether user code goes on with wide segments.
    pub(crate) fn reaches_far(&self) -> bool {
        matches!(self.vm.reach.get(), how_far::STEP | how_far::WIDE)
    }

    /// A trap that has nothing to do with limits: no more steps in a row.
    fn note_other_trap(&self, event: Event) {
        if !matches!(
            event,
            Event::Trap {
                vector: 1 | 12 | 13,
                ..
            }
        ) {
            self.vm.steps.set(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::GuestPhys;
    use crate::state::Gate;
    use crate::testing::Machine;
    use lg_abi::segment::USER_DS;

    const HANDLER: u32 = 0xC000_7000;
    const CODE: u32 = 0x1000;
    /// A page above PAGE_OFFSET.
    const HIGH: u32 = 0xC000_6000;

    /// A program with `code`, and the page [`HIGH`] with these flags.
    fn program(code: &[u8], flags: u32) -> Machine {
        let m = Machine::new();
        let frame = 0x5000;
        m.set_user_pte(CODE >> 12, Pte(frame | 0x67));
        let memory = m.ram.memory();
        memory.write(GuestPhys(frame), code).unwrap();
        let entry = GuestPhys(Machine::KERNEL_TABLE + 24);
        memory.set_word(entry, 0x6000 | flags).unwrap();
        for vector in [1, 3, 13, 14, 0x80] {
            m.vm.idt[vector].set(Gate {
                handler: HANDLER + u32::try_from(vector).unwrap(),
                flags: Gate::PRESENT | 3 << Gate::DPL_SHIFT,
            });
        }
        m.vm.user.set(1);
        m.vm.ss.set(USER_DS.into());
        m.vm.regs.eip.set(CODE);
        m.vm.regs.esp.set(0x1FF0);
        m.vm.regs.ds.set(REAL_USER_DS);
        m.vm.regs.es.set(REAL_USER_DS);
        m
    }

    fn trap(vector: u8) -> Event {
        Event::Trap {
            vector,
            error: 0,
            cr2: 0,
        }
    }

    /// mov 0xC0006000, %eax
    const READ: [u8; 5] = [0xA1, 0x00, 0x60, 0x00, 0xC0];
    /// mov %eax, 0xC0006000
    const WRITE: [u8; 5] = [0xA3, 0x00, 0x60, 0x00, 0xC0];

    #[test]
    fn one_instruction_reaches_what_the_tables_give() {
        for (code, flags) in [(READ, 0x25), (READ, 0x67), (WRITE, 0x67)] {
            let mut m = program(&code, flags);
            let mut host = m.host();
            host.run_guest(trap(13)).unwrap();
            let regs = &host.vm.regs;
            assert_eq!(regs.eip.get(), CODE);
            assert_ne!(regs.eflags.get() & EFLAGS_TF, 0);
            assert_eq!(regs.ds.get(), REAL_WIDE_DS);
            assert_eq!(host.real_segments().1, REAL_WIDE_DS);
            regs.eip.set(CODE + 5);
            host.run_guest(trap(1)).unwrap();
            let regs = &host.vm.regs;
            assert_eq!(regs.eip.get(), CODE + 5, "no trap of its own");
            assert_eq!(regs.eflags.get() & EFLAGS_TF, 0);
            assert_eq!(regs.ds.get(), REAL_USER_DS);
            assert_eq!(host.real_segments().1, REAL_USER_DS);
        }
    }

    #[test]
    fn nothing_reaches_what_they_do_not_give() {
        for (code, flags) in [(READ, 0x63), (WRITE, 0x63), (WRITE, 0x65)] {
            let mut m = program(&code, flags);
            m.host().run_guest(trap(13)).unwrap();
            assert_eq!(m.vm.regs.eip.get(), HANDLER + 14);
        }
        // One operand is the program's, and one is not.
        let mut m = program(&[0xA4], 0x67); // movsb
        m.vm.regs.esi.set(HIGH);
        m.vm.regs.edi.set(HIGH + 0x1000);
        m.host().run_guest(trap(13)).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER + 14);
    }

    #[test]
    fn a_trap_on_the_way_shows_nothing_of_it() {
        let mut m = program(&READ, 0x67);
        let mut host = m.host();
        host.run_guest(trap(13)).unwrap();
        host.run_guest(Event::SystemCall).unwrap();
        assert_eq!(host.vm.regs.eip.get(), HANDLER + 0x80);
        let at = m.vm.regs.esp.get() - 0xC000_0000;
        let flags = m.ram.memory().word(GuestPhys(at + 8)).unwrap();
        assert_eq!(flags & EFLAGS_TF, 0);
        assert_eq!(m.vm.regs.ds.get(), REAL_USER_DS, "as it was");
    }

    #[test]
    fn an_interrupt_before_it_goes_on_shows_nothing_of_it() {
        let mut m = program(&READ, 0x67);
        m.vm.idt[33].set(Gate {
            handler: HANDLER,
            flags: Gate::PRESENT,
        });
        let data = GuestPhys(Machine::DATA);
        m.ram.memory().set_word(data, 0x200).unwrap();
        let mut host = m.host();
        host.run_guest(trap(13)).unwrap();
        assert_ne!(host.vm.regs.eflags.get() & EFLAGS_TF, 0);
        // The way out is started again, and finds an interrupt.
        host.vm.raise(1);
        host.get_ready().unwrap();
        assert_eq!(host.vm.regs.eip.get(), HANDLER);
        assert_eq!(host.vm.reach.get(), how_far::SHORT);
        let at = m.vm.regs.esp.get() - 0xC000_0000;
        let flags = m.ram.memory().word(GuestPhys(at + 8)).unwrap();
        assert_eq!(flags & EFLAGS_TF, 0);
    }

    #[test]
    fn what_steps_itself_gets_its_own_trap() {
        let mut m = program(&READ, 0x67);
        m.vm.regs.eflags.set(EFLAGS_TF);
        let mut host = m.host();
        host.run_guest(trap(13)).unwrap();
        assert_eq!(host.vm.regs.ds.get(), REAL_WIDE_DS);
        host.run_guest(trap(1)).unwrap();
        assert_eq!(host.vm.regs.eip.get(), HANDLER + 1);
    }

    #[test]
    fn flags_are_not_stored_with_our_step_in_them() {
        let mut m = program(&[0x9C], 0x67); // pushf
        m.vm.regs.esp.set(HIGH + 0x100);
        let mut host = m.host();
        host.run_guest(trap(13)).unwrap();
        assert_eq!(host.vm.regs.eflags.get() & EFLAGS_TF, 0);
        assert_eq!(host.real_segments().1, REAL_WIDE_DS);
    }

    #[test]
    fn a_loop_is_not_stepped_for_ever() {
        let mut m = program(&READ, 0x67);
        let mut host = m.host();
        for _ in 0..MAX_STEPS {
            host.run_guest(trap(13)).unwrap();
            assert_eq!(host.vm.reach.get(), how_far::STEP);
            host.run_guest(trap(1)).unwrap();
        }
        host.run_guest(trap(13)).unwrap();
        assert_eq!(host.vm.reach.get(), how_far::WIDE);
        host.run_guest(Event::Kick).unwrap();
        assert_eq!(host.vm.regs.ds.get(), REAL_USER_DS);
        host.run_guest(trap(13)).unwrap();
        assert_eq!(host.vm.reach.get(), how_far::STEP);
    }

    #[test]
    fn code_runs_where_the_tables_allow_it() {
        let mut m = program(&READ, 0x67);
        m.vm.regs.eip.set(HIGH);
        m.host().run_guest(Event::Kick).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HIGH);
        // A trap there is its own, and nowhere else.
        m.vm.regs.eip.set(HIGH + 1);
        m.host().run_guest(trap(3)).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER + 3);
        m.vm.user.set(1);
        m.vm.regs.eip.set(HIGH + 0x1001);
        m.host().run_guest(trap(3)).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER + 14);
    }

    #[test]
    fn a_segment_with_an_end_gives_way_to_code_beyond_it() {
        // jmp 0xC0006000, under a code segment with an end.
        let jump = (HIGH - CODE - 5).to_le_bytes();
        let code = [0xE9, jump[0], jump[1], jump[2], jump[3]];
        let mut m = program(&code, 0x67);
        m.vm.slow_paths.set(crate::fast_path::FLAT_CODE);
        for _ in 0..20 {
            m.vm.regs.eip.set(CODE);
            let mut host = m.host();
            host.run_guest(trap(13)).unwrap();
            assert_eq!(host.vm.regs.eip.get(), HIGH);
            let flat = crate::cpu::selectors::REAL_KERNEL_CS;
            assert_eq!(host.real_segments().0, flat);
            // It comes back by one instruction, and has its own again.
            assert_ne!(host.vm.regs.eflags.get() & EFLAGS_TF, 0);
            host.vm.regs.eip.set(CODE + 5);
            host.run_guest(trap(1)).unwrap();
            assert_eq!(host.vm.regs.eip.get(), CODE + 5);
            assert_eq!(host.vm.regs.eflags.get() & EFLAGS_TF, 0);
            assert_ne!(host.real_segments().0, flat);
        }
    }

    #[test]
    fn a_user_process_segments_end_where_the_switcher_begins() {
        let mut m = program(&READ, 0x67).with_user_process();
        assert_eq!(m.host().user_limit(), SWITCHER_ADDR);
        // So this one is its own.
        m.host().run_guest(trap(13)).unwrap();
        assert_eq!(m.vm.regs.eip.get(), HANDLER + 13);
    }
}
