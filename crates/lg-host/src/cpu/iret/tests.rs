//! Every selector in a frame, and what level it leads to.

use crate::address::GuestPhys;
use crate::cpu::registers::{EFLAGS_RF, EFLAGS_VM};
use crate::cpu::selectors::{REAL_USER_CS, REAL_USER_DS, REAL_WIDE_DS};
use crate::host::Event;
use crate::state::Gate;
use crate::testing::Machine;
use lg_abi::segment::{
    Descriptor, GDT_KERNEL_CS, GDT_KERNEL_DS, GDT_USER_CS, GDT_USER_DS,
    GUEST_PL, KERNEL_CS, KERNEL_DS, USER_CS, USER_DS, USER_PL,
};
use lg_abi::shared::{IF, offset};
use std::vec::Vec;

/// Where the kernel's `iret` is, and its frame.
const IRET: u32 = 0xC000_6000;
const FRAME: u32 = 0xC000_8000;
const HANDLER: u32 = 0xC000_7000;
/// What frames say of eip and esp.
const EIP: u32 = 0x0804_8123;
const ESP: u32 = 0xB000_0000;

/// Descriptors that a kernel might have besides the usual ones.
const CONFORMING: u32 = 1;
const CODE_OF_LEVEL_2: u32 = 2;
const CODE_OF_16_BITS: u32 = 3;
const CODE_WITH_A_BASE: u32 = 4;
const NOT_PRESENT: u32 = 5;
const TLS: u32 = 6;
const READ_ONLY: u32 = 7;
const CALL_GATE: u32 = 9;

/// A machine whose kernel stands at its `iret`.
fn machine() -> Machine {
    let m = Machine::new();
    let changed = |mut d: Descriptor, set: u32, clear: u32| {
        d.high = d.high & !clear | set;
        d
    };
    let (code, data) = (
        Descriptor::flat_code(USER_PL),
        Descriptor::flat_data(USER_PL),
    );
    for (index, descriptor) in [
        (GDT_KERNEL_CS, Descriptor::flat_code(GUEST_PL)),
        (GDT_KERNEL_DS, Descriptor::flat_data(GUEST_PL)),
        (GDT_USER_CS, code),
        (GDT_USER_DS, data),
        (
            CONFORMING,
            changed(Descriptor::flat_code(GUEST_PL), Descriptor::CONFORMING, 0),
        ),
        (CODE_OF_LEVEL_2, Descriptor::flat_code(2)),
        (CODE_OF_16_BITS, changed(code, 0, Descriptor::BIG)),
        (CODE_WITH_A_BASE, changed(code, 0x10, 0)),
        (NOT_PRESENT, changed(code, 0, Descriptor::PRESENT)),
        (TLS, changed(data, 0x10, 0)),
        (READ_ONLY, changed(data, 0, Descriptor::WRITABLE)),
        (CALL_GATE, changed(code, 0, Descriptor::NOT_SYSTEM)),
    ] {
        m.vm.gdt[index as usize].set(descriptor);
    }
    m.vm.idt[13].set(Gate {
        handler: HANDLER,
        flags: Gate::PRESENT,
    });
    let memory = m.ram.memory();
    memory
        .write(GuestPhys(IRET - 0xC000_0000), &[0xCF])
        .unwrap();
    let irq_enabled = GuestPhys(Machine::DATA + offset::IRQ_ENABLED);
    memory.set_word(irq_enabled, IF).unwrap();
    m
}

/// The kernel carries out its `iret`, with these words on its stack.
fn iret(m: &mut Machine, frame: &[u32]) {
    m.vm.user.set(0);
    m.vm.cs.set(KERNEL_CS.into());
    m.vm.ss.set(KERNEL_DS.into());
    m.vm.regs.eip.set(IRET);
    m.vm.regs.esp.set(FRAME);
    for (at, &word) in (FRAME - 0xC000_0000..).step_by(4).zip(frame) {
        m.ram.memory().set_word(GuestPhys(at), word).unwrap();
    }
    let event = Event::Trap {
        vector: 13,
        error: 0,
        cr2: 0,
    };
    m.host().run_guest(event).unwrap();
}

/// What the handler of a general protection fault finds on its stack.
fn handlers_frame<const N: usize>(m: &Machine) -> [u32; N] {
    assert_eq!(m.vm.regs.eip.get(), HANDLER);
    assert!(!m.vm.in_user_mode());
    let mut words = [0; N];
    let at = m.vm.regs.esp.get() - 0xC000_0000;
    for (at, word) in (at..).step_by(4).zip(&mut words) {
        *word = m.ram.memory().word(GuestPhys(at)).unwrap();
    }
    words
}

#[test]
fn every_code_selector_leads_to_its_own_level_or_is_refused() {
    let users = [USER_CS.into(), CONFORMING << 3 | USER_PL, REAL_USER_CS];
    let kernels = [KERNEL_CS.into(), CONFORMING << 3 | GUEST_PL];
    let mut m = machine();
    for cs in 0..=0xFFFF {
        iret(&mut m, &[EIP, cs, 0x202, ESP, USER_DS.into()]);
        let level = cs & 3;
        if users.contains(&cs) {
            assert!(m.vm.in_user_mode(), "{cs:#x}");
            assert_eq!(m.vm.regs.eip.get(), EIP);
            assert_eq!(m.vm.regs.esp.get(), ESP);
            assert_eq!(m.vm.cs.get() & 3, USER_PL);
        } else if kernels.contains(&cs) {
            assert!(!m.vm.in_user_mode(), "{cs:#x}");
            assert_eq!(m.vm.regs.eip.get(), EIP);
            assert_eq!(m.vm.regs.esp.get(), FRAME + 12);
        } else if level == USER_PL {
            // A fault of the program's.
            let frame = handlers_frame(&m);
            let flags = 0x202 | EFLAGS_RF;
            let error = cs & !3;
            assert_eq!(frame, [error, EIP, cs, flags, ESP, USER_DS.into()]);
        } else {
            // A fault of the kernel's, at its iret, which it can look at.
            let [error, eip, old_cs, _] = handlers_frame(&m);
            assert_eq!((error, eip), (cs & !3, IRET));
            assert_eq!(old_cs, KERNEL_CS.into());
            assert_eq!(m.vm.regs.esp.get(), FRAME - 16);
        }
    }
}

#[test]
fn every_stack_selector_is_one_of_user_level_or_is_refused() {
    let mut m = machine();
    for ss in 0..=0xFFFF {
        iret(&mut m, &[EIP, USER_CS.into(), 0x202, ESP, ss]);
        let is_ours = |ss: u32| (0x37..=0x47).step_by(8).any(|s| s == ss);
        let users = [USER_DS.into(), TLS << 3 | 3, REAL_USER_DS, REAL_WIDE_DS];
        if users.contains(&ss) || is_ours(ss) {
            assert!(m.vm.in_user_mode(), "{ss:#x}");
            assert_eq!(m.vm.regs.eip.get(), EIP);
        } else {
            let frame = handlers_frame(&m);
            let flags = 0x202 | EFLAGS_RF;
            let (error, cs) = (ss & !3, USER_CS.into());
            assert_eq!(frame, [error, EIP, cs, flags, ESP, ss], "{ss:#x}");
        }
    }
}

/// Virtual-8086 mode is user level, whatever the selectors say: its first
/// instruction is a fault, with the frame of that mode.
#[test]
fn virtual_8086_mode_is_a_fault_of_the_program() {
    const SEGMENTS: [u32; 4] = [0x1111, 0x61, 0x73, 0xFFFF];
    let mut m = machine();
    for cs in 0..=0xFFFF {
        let (ss, flags) = (cs ^ 0x5A5A, 0x0002_0302);
        let [es, ds, fs, gs] = SEGMENTS;
        iret(&mut m, &[EIP, cs, flags, ESP, ss, es, ds, fs, gs]);
        let pushed = flags | EFLAGS_RF;
        assert_eq!(
            handlers_frame(&m),
            [0, EIP, cs, pushed, ESP, ss, es, ds, fs, gs],
        );
        assert_eq!(m.vm.regs.esp.get(), m.vm.esp1.get() - 40);
        assert_eq!(m.vm.cs.get(), KERNEL_CS.into());
        let regs = &m.vm.regs;
        assert_eq!(regs.eflags.get() & (EFLAGS_VM | 0x100), 0);
        let segments = [&regs.ds, &regs.es, &regs.fs, &regs.gs];
        assert_eq!(segments.map(core::cell::Cell::get), [0; 4]);
    }
}

/// The high halves of the words in a frame mean nothing.
#[test]
fn selectors_have_sixteen_bits() {
    let mut m = machine();
    let high = 0xDEAD_0000;
    let (cs, ss) = (high | u32::from(USER_CS), high | u32::from(USER_DS));
    iret(&mut m, &[EIP, cs, 0x202, ESP, ss]);
    assert_eq!(m.vm.cs.get(), USER_CS.into());
    assert_eq!(m.vm.ss.get(), USER_DS.into());
    let frame: Vec<u32> = [EIP, high | 0x61, EFLAGS_VM, ESP, ss]
        .into_iter()
        .chain([high; 4])
        .collect();
    iret(&mut m, &frame);
    let [_, _, cs, ..] = handlers_frame::<6>(&m);
    assert_eq!(cs, 0x61);
}

/// The gate's frame is the same, and its fault is at the same place.
#[test]
fn a_frame_that_comes_by_the_gate_is_refused_too() {
    let mut m = machine();
    m.vm.noirq_start.set(IRET - 7);
    m.vm.noirq_end.set(IRET + 1);
    m.vm.regs.eax.set(IF);
    let eax = 0x1234;
    for (at, word) in (0x8000..).step_by(4).zip([eax, EIP, 0x60, 0x202]) {
        m.ram.memory().set_word(GuestPhys(at), word).unwrap();
    }
    m.vm.regs.esp.set(FRAME);
    let event = Event::Trampoline(crate::patch::TrampolineKind::Iret);
    m.host().run_guest(event).unwrap();
    let [error, eip, ..] = handlers_frame::<4>(&m);
    assert_eq!((error, eip), (0x60, IRET));
    assert_eq!(m.vm.regs.eax.get(), eax);
    assert_eq!(m.vm.regs.esp.get(), FRAME + 4 - 16);
}
