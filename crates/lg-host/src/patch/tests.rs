//! Patches go where they belong, and nowhere else.

use super::TrampolineKind;
use super::crossing::words::CODE_ADDRESS;
use super::far::{FAR_CALL, FAR_JUMP, NOP};
use crate::address::GuestPhys;
use crate::cpu::selectors::{REAL_LONG_CS, REAL_USER_CS};
use crate::fast_path;
use crate::host::Event;
use crate::kill::Kill;
use crate::testing::Machine;
use lg_abi::segment::{Descriptor, GDT_USER_CS, GDT_USER_DS, USER_PL};

const CODE: u32 = 0xC001_0000;

/// A machine whose kernel has `code` at [`CODE`], and stands `at` bytes in.
fn standing_at(code: &[u8], at: u32) -> Machine {
    let m = Machine::new();
    m.ram
        .memory()
        .write(GuestPhys(CODE - 0xC000_0000), code)
        .unwrap();
    m.vm.regs.eip.set(CODE + at);
    m
}

fn code(m: &Machine, at: u32, len: usize) -> std::vec::Vec<u8> {
    let mut bytes = std::vec![0; len];
    let place = GuestPhys(CODE - 0xC000_0000 + at);
    m.ram.memory().read(place, &mut bytes).unwrap();
    bytes
}

/// The Guest's GDT gets the segments of its programs.
fn know_user_code(m: &Machine) {
    m.vm.gdt[GDT_USER_CS as usize].set(Descriptor::flat_code(USER_PL));
    m.vm.gdt[GDT_USER_DS as usize].set(Descriptor::flat_data(USER_PL));
}

/// 32 nops, mov $5,%eax; mov $0,%edx; int $0x1f; ret.
fn hypercall() -> std::vec::Vec<u8> {
    let mut code = std::vec![NOP; 32];
    code.extend([0xB8, 5, 0, 0, 0, 0xBA, 0, 0, 0, 0, 0xCD, 0x1F, 0xC3]);
    code
}

#[test]
fn a_hypercall_gets_a_trampoline_that_loads_its_arguments() {
    let mut m = standing_at(&hypercall(), 42);
    m.vm.regs.eax.set(5);
    let event = Event::Trap {
        vector: 13,
        error: 0xFA,
        cr2: 0,
    };
    m.host().run_guest(event).unwrap();
    assert_eq!(m.vm.regs.eip.get(), CODE + 44);
    let call = [FAR_CALL, 0, 0x10, 0, 0, 0x33, 0];
    assert_eq!(code(&m, 37, 7), call);
    assert_eq!(
        m.world.trampolines,
        [(TrampolineKind::Hypercall, hypercall()[37..42].to_vec())]
    );
    // Through the trampoline it does the same, and goes on behind the call.
    let memory = m.ram.memory();
    m.vm.regs.esp.set(0xC000_7FF8);
    memory.set_word(GuestPhys(0x7FF8), CODE + 44).unwrap();
    m.vm.regs.eip.set(0); // there is no padding
    m.host()
        .run_guest(Event::Trampoline(TrampolineKind::Hypercall))
        .unwrap();
    assert_eq!(m.vm.regs.eip.get(), CODE + 44);
    assert_eq!(m.vm.regs.esp.get(), 0xC000_8000);
    assert_eq!(m.vm.counters.hypercalls[5].get(), 2);
}

/// As gcc compiles NOTIFY: the number of a page becomes an address.
#[test]
fn a_shift_in_front_of_a_hypercall_is_displaced() {
    // mov $5,%eax; shl $12,%ebx; int $0x1f; ret
    let mut notify = std::vec![NOP; 32];
    notify.extend([0xB8, 5, 0, 0, 0, 0xC1, 0xE3, 12, 0xCD, 0x1F, 0xC3]);
    for (ebx, patched) in [(0x12_3000, true), (0x12_3001, false)] {
        let mut m = standing_at(&notify, 40);
        m.vm.regs.eax.set(5);
        m.vm.regs.ebx.set(ebx);
        m.host().patch_hypercall();
        let call = [FAR_CALL, 0, 0x10, 0, 0, 0x33, 0, NOP, NOP, NOP, 0xC3];
        let expected = if patched { &call } else { &notify[32..] };
        assert_eq!(code(&m, 32, 11), expected, "{ebx:#x}");
        if patched {
            let kind = TrampolineKind::Hypercall;
            let made = [(kind, notify[32..40].to_vec())];
            assert_eq!(m.world.trampolines, made);
        }
    }
    // It reads its register, which may not be loaded in front of it.
    // mov $0,%ebx; shl $12,%ebx
    notify[32] = 0xBB;
    notify[33] = 0;
    let mut m = standing_at(&notify, 40);
    m.vm.regs.eax.set(5);
    m.host().patch_hypercall();
    assert_eq!(code(&m, 0, 43), notify);
}

#[test]
fn a_hypercall_whose_registers_disagree_keeps_trapping() {
    // The bytes look like "mov $5,%eax; mov $0,%edx", but edx is not 0: they
    // are something else.
    let mut m = standing_at(&hypercall(), 42);
    m.vm.regs.eax.set(5);
    m.vm.regs.edx.set(1);
    m.host().patch_hypercall();
    assert_eq!(code(&m, 0, 45), hypercall());
}

#[test]
fn a_hypercall_that_is_jumped_into_keeps_trapping() {
    for jump in [
        std::vec![0xEB_u8, 40],
        std::vec![0x74, 40],
        std::vec![0xE9, 37, 0, 0, 0],
        std::vec![0x0F, 0x85, 36, 0, 0, 0],
    ] {
        let mut with_jump = hypercall();
        with_jump[..jump.len()].copy_from_slice(&jump);
        let mut m = standing_at(&with_jump, 42);
        m.vm.regs.eax.set(5);
        m.host().patch_hypercall();
        assert_eq!(code(&m, 0, 45), with_jump, "{jump:x?}");
        assert_eq!(
            m.vm.patches.refused[0].get(),
            CODE + 42,
            "it is not read again"
        );
    }
}

/// A jump at [`CODE`] to byte `at` of the code of crossings, in the place of
/// the kernel's way back.
fn crossing(at: u32) -> [u8; 8] {
    let way = (CODE_ADDRESS + at).wrapping_sub(CODE + 5);
    let [a, b, c, d] = way.to_le_bytes();
    [0xE9, a, b, c, d, NOP, NOP, 0xCF]
}

#[test]
fn the_way_back_gets_a_trampoline_only_if_it_is_the_real_one() {
    let irq_enabled = 0xC000_0000 + Machine::DATA;
    let [a, b, c, d] = irq_enabled.to_le_bytes();
    let way_back = [0x36, 0xA3, a, b, c, d, 0x58, 0xCF];
    for (slow, wanted) in [
        (
            fast_path::CROSSING,
            [FAR_JUMP, 0, 0x10, 0, 0, 0x33, 0, 0xCF],
        ),
        (0, crossing(0x13D)),
    ] {
        let mut m = standing_at(&way_back, 7);
        m.vm.slow_paths.set(slow);
        m.vm.noirq_start.set(CODE);
        m.vm.noirq_end.set(CODE + 8);
        m.host().patch_iret();
        assert_eq!(code(&m, 0, 8), wanted);
    }
    // The same with another variable is something else.
    let other = [0x36, 0xA3, a + 8, b, c, d, 0x58, 0xCF];
    let mut m = standing_at(&other, 7);
    m.vm.noirq_start.set(CODE);
    m.vm.noirq_end.set(CODE + 8);
    m.host().patch_iret();
    assert_eq!(code(&m, 0, 7), other[..7]);
}

#[test]
fn since_4_1_the_way_back_stores_the_flags_of_its_frame() {
    let [a, b, c, d] = (0xC000_0000 + Machine::DATA).to_le_bytes();
    let way_back = [0xFF, 0x74, 0x24, 8, 0x36, 0x8F, 5, a, b, c, d, 0xCF];
    let mut m = standing_at(&way_back, 11);
    know_user_code(&m);
    m.vm.noirq_start.set(CODE + 11);
    m.vm.noirq_end.set(CODE + 12);
    m.vm.slow_paths.set(fast_path::CROSSING);
    m.host().patch_iret();
    assert_eq!(code(&m, 0, 7), [FAR_JUMP, 0, 0x10, 0, 0, 0x33, 0]);
    assert_eq!(code(&m, 7, 5), way_back[7..]);
    // The trampoline returns to the frame at the top of the stack.
    m.vm.regs.esp.set(0xC000_7F00);
    let frame = [0x0804_8000, 0x73, 0x200, 0xBFFF_0000, 0x7B];
    for (n, word) in (0..).zip(frame) {
        let at = GuestPhys(0x7F00 + 4 * n);
        m.ram.memory().set_word(at, word).unwrap();
    }
    let event = Event::Trampoline(TrampolineKind::Iret);
    m.host().run_guest(event).unwrap();
    assert_eq!(m.vm.regs.eip.get(), 0x0804_8000);
    assert_eq!(m.vm.regs.esp.get(), 0xBFFF_0000);
    assert_eq!(m.vm.user.get(), 1);
    let enabled = m.ram.memory().word(GuestPhys(Machine::DATA)).unwrap();
    assert_eq!(enabled & 0x200, 0x200);
}

#[test]
fn an_iret_without_a_trampoline_traps_whatever_the_frame_says() {
    let trap = |error| Event::Trap {
        vector: 13,
        error,
        cr2: 0,
    };
    let mut m = standing_at(&[0xCF], 0);
    know_user_code(&m);
    m.vm.slow_paths.set(fast_path::IRET);
    m.vm.regs.esp.set(0xC000_7F00);
    let frame = |m: &Machine, cs: u32| {
        let frame = [0x0804_8000, cs, 0x200, 0xBFFF_0000, 0x7B];
        for (n, word) in (0..).zip(frame) {
            let at = GuestPhys(0x7F00 + 4 * n);
            m.ram.memory().set_word(at, word).unwrap();
        }
    };
    frame(&m, 0x73);
    m.host().run_guest(trap(0x70)).unwrap();
    assert_eq!((m.vm.regs.eip.get(), m.vm.user.get()), (0x0804_8000, 1));
    assert_eq!(code(&m, 0, 1), [0xF4]);
    let stand_at_it = |m: &Machine, cs: u32| {
        m.vm.user.set(0);
        m.vm.cs.set(0x61);
        m.vm.ss.set(0x69);
        m.vm.regs.eip.set(CODE);
        m.vm.regs.esp.set(0xC000_7F00);
        frame(m, cs);
    };
    // The selectors of the machine's kernel: the processor would carry these
    // out. 32-bit code is user code, and 64-bit code a fault.
    stand_at_it(&m, REAL_USER_CS);
    m.host().run_guest(trap(0)).unwrap();
    assert_eq!((m.vm.regs.eip.get(), m.vm.user.get()), (0x0804_8000, 1));
    stand_at_it(&m, REAL_LONG_CS);
    let (vector, eip, detail) = (13, 0x0804_8000, REAL_LONG_CS & 0xFFFC);
    let wanted = Kill::UnhandledTrap {
        vector,
        eip,
        detail,
    };
    assert_eq!(m.host().run_guest(trap(0)), Err(wanted));
    // A `hlt` of the Guest's own is none of ours.
    m.ram.memory().write(GuestPhys(0x1_0001), &[0xF4]).unwrap();
    m.vm.regs.eip.set(CODE + 1);
    frame(&m, 0x73);
    assert!(m.host().run_guest(trap(0)).is_err());
}

#[test]
fn an_iret_that_traps_gets_its_trampoline_when_it_can() {
    let [a, b, c, d] = (0xC000_0000 + Machine::DATA).to_le_bytes();
    let mut m = standing_at(&[0x36, 0xA3, a, b, c, d, 0x58, 0xCF], 7);
    m.host().patch_iret();
    assert_eq!(code(&m, 7, 1), [0xF4]);
    assert!(m.host().is_trapping_iret());
    assert_eq!(code(&m, 7, 1), [0xF4]);
    m.vm.noirq_start.set(CODE);
    m.vm.noirq_end.set(CODE + 8);
    assert!(m.host().is_trapping_iret());
    assert_eq!(code(&m, 0, 8), crossing(0x13D));
    assert!(!m.host().is_trapping_iret());
}

#[test]
fn a_trampoline_for_the_other_mode_is_a_protection_fault() {
    let mut m = Machine::new();
    m.vm.user.set(1);
    let event = Event::Trampoline(TrampolineKind::Iret);
    let kill = m.host().run_guest(event).unwrap_err();
    let eip = 0;
    assert_eq!(
        kill,
        Kill::UnhandledTrap {
            vector: 13,
            eip,
            detail: 0
        }
    );
}

#[test]
fn a_handlers_segment_is_found_behind_a_jump() {
    // push $7; jmp +3; ...; mov $0x7b,%ecx; mov %ecx,%ds; mov %ecx,%es
    let handler = [
        0x6A, 7, 0xEB, 3, 0, 0, 0, 0x50, 0xB9, 0x7B, 0, 0, 0, 0x8E, 0xD9, 0x8E,
        0xC1,
    ];
    let mut m = standing_at(&handler, 0);
    m.vm.last_handler.set(CODE);
    m.host().patch_segment_load();
    assert_eq!(code(&m, 9, 1), [0x2B]);
}

#[test]
fn paths_that_were_taken_away_are_not_taken() {
    let mut m = standing_at(&hypercall(), 42);
    m.vm.regs.eax.set(5);
    m.vm.slow_paths.set(fast_path::HYPERCALL);
    m.host().patch_hypercall();
    assert_eq!(code(&m, 0, 45), hypercall());
}

#[test]
fn a_program_at_a_trampoline_without_a_stack_has_a_stack_fault() {
    // Once with no stack at all, once with the kernel's.
    for esp in [0x30_0000, 0xC000_6000] {
        let mut m = Machine::new();
        m.vm.user.set(1);
        m.vm.regs.esp.set(esp);
        let event = Event::Trampoline(TrampolineKind::EntryPage);
        let kill = m.host().run_guest(event).unwrap_err();
        let (vector, eip, detail) = (12, 0, 0);
        assert_eq!(
            kill,
            Kill::UnhandledTrap {
                vector,
                eip,
                detail
            }
        );
    }
}
