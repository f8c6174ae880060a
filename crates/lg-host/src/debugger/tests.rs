//! Orders, breakpoints and steps of a Guest that runs nothing.

use crate::address::GuestPhys;
use crate::cpu::registers::EFLAGS_TF;
use crate::host::Event;
use crate::kill::Kill;
use crate::state::Gate;
use crate::testing::Machine;
use core::sync::atomic::Ordering;
use lg_abi::call::CallName;
use lg_abi::known::Known;
use lg_abi::page::Pte;
use lg_abi::shared::{IF, offset};
use lg_wire::debug::{
    Kind, MAX_OTHERS, MAX_SOFTWARE, Order, Outcome, Space, Stop, WORDS, Word,
};
use std::vec::Vec;

/// Where the kernel's code is, and the same physically.
const CODE: u32 = 0xC000_6000;
const PLACE: u32 = 0x6000;

/// Where a program has the same page.
const PROGRAM: u32 = 0x1000;

const HANDLER: u32 = 0xC000_7000;

const STEP: Event = trap(1);
const INT3: Event = trap(3);

const fn trap(vector: u8) -> Event {
    Event::Trap {
        vector,
        error: 0,
        cr2: 0,
    }
}

/// A Guest that is debugged.
struct Debuggee(Machine);

impl Debuggee {
    /// One that stands before `code` in its kernel.
    fn new(code: &[u8]) -> Self {
        let m = Machine::new();
        m.ram.memory().write(GuestPhys(PLACE), code).unwrap();
        m.vm.regs.eip.set(CODE);
        m.vm.regs.eflags.set(0x202);
        for vector in [1, 3, 13, 14, 32, 0x80] {
            m.vm.idt[vector].set(Gate {
                handler: HANDLER + u32::try_from(vector).unwrap(),
                flags: Gate::PRESENT | 3 << Gate::DPL_SHIFT,
            });
        }
        m.set_user_pte(PROGRAM >> 12, Pte(PLACE | 0x65));
        Self(m)
    }

    /// Lets the Guest stand, gives one order, and answers its outcome, its
    /// value and its bytes.
    fn order(
        &mut self,
        order: Order,
        arguments: [u32; 3],
        text: &[u8],
    ) -> (Outcome, u32, Vec<u8>) {
        let m = &mut self.0;
        let mailbox = &m.vm.wire.mailbox;
        for (word, argument) in mailbox.arguments.iter().zip(arguments) {
            word.store(argument, Ordering::Relaxed);
        }
        mailbox.write_text(text);
        m.world.orders.push_back(order as u32);
        assert_eq!(m.host().stand(), Err(Kill::LauncherGone));
        let [_, outcome, value] = *m.world.reports.last().unwrap();
        let (text, length) = m.vm.wire.mailbox.read_text();
        let outcome = Outcome::from_number(outcome).unwrap();
        (outcome, value, text[..length].to_vec())
    }

    #[track_caller]
    fn does(&mut self, order: Order, arguments: [u32; 3]) {
        let (outcome, ..) = self.order(order, arguments, &[]);
        assert_eq!(outcome, Outcome::Done, "{order:?}");
    }

    fn plant(&mut self, kind: Kind, at: u32, length: u32) {
        self.does(Order::Plant, [at, length, kind as u32]);
    }

    /// The Guest goes on, for one instruction or without an end.
    fn prepare(&mut self, step: bool) {
        self.does(Order::Prepare, [u32::from(step), 0, 0]);
        self.0.vm.wire.break_wanted.store(0, Ordering::SeqCst);
        self.0.host().get_ready().unwrap();
    }

    /// The Guest has stopped for `event`. Answers why it stands then, if it
    /// does.
    fn after(&mut self, event: Event) -> Option<(Stop, u32)> {
        self.0.world.reports.clear();
        match self.0.host().run_guest(event) {
            Ok(()) => None,
            Err(Kill::LauncherGone) => {
                self.0.vm.wire.break_wanted.store(0, Ordering::SeqCst);
                let [stop, _, value] = *self.0.world.reports.last()?;
                Some((Stop::from_number(stop).unwrap(), value))
            }
            Err(kill) => panic!("{kill}"),
        }
    }

    fn is_armed(&self) -> bool {
        self.0.vm.regs.eflags.get() & EFLAGS_TF != 0
    }

    fn byte(&self, at: u32) -> u8 {
        self.0.ram.memory().byte(GuestPhys(at)).unwrap()
    }

    fn eip(&self) -> u32 {
        self.0.vm.regs.eip.get()
    }

    fn goes_to(&self, eip: u32) {
        self.0.vm.regs.eip.set(eip);
    }
}

#[test]
fn registers_are_shown_and_taken() {
    let mut d = Debuggee::new(&[0x90]);
    d.0.vm.regs.ebx.set(7);
    let enabled = GuestPhys(Machine::DATA + offset::IRQ_ENABLED);
    d.0.ram.memory().set_word(enabled, IF).unwrap();
    let (_, _, text) = d.order(Order::ReadRegisters, [0; 3], &[]);
    assert_eq!(text.len(), WORDS * 4);
    let word = |word: Word| {
        let at = word as usize * 4;
        u32::from_le_bytes(text[at..at + 4].try_into().unwrap())
    };
    assert_eq!(word(Word::Ebx), 7);
    assert_eq!(word(Word::Eip), CODE);
    assert_eq!(word(Word::Eflags) & IF, IF);
    assert_eq!(word(Word::Cr3), Machine::CR3);
    let mut changed = text.clone();
    changed[Word::Ebx as usize * 4] = 9;
    // All flags, IF not among them.
    let flags = (!IF).to_le_bytes();
    changed[Word::Eflags as usize * 4..][..4].copy_from_slice(&flags);
    let (outcome, ..) = d.order(Order::WriteRegisters, [0; 3], &changed);
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(d.0.vm.regs.ebx.get(), 9);
    // NT, RF, VM and the real interrupt flag are not a debugger's.
    assert_eq!(d.0.vm.regs.eflags.get(), 0x0024_0FD7);
    assert_eq!(d.0.ram.memory().word(enabled), Ok(0));
    let (outcome, ..) = d.order(Order::WriteRegisters, [0; 3], &[0; 8]);
    assert_eq!(outcome, Outcome::Refused, "too short");
}

#[test]
fn memory_ends_where_the_tables_do_and_has_no_breakpoints_in_it() {
    let mut d = Debuggee::new(&[1, 2, 3, 4]);
    for at in [CODE, PROGRAM] {
        d.plant(Kind::Software, CODE + 1, 1);
        let read = [at, 4, Space::Virtual as u32];
        let (_, _, text) = d.order(Order::Read, read, &[]);
        assert_eq!(text, [1, 2, 3, 4]);
    }
    assert_eq!(d.byte(PLACE + 1), 0xCC);
    // The page behind the program's is not there.
    let (outcome, _, text) = d.order(Order::Read, [PROGRAM + 0xFFE, 8, 0], &[]);
    assert_eq!((outcome, text.len()), (Outcome::Done, 2));
    let write = [PROGRAM + 0xFFE, 0, 0];
    let (outcome, ..) = d.order(Order::Write, write, &[5; 4]);
    assert_eq!(outcome, Outcome::NoSuch);
    assert_eq!(d.byte(PLACE + 0xFFE), 0, "nothing is written in part");
    for (at, space) in [
        (0x5000, Space::Virtual),
        (0xFFC0_0000, Space::Virtual),
        (Machine::RAM, Space::Physical),
        (u32::MAX, Space::Physical),
    ] {
        let read = [at, u32::MAX, space as u32];
        let (outcome, _, text) = d.order(Order::Read, read, &[]);
        assert_eq!((outcome, text.len()), (Outcome::NoSuch, 0), "{at:x}");
    }
    // What is written below a breakpoint comes out when it is removed.
    let (outcome, ..) = d.order(Order::Write, [CODE, 0, 0], &[9, 8, 7]);
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(d.byte(PLACE + 1), 0xCC);
    let software = Kind::Software as u32;
    d.does(Order::Remove, [CODE + 1, 1, software]);
    assert_eq!(d.byte(PLACE + 1), 8);
    let again = d.order(Order::Remove, [CODE + 1, 1, software], &[]);
    assert_eq!(again.0, Outcome::NoSuch);
}

#[test]
fn there_is_room_for_so_many_breakpoints_and_no_more() {
    for (kind, most) in [
        (Kind::Software, MAX_SOFTWARE),
        (Kind::Execution, MAX_OTHERS),
    ] {
        let mut d = Debuggee::new(&[0x90; 128]);
        let most = u32::try_from(most).unwrap();
        for n in 0..most {
            d.plant(kind, CODE + n, 1);
            // What is there already takes no room.
            d.plant(kind, CODE + n, 1);
        }
        let one_more = [CODE + most, 1, kind as u32];
        let (outcome, ..) = d.order(Order::Plant, one_more, &[]);
        assert_eq!(outcome, Outcome::Full);
        d.does(Order::Detach, [0; 3]);
        assert!((0..128).all(|n| d.byte(PLACE + n) == 0x90));
        d.plant(kind, CODE + most, 1);
    }
    let mut d = Debuggee::new(&[]);
    let nowhere = [0x5000, 1, Kind::Software as u32];
    assert_eq!(d.order(Order::Plant, nowhere, &[]).0, Outcome::NoSuch);
    assert_eq!(d.order(Order::Plant, [CODE, 1, 9], &[]).0, Outcome::Refused);
}

#[test]
fn a_breakpoint_is_met_passed_once_and_put_back() {
    let mut d = Debuggee::new(&[0x90, 0x90]);
    d.plant(Kind::Software, CODE, 1);
    d.goes_to(CODE + 1);
    assert_eq!(d.after(INT3), Some((Stop::Breakpoint, 0)));
    assert_eq!(d.eip(), CODE);
    d.prepare(false);
    assert_eq!(d.byte(PLACE), 0x90, "lifted for one instruction");
    assert!(d.is_armed());
    // A kick does not count as the instruction.
    assert_eq!(d.after(Event::Kick), None);
    assert!(d.is_armed());
    d.goes_to(CODE + 1);
    assert_eq!(d.after(STEP), None);
    assert_eq!((d.byte(PLACE), d.is_armed()), (0xCC, false));
    // An int3 of the Guest's own is its own.
    d.goes_to(CODE + 9);
    assert_eq!(d.after(INT3), None);
    assert_eq!(d.eip(), HANDLER + 3);
}

#[test]
fn a_breakpoint_at_another_address_is_stepped_over() {
    let mut d = Debuggee::new(&[0x90, 0x90]);
    d.plant(Kind::Software, CODE, 1);
    d.0.vm.user.set(1);
    d.goes_to(PROGRAM + 1);
    assert_eq!(d.after(INT3), None);
    assert_eq!((d.eip(), d.byte(PLACE)), (PROGRAM, 0x90));
    assert!(d.is_armed());
    d.goes_to(PROGRAM + 1);
    assert_eq!(d.after(STEP), None);
    assert_eq!((d.byte(PLACE), d.is_armed()), (0xCC, false));
    d.does(Order::Remove, [CODE, 1, 0]);
}

#[test]
fn a_step_is_one_instruction_and_its_flag_is_not_seen() {
    // pushf
    let mut d = Debuggee::new(&[0x9C]);
    d.prepare(true);
    assert!(d.is_armed());
    let stack = d.0.vm.regs.esp.get() - 4;
    let pushed = GuestPhys(stack - 0xC000_0000);
    d.0.ram.memory().set_word(pushed, 0x302).unwrap();
    d.0.vm.regs.esp.set(stack);
    d.goes_to(CODE + 1);
    assert_eq!(d.after(STEP), Some((Stop::Step, 0)));
    assert_eq!(d.0.ram.memory().word(pushed), Ok(0x202));
    assert!(!d.is_armed());
    // It goes on without steps.
    d.prepare(false);
    assert!(!d.is_armed());
}

#[test]
fn a_step_over_what_the_host_carries_out_ends_behind_it() {
    // cpuid, which faults here.
    let mut d = Debuggee::new(&[0x0F, 0xA2]);
    d.0.world.cpuid = Some([0; 4]);
    d.prepare(true);
    assert_eq!(d.after(trap(13)), Some((Stop::Step, 0)));
    assert_eq!(d.eip(), CODE + 2);
    // A fault of the Guest's leads to its handler.
    d.prepare(true);
    assert_eq!(d.after(trap(13)), Some((Stop::Step, 0)));
    assert_eq!(d.eip(), HANDLER + 13);
}

#[test]
fn a_step_keeps_interrupts_and_a_guest_that_waits_gets_them() {
    let mut d = Debuggee::new(&[0x90; 4]);
    let memory = d.0.ram.memory();
    let enabled = GuestPhys(Machine::DATA + offset::IRQ_ENABLED);
    memory.set_word(enabled, IF).unwrap();
    d.0.vm.raise(0);
    d.prepare(true);
    assert_eq!(d.eip(), CODE);
    d.goes_to(CODE + 1);
    assert_eq!(d.after(STEP), Some((Stop::Step, 0)));
    assert_eq!(d.eip(), CODE + 1);
    d.0.vm.halted.set(1);
    d.does(Order::Prepare, [1, 0, 0]);
    d.0.world.reports.clear();
    assert_eq!(d.0.host().get_ready(), Err(Kill::LauncherGone));
    assert_eq!(d.0.world.reports, [[Stop::Step as u32, 0, 0]]);
    assert_eq!(d.eip(), HANDLER + 32);
}

#[test]
fn what_is_compared_stops_before_code_and_behind_accesses() {
    // mov %eax, 0xC0006800; mov 0xC0006800, %eax
    let mut code = [0xA3, 0x00, 0x68, 0x00, 0xC0].to_vec();
    code.extend([0xA1, 0x00, 0x68, 0x00, 0xC0]);
    let watched = CODE + 0x800;
    for (kind, stop, first) in [
        (Kind::Write, Stop::Write, 0),
        (Kind::Read, Stop::Read, 5),
        (Kind::Access, Stop::Access, 0),
        (Kind::Access, Stop::Access, 5),
    ] {
        let mut d = Debuggee::new(&code);
        d.plant(kind, watched, 4);
        d.goes_to(CODE + first);
        d.prepare(false);
        d.goes_to(CODE + first + 5);
        assert_eq!(d.after(STEP), Some((stop, watched)), "{kind:?}");
        // The memory beside it is not watched.
        d.does(Order::Remove, [watched, 4, kind as u32]);
        d.plant(kind, watched + 4, 4);
        d.goes_to(CODE + first);
        d.prepare(false);
        d.goes_to(CODE + first + 5);
        assert_eq!(d.after(STEP), None);
        assert!(d.is_armed(), "it goes on step by step");
    }
    let mut d = Debuggee::new(&[0x90; 4]);
    d.plant(Kind::Execution, CODE, 1);
    d.plant(Kind::Execution, CODE + 2, 1);
    // It stands at the first one, and passes it.
    d.prepare(false);
    d.goes_to(CODE + 1);
    assert_eq!(d.after(STEP), None);
    d.goes_to(CODE + 2);
    assert_eq!(d.after(STEP), Some((Stop::Execution, 0)));
    assert_eq!(d.eip(), CODE + 2);
    assert_eq!(d.byte(PLACE + 2), 0x90);
}

/// A handler is not where the Guest stood.
#[test]
fn code_that_an_interrupt_leads_to_is_compared() {
    let mut d = Debuggee::new(&[0x90; 4]);
    let memory = d.0.ram.memory();
    let enabled = GuestPhys(Machine::DATA + offset::IRQ_ENABLED);
    memory.set_word(enabled, IF).unwrap();
    d.plant(Kind::Execution, HANDLER + 32, 1);
    d.0.vm.halted.set(1);
    d.does(Order::Prepare, [0; 3]);
    d.0.vm.raise(0);
    d.0.world.reports.clear();
    assert_eq!(d.0.host().get_ready(), Err(Kill::LauncherGone));
    assert_eq!(d.0.world.reports, [[Stop::Execution as u32, 0, 0]]);
    assert_eq!(d.eip(), HANDLER + 32);
}

/// The Launcher lets a Guest go on that was held, in the moment in which it
/// stops by itself.
#[test]
fn a_stop_is_not_lost_when_a_hold_ends() {
    let mut d = Debuggee::new(&[0x90; 4]);
    d.prepare(true);
    d.goes_to(CODE + 1);
    d.0.host().end_step(STEP);
    d.0.vm.wire.break_wanted.store(0, Ordering::SeqCst);
    d.0.world.reports.clear();
    assert_eq!(d.0.host().get_ready(), Err(Kill::LauncherGone));
    assert_eq!(d.0.world.reports, [[Stop::Step as u32, 0, 0]]);
}

/// There is no trap between a load of ss and the next instruction.
#[test]
fn flags_are_pushed_without_the_step_behind_a_load_of_ss() {
    // mov %eax, %ss; pop %ss; mov (%eax), %ss; mov %eax, %ds
    for (load, both) in [
        (&[0x8E, 0xD0][..], true),
        (&[0x17], true),
        (&[0x66, 0x8E, 0x10], true),
        (&[0x8E, 0xD8], false),
    ] {
        let mut d = Debuggee::new(&[load, &[0x9C]].concat());
        d.plant(Kind::Write, 0xC000_5FFC, 4);
        d.0.vm.regs.esp.set(0xC000_6000);
        d.prepare(false);
        let pushed = GuestPhys(0x5FFC);
        d.0.ram.memory().set_word(pushed, 0x302).unwrap();
        d.0.vm.regs.esp.set(0xC000_5FFC);
        let length = u32::try_from(load.len()).unwrap();
        d.goes_to(CODE + length + u32::from(both));
        let stop = both.then_some((Stop::Write, 0xC000_5FFC));
        assert_eq!(d.after(STEP), stop, "{load:x?}");
        let flags = d.0.ram.memory().word(pushed).unwrap();
        assert_eq!(flags, if both { 0x202 } else { 0x302 });
    }
}

#[test]
fn a_breakpoint_that_is_lifted_takes_room_and_can_be_removed() {
    let mut d = Debuggee::new(&[0x90; 128]);
    let software = Kind::Software as u32;
    for n in 0..u32::try_from(MAX_SOFTWARE).unwrap() {
        d.plant(Kind::Software, CODE + n, 1);
    }
    d.prepare(false);
    assert_eq!(d.byte(PLACE), 0x90, "lifted");
    let one_more = [CODE + 100, 1, software];
    let (outcome, ..) = d.order(Order::Plant, one_more, &[]);
    assert_eq!(outcome, Outcome::Full);
    assert_eq!(d.byte(PLACE), 0xCC);
    d.prepare(false);
    // Twice is once.
    d.plant(Kind::Software, CODE, 1);
    d.does(Order::Remove, [CODE, 1, software]);
    let (outcome, ..) = d.order(Order::Remove, [CODE, 1, software], &[]);
    assert_eq!(outcome, Outcome::NoSuch);
    d.prepare(false);
    assert_eq!(d.byte(PLACE), 0x90);
    d.does(Order::Plant, one_more);
}

#[test]
fn a_program_keeps_its_interrupt_flag() {
    let mut d = Debuggee::new(&[0x90]);
    let enabled = GuestPhys(Machine::DATA + offset::IRQ_ENABLED);
    d.0.ram.memory().set_word(enabled, IF).unwrap();
    let (_, _, mut text) = d.order(Order::ReadRegisters, [0; 3], &[]);
    let flags = 2_u32.to_le_bytes();
    text[Word::Eflags as usize * 4..][..4].copy_from_slice(&flags);
    for (user, left) in [(1, IF), (0, 0)] {
        d.0.vm.user.set(user);
        let (outcome, ..) = d.order(Order::WriteRegisters, [0; 3], &text);
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(d.0.ram.memory().word(enabled), Ok(left));
    }
}

#[test]
fn interrupts_leave_time_for_what_they_interrupt() {
    let mut d = Debuggee::new(&[0x90; 4]);
    let memory = d.0.ram.memory();
    let enabled = GuestPhys(Machine::DATA + offset::IRQ_ENABLED);
    memory.set_word(enabled, IF).unwrap();
    d.plant(Kind::Execution, 0x9999, 1);
    d.prepare(false);
    d.0.vm.raise(0);
    let mut taken = 0;
    for _ in 0..10_000 {
        d.goes_to(CODE);
        d.0.vm.raise(0);
        assert_eq!(d.after(STEP), None);
        taken += u32::from(d.eip() != CODE);
    }
    assert_eq!(taken, 3);
}

#[test]
fn entries_of_the_tables_are_shown() {
    let mut d = Debuggee::new(&[]);
    let (_, count, text) = d.order(Order::Walk, [CODE, 0, 0], &[]);
    assert_eq!((count, text.len()), (2, 16));
    assert_eq!(text[12..], (PLACE | 0x63).to_le_bytes());
    let (_, count, _) = d.order(Order::Walk, [0x8000_0000, 0, 0], &[]);
    assert_eq!(count, 1, "no page table");
    let (_, count, text) = d.order(Order::Directories, [0; 3], &[]);
    assert_eq!((count, text), (1, Machine::CR3.to_le_bytes().to_vec()));
}

/// Page directory `other` has the kernel's pages.
fn shares_kernel(d: &Debuggee, other: u32) {
    let memory = d.0.ram.memory();
    let entry = |directory| GuestPhys(directory + (0xC000_0000_u32 >> 22) * 4);
    let kernel = memory.word(entry(Machine::CR3)).unwrap();
    memory.set_word(entry(other), kernel).unwrap();
}

/// Another page directory has the same kernel, and other pages for a program.
#[test]
fn a_page_directory_that_is_not_loaded_is_seen_by_its_own_tables() {
    const OTHER: u32 = 0x20_0000;
    const TABLE: u32 = 0x20_1000;
    const PAGE: u32 = 0x20_2000;
    let mut d = Debuggee::new(&[1, 2, 3, 4]);
    shares_kernel(&d, OTHER);
    let memory = d.0.ram.memory();
    memory.set_word(GuestPhys(OTHER), TABLE | 0x67).unwrap();
    let at = GuestPhys(TABLE + (PROGRAM >> 12) * 4);
    memory.set_word(at, PAGE | 0x67).unwrap();
    memory.write(GuestPhys(PAGE), &[5, 6, 7, 8]).unwrap();
    for (directory, bytes) in [(Machine::CR3, [1, 2]), (OTHER, [5, 6])] {
        let at = [PROGRAM, 2, directory];
        let (outcome, _, read) = d.order(Order::ReadIn, at, &[]);
        assert_eq!((outcome, read), (Outcome::Done, bytes.to_vec()));
    }
    let (outcome, ..) = d.order(Order::WriteIn, [PROGRAM, 0, OTHER], &[9]);
    assert_eq!(outcome, Outcome::Done);
    assert_eq!((d.byte(PLACE), d.byte(PAGE)), (1, 9));
    for directory in [0x3F_E000, !0xFFF] {
        let at = [PROGRAM, 1, directory];
        let (outcome, ..) = d.order(Order::ReadIn, at, &[]);
        assert_eq!(outcome, Outcome::NoSuch, "{directory:#x}");
    }
}

/// NEW_PGTABLE of this page directory.
fn loads(d: &mut Debuggee, directory: u32) {
    let interface = Known::Linux2_6_23.interface();
    let call = interface.number(CallName::NewPgtable).unwrap();
    d.0.vm.regs.eax.set(call);
    d.0.vm.regs.edx.set(directory);
    d.0.host().do_hypercall().unwrap();
    assert_eq!(d.0.vm.cr3.get(), directory);
}

#[test]
fn where_a_program_was_is_noted_when_its_page_directory_is_left() {
    const OTHER: u32 = 0x20_0000;
    const STACK: u32 = 0x9000;
    let mut d = Debuggee::new(&[]);
    shares_kernel(&d, OTHER);
    let frame = [0x0804_8000_u32, 0x73, 0x202, 0xBFFF_0000, 0x7B];
    let enters = |d: &Debuggee, frame: [u32; 5]| {
        let memory = d.0.ram.memory();
        for (n, word) in (0..).zip(frame) {
            let at = GuestPhys(STACK - 20 + 4 * n);
            memory.set_word(at, word).unwrap();
        }
    };
    let shown = |d: &mut Debuggee, directory| {
        let at = [directory, 0, 0];
        let (outcome, _, text) = d.order(Order::ReadFrame, at, &[]);
        let bytes = frame.iter().flat_map(|word| word.to_le_bytes());
        assert!(text.is_empty() || text == bytes.collect::<Vec<_>>());
        outcome == Outcome::Done
    };
    // No debugger is there yet.
    enters(&d, frame);
    loads(&mut d, OTHER);
    assert!(!shown(&mut d, Machine::CR3));
    // What is on the stack is that of another program.
    loads(&mut d, Machine::CR3);
    assert!(!shown(&mut d, OTHER));
    // Nor is what a kernel's own trap pushes a program's.
    enters(&d, [0xC010_0000, 0x61, 0x202, 3, 0x69]);
    loads(&mut d, OTHER);
    assert!(!shown(&mut d, Machine::CR3));
    enters(&d, frame);
    loads(&mut d, Machine::CR3);
    assert!(shown(&mut d, OTHER));
    // It stays, whatever is on the stack later.
    enters(&d, [0; 5]);
    loads(&mut d, OTHER);
    loads(&mut d, Machine::CR3);
    assert!(shown(&mut d, OTHER));
    d.does(Order::Detach, [0; 3]);
    assert!(!shown(&mut d, OTHER));
}
