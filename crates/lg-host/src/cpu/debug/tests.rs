//! Breakpoints and watchpoints, without a processor.

use super::{HLT, NO_SETTER};
use crate::address::GuestPhys;
use crate::cpu::registers::{EFLAGS_RF, EFLAGS_TF};
use crate::host::Event;
use crate::state::Gate;
use crate::testing::{Machine, Ram};
use lg_abi::page::Pte;
use lg_abi::segment::{USER_CS, USER_DS};

const CODE: u32 = 0x1000;
const HANDLER: u32 = 0xC000_7000;
/// What the code writes to.
const DATA: u32 = 0x2000;
const STEP: Event = Event::Trap {
    vector: 1,
    error: 0,
    cr2: 0,
};

/// A program that stands before `code`, with DR0 and DR7 set.
fn machine(code: &[u8], address: u32, control: u32) -> Machine {
    let mut m = Machine::new();
    m.set_user_pte(1, Pte(0x5067));
    m.set_user_pte(2, Pte(0x6067));
    m.ram.memory().write(GuestPhys(0x5000), code).unwrap();
    for vector in [1, 13, 14] {
        m.vm.idt[vector].set(Gate {
            handler: HANDLER,
            flags: Gate::PRESENT | 3 << Gate::DPL_SHIFT,
        });
    }
    m.vm.user.set(1);
    m.vm.cs.set(USER_CS.into());
    m.vm.ss.set(USER_DS.into());
    m.vm.regs.eip.set(CODE);
    m.vm.regs.esp.set(DATA + 0x800);
    m.vm.regs.eflags.set(0x202);
    m.vm.debug.write(0, address, 0);
    m.vm.debug.write(7, control, 0);
    m.host().run_guest(Event::Kick).unwrap();
    m
}

/// The instruction that is stepped has been carried out.
fn step(m: &mut Machine, length: u32) {
    assert_ne!(m.vm.regs.eflags.get() & EFLAGS_TF, 0, "it is stepped");
    m.vm.regs.eip.set(m.vm.regs.eip.get() + length);
    m.host().run_guest(STEP).unwrap();
}

/// movl $0,DATA; movb $0,DATA+4.
const STORES: [u8; 17] = [
    0xC7, 0x05, 0, 0x20, 0, 0, 0, 0, 0, 0, 0xC6, 0x05, 4, 0x20, 0, 0, 0,
];

/// DR7: register 0 for writes of a word, and for execution.
const WORD_WRITTEN: u32 = 1 | 0xD << 16;
const EXECUTED: u32 = 1;

#[test]
fn nothing_is_stepped_while_all_registers_are_off() {
    for control in [0, 0xFFFF_FC00] {
        let m = machine(&STORES, DATA, control);
        assert_eq!(m.vm.regs.eflags.get(), 0x202);
    }
}

#[test]
fn a_write_of_what_is_watched_is_told_behind_it() {
    let mut m = machine(&STORES, DATA, WORD_WRITTEN);
    step(&mut m, 10);
    assert_eq!(m.vm.regs.eip.get(), HANDLER);
    assert_eq!(m.vm.debug.read(6), 0xFFFF_0FF1);
    // eip and flags, without the single step.
    let at = GuestPhys(m.vm.regs.esp.get() - 0xC000_0000);
    assert_eq!(m.ram.memory().word(at).unwrap(), CODE + 10);
    assert_eq!(m.ram.memory().word(at.plus(8)).unwrap() & EFLAGS_TF, 0);
}

#[test]
fn what_lies_beside_it_is_not() {
    let mut m = machine(&STORES, DATA + 4, WORD_WRITTEN);
    step(&mut m, 10);
    assert_eq!(m.vm.regs.eip.get(), CODE + 10, "the word before");
    step(&mut m, 7);
    assert_eq!(m.vm.regs.eip.get(), HANDLER, "the first byte");
}

#[test]
fn a_breakpoint_is_told_before_its_instruction_and_passed_with_rf() {
    let mut m = machine(&[0x90, 0x90], CODE, EXECUTED);
    assert_eq!(m.vm.regs.eip.get(), HANDLER);
    let at = GuestPhys(m.vm.regs.esp.get() - 0xC000_0000);
    let flags = m.ram.memory().word(at.plus(8)).unwrap();
    assert_ne!(flags & EFLAGS_RF, 0);
    // As its handler goes back.
    m.vm.user.set(1);
    m.vm.regs.eip.set(CODE);
    m.vm.regs.eflags.set(0x202 | EFLAGS_RF);
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!(m.vm.regs.eip.get(), CODE);
    step(&mut m, 1);
    assert_eq!(m.vm.regs.eip.get(), CODE + 1);
}

/// A Guest that steps itself has its own trap, with its own status.
#[test]
fn the_guests_own_steps_are_its_own() {
    let mut m = machine(&[0x90; 4], DATA, WORD_WRITTEN);
    m.vm.regs.eflags.set(0x202 | EFLAGS_TF);
    m.host().run_guest(Event::Kick).unwrap();
    m.vm.debug.own_step.set(EFLAGS_TF);
    step(&mut m, 1);
    assert_eq!(m.vm.regs.eip.get(), HANDLER);
    assert_eq!(m.vm.debug.read(6), 0xFFFF_4FF0);
}

/// Nothing but the flag that is ours goes away when something else traps.
#[test]
fn other_traps_find_the_flags_as_they_were() {
    let mut m = machine(&STORES, DATA, WORD_WRITTEN);
    let event = Event::Trap {
        vector: 13,
        error: 0,
        cr2: 0,
    };
    m.host().run_guest(event).unwrap();
    assert_eq!(m.vm.regs.eip.get(), HANDLER);
    assert_eq!(m.vm.regs.eflags.get() & EFLAGS_TF, 0);
    let at = GuestPhys(m.vm.regs.esp.get() - 0xC000_0000);
    assert_eq!(m.ram.memory().word(at.plus(12)).unwrap() & EFLAGS_TF, 0);
}

/// What Linux has set for one program does not slow the next one down.
#[test]
fn registers_are_those_of_one_page_directory() {
    let mut m = machine(&STORES, DATA, 0);
    m.vm.debug.write(7, WORD_WRITTEN, Machine::CR3 + 0x1000);
    m.host().run_guest(Event::Kick).unwrap();
    assert_eq!(m.vm.regs.eflags.get(), 0x202);
}

/// A kernel's table of operations, with a function that reads debug registers
/// and behind it an empty one.
#[test]
fn the_function_that_sets_them_is_found_and_works() {
    const READER: u32 = 0x10_0000;
    const SETTER: u32 = 0x10_0100;
    let mut m = machine(&STORES, DATA, 0);
    let memory = m.ram.memory();
    let code = [0x0F, 0x21, 0xC0, 0xC3, 0x0F, 0x21, 0xF8, 0xC3];
    memory.write(GuestPhys(READER), &code).unwrap();
    memory.write(GuestPhys(SETTER), &[0xC3]).unwrap();
    let base = 0xC000_0000;
    for (at, word) in [(0x20_0000, READER), (0x20_0004, SETTER)] {
        memory.set_word(GuestPhys(at), base + word).unwrap();
    }
    // ptrace(PTRACE_POKEUSER, 1, DR7, 0)
    let regs = &m.vm.regs;
    for (register, value) in [
        (&regs.eax, 26),
        (&regs.ebx, 6),
        (&regs.ecx, 1),
        (&regs.edx, 280),
    ] {
        register.set(value);
    }
    m.vm.idt[0x80].set(Gate {
        handler: HANDLER,
        flags: Gate::PRESENT | 3 << Gate::DPL_SHIFT,
    });
    m.host().run_guest(Event::SystemCall).unwrap();
    let mut byte = [0];
    m.ram.memory().read(GuestPhys(SETTER), &mut byte).unwrap();
    assert_eq!(byte, [HLT]);
    // The kernel calls it.
    let regs = &m.vm.regs;
    regs.eip.set(base + SETTER);
    regs.eax.set(7);
    regs.edx.set(WORD_WRITTEN);
    regs.esp.set(base + 0x8000);
    m.ram
        .memory()
        .set_word(GuestPhys(0x8000), base + 0x123)
        .unwrap();
    let event = Event::Trap {
        vector: 13,
        error: 0,
        cr2: 0,
    };
    m.host().run_guest(event).unwrap();
    assert_eq!(m.vm.regs.eip.get(), base + 0x123);
    assert_eq!(m.vm.regs.esp.get(), base + 0x8004);
    assert_eq!(m.vm.debug.read(7), WORD_WRITTEN | 1 << 10);
    assert_eq!(m.vm.debug.cr3.get(), Machine::CR3);
}

/// The tables of Linux 4.9 (with an entry between), of 4.4 (with one more) and
/// of 4.12, whose function for reading returns 0. Elsewhere there is such a
/// pair, too.
#[test]
fn a_reader_that_returns_0_traps_too() {
    const ZERO: u32 = 0x10_0000;
    const EMPTY: u32 = 0x10_0100;
    const CR0: u32 = 0x10_0200;
    const OTHER: u32 = 0x10_0300;
    const TABLE: u32 = 0x20_0000;
    const BASE: u32 = 0xC000_0000;
    for (between, cr0, native) in
        [(1, CR0, 0), (1, CR0, 1), (0, CR0, 0), (0, OTHER + 0x30, 0)]
    {
        let mut m = machine(&STORES, DATA, 0);
        let memory = m.ram.memory();
        for (at, code) in [
            (ZERO, &[0x31, 0xC0, 0xC3][..]),
            (EMPTY, &[0xC3]),
            (CR0, &[0x55, 0x89, 0xE5, 0xA1, 1, 2, 3, 4, 0x5D, 0xC3]),
            (OTHER, &[0x90, 0xC3]),
            (OTHER + 0x10, &[0x31, 0xC0, 0xC3]),
            (OTHER + 0x20, &[0xC3]),
            (OTHER + 0x30, &[0x31, 0xC0, 0xC3]),
            (OTHER + 0x40, &[0x31, 0xC0, 0xC3]),
        ] {
            memory.write(GuestPhys(at), code).unwrap();
        }
        let rest = [cr0, OTHER].into_iter().chain(
            std::iter::repeat_n(OTHER, native).chain([OTHER + 0x40, EMPTY]),
        );
        let clts = [OTHER];
        let entries = [ZERO, EMPTY].into_iter();
        let entries = entries.chain(clts.into_iter().take(between)).chain(rest);
        for (at, entry) in (TABLE..).step_by(4).zip(entries) {
            memory.set_word(GuestPhys(at), BASE + entry).unwrap();
        }
        for (at, entry) in [(8, OTHER + 0x10), (4, OTHER + 0x20)] {
            let at = GuestPhys(TABLE - 0x100 - at);
            memory.set_word(at, BASE + entry).unwrap();
        }
        m.host().look_for_setter();
        assert_eq!(m.vm.debug.setter.get(), BASE + EMPTY);
        assert_eq!(m.vm.debug.reader.get(), BASE + ZERO);
        for at in [ZERO, EMPTY] {
            let mut byte = [0];
            m.ram.memory().read(GuestPhys(at), &mut byte).unwrap();
            assert_eq!(byte, [HLT]);
        }
        m.vm.debug.write(6, 3, 0);
        m.vm.user.set(0);
        let regs = &m.vm.regs;
        regs.eip.set(BASE + ZERO);
        regs.eax.set(6);
        regs.esp.set(BASE + 0x8000);
        let memory = m.ram.memory();
        memory.set_word(GuestPhys(0x8000), BASE + 0x123).unwrap();
        assert_eq!(m.host().call_for_debug_register(&[HLT]), Ok(true));
        assert_eq!(m.vm.regs.eax.get(), 0xFFFF_0FF3);
        assert_eq!(m.vm.regs.eip.get(), BASE + 0x123);
    }
}

/// Linux 4.4 has its list of symbols in front of the table, with such a run.
#[test]
fn a_sorted_list_of_symbols_is_no_table() {
    const LIST: u32 = 0x20_0000;
    const BASE: u32 = 0xC000_0000;
    let bodies: [&[u8]; 6] = [
        &[0x31, 0xC0, 0xC3],
        &[0xC3],
        &[0x90, 0xC3],
        &[0xA1, 1, 2, 3, 4, 0xC3],
        &[0x90, 0xC3],
        &[0x31, 0xC0, 0xC3],
    ];
    for sorted in [true, false] {
        let mut m = machine(&STORES, DATA, 0);
        let memory = m.ram.memory();
        for (n, body) in (0..).zip(bodies) {
            // The third one is in front of the others in a table.
            let place = if n == 2 && !sorted { 0 } else { n + 1 };
            let at = 0x10_0000 + place * 0x100;
            memory.write(GuestPhys(at), body).unwrap();
            let entry = GuestPhys(LIST + n * 4);
            memory.set_word(entry, BASE + at).unwrap();
        }
        // What follows in the list.
        let end = GuestPhys(LIST + 24);
        memory.set_word(end, BASE + 0x10_0800).unwrap();
        m.host().look_for_setter();
        assert_eq!(m.vm.debug.setter.get() == NO_SETTER, sorted);
    }
}

#[test]
fn a_kernel_without_such_a_table_is_left_alone() {
    let mut m = machine(&STORES, DATA, 0);
    m.host().look_for_setter();
    assert_eq!(m.vm.debug.setter.get(), NO_SETTER);
}

/// Linux since 2.6.28 is usually loaded at 16 MiB.
#[test]
fn the_function_of_a_kernel_at_16_mib_is_found() {
    const KERNEL: u32 = 16 << 20;
    const SETTER: u32 = KERNEL + 0x100;
    const TABLE: u32 = KERNEL + 0x50_0000;
    let mut m = machine(&STORES, DATA, 0);
    m.ram = Ram::new(KERNEL + 0x80_0000);
    m.vm.limit.set(KERNEL + 0x80_0000);
    m.vm.lguest_data.set(KERNEL + 0x60_0000);
    let memory = m.ram.memory();
    let code = [0x0F, 0x21, 0xC0, 0xC3, 0x0F, 0x21, 0xF8, 0xC3];
    memory.write(GuestPhys(KERNEL), &code).unwrap();
    memory.write(GuestPhys(SETTER), &[0xC3]).unwrap();
    // A short function just in front of it, with an empty one in its own table.
    const SHORT: u32 = KERNEL - 0x10;
    memory.write(GuestPhys(SHORT), &[0x89, 0x10, 0xC3]).unwrap();
    memory.write(GuestPhys(SETTER + 0x10), &[0xC3]).unwrap();
    for (at, word) in [
        (TABLE - 0x40, SHORT),
        (TABLE - 0x3C, SETTER + 0x10),
        (TABLE, KERNEL),
        (TABLE + 4, SETTER),
    ] {
        memory.set_word(GuestPhys(at), 0xC000_0000 + word).unwrap();
    }
    m.host().look_for_setter();
    assert_eq!(m.vm.debug.setter.get(), 0xC000_0000 + SETTER);
}
