//! Linux's accessors, and what is none.

use super::*;
use crate::address::GuestPhys;
use crate::host::Event;
use crate::pci::tests::{BAR, machine};
use crate::testing::Machine;
use std::vec::Vec;

/// Where the code is, and the console's BAR.
const CODE: u32 = 0xC020_0100;
const VA: u32 = 0xC030_0000;

/// The notification and the reason of an interrupt, in a BAR.
const NOTIFY: u32 = 0x38;
const REASON: u32 = 0x3A;

/// `iowrite16`: cmp $0x3ffff,%edx; movzwl %ax,%eax; jbe; mov %ax,(%edx); ret.
const WRITE: &[u8] = &[
    0x81, 0xFA, 0xFF, 0xFF, 3, 0, 0x0F, 0xB7, 0xC0, 0x76, 5, 0x66, 0x89, 2,
    0xC3, NOP,
];
const WRITES_AT: u32 = CODE + 11;

/// `ioread8`: cmp $0x3ffff,%eax; ja; ret; ...; mov (%eax),%al; ret.
const READ: &[u8] = &[
    0x3D, 0xFF, 0xFF, 3, 0, 0x77, 9, 0xC3, NOP, NOP, NOP, NOP, NOP, NOP, NOP,
    NOP, 0x8A, 0, 0xC3,
];
const READS_AT: u32 = CODE + 16;

/// A kernel with this code in the middle of nops.
fn kernel(code: &[u8]) -> Machine {
    let mut m = machine();
    let memory = m.ram.memory();
    let entry = GuestPhys(Machine::KERNEL_TABLE + (VA >> 12 & 0x3FF) * 4);
    memory.set_word(entry, BAR | 0x13).unwrap();
    let page = GuestPhys(CODE - 0xC000_0000 - 0x100);
    memory.write(page, &[NOP; 0x200]).unwrap();
    memory.write(page.plus(0x100), code).unwrap();
    m.world.device_value = 0x5566_7788;
    m
}

fn code(m: &Machine, len: usize) -> Vec<u8> {
    let mut bytes = std::vec![0; len];
    let place = GuestPhys(CODE - 0xC000_0000);
    m.ram.memory().read(place, &mut bytes).unwrap();
    bytes
}

/// The kernel's `mov` has faulted at `va`; these are eax and edx.
fn fault(m: &mut Machine, eip: u32, va: u32, [eax, edx]: [u32; 2]) {
    let regs = &m.vm.regs;
    regs.eip.set(eip);
    regs.eax.set(eax);
    regs.edx.set(edx);
    regs.eflags.set(0x202 | compared(va, 0x3_FFFF));
    let error = u32::from(eip == WRITES_AT) << 1;
    let event = Event::Trap {
        vector: 14,
        error,
        cr2: va,
    };
    m.host().run_guest(event).unwrap();
}

fn fault_of_write(m: &mut Machine) {
    let va = VA + NOTIFY;
    fault(m, WRITES_AT, va, [3, va]);
}

fn fault_of_read(m: &mut Machine) {
    let va = VA + REASON;
    fault(m, READS_AT, va, [va, 7]);
}

/// The kernel comes through the trampoline with these in eax and edx.
fn come(m: &mut Machine, [eax, edx]: [u32; 2]) {
    let regs = &m.vm.regs;
    regs.eax.set(eax);
    regs.edx.set(edx);
    regs.eflags.set(0x202);
    regs.esp.set(0xC000_7FF8);
    let back = GuestPhys(0x7FF8);
    m.ram.memory().set_word(back, CODE + 7).unwrap();
    m.host()
        .run_guest(Event::Trampoline(TrampolineKind::Accessor))
        .unwrap();
    assert_eq!(m.vm.regs.esp.get(), 0xC000_8000);
}

const CALL: [u8; FAR] = [FAR_CALL, 0, 0x10, 0, 0, 0x33, 0];

#[test]
fn a_notification_gets_a_trampoline_and_does_the_same() {
    let mut m = kernel(WRITE);
    fault_of_write(&mut m);
    assert_eq!(code(&m, 9), [&CALL[..], &[NOP, NOP]].concat());
    assert_eq!(code(&m, 16)[9..], WRITE[9..]);
    assert_eq!(m.vm.regs.eip.get(), WRITES_AT + 3);
    come(&mut m, [0xABCD_0004, VA + NOTIFY]);
    let regs = &m.vm.regs;
    assert_eq!(regs.eip.get(), WRITES_AT + 3);
    assert_eq!(regs.eax.get(), 4);
    let flags = compared(VA + NOTIFY, 0x3_FFFF);
    assert_eq!(regs.eflags.get(), 0x202 | flags);
    let written = |value| (0, NOTIFY, 2, Some(value));
    assert_eq!(m.world.device_accesses, [written(3), written(4)]);
    assert_eq!(m.vm.counters.accessor_trampolines.get(), 1);
}

#[test]
fn a_reason_gets_a_trampoline_and_does_the_same() {
    let mut m = kernel(READ);
    fault_of_read(&mut m);
    assert_eq!(code(&m, 7), CALL);
    assert_eq!(code(&m, 19)[7..], READ[7..]);
    m.vm.pci.note_delivered(1);
    come(&mut m, [VA + REASON, 7]);
    let regs = &m.vm.regs;
    assert_eq!(regs.eip.get(), READS_AT + 2);
    assert_eq!(regs.eax.get() & 0xFF, 1);
    assert_eq!(m.world.device_accesses, [], "the Host answers");
    assert_eq!(m.vm.counters.device_accesses.get(), 2);
}

#[test]
fn what_is_no_device_goes_on_as_without_a_patch() {
    // A port: the branch goes the other way.
    let mut m = kernel(WRITE);
    fault_of_write(&mut m);
    come(&mut m, [4, 0x1_00C0]);
    assert_eq!(m.vm.regs.eip.get(), CODE + 16);
    let mut m = kernel(READ);
    fault_of_read(&mut m);
    come(&mut m, [0x1_00C0, 0]);
    assert_eq!(m.vm.regs.eip.get(), CODE + 7);
    assert_eq!(
        m.vm.regs.eflags.get() & COMPARED,
        compared(0x1_00C0, 0x3_FFFF)
    );
    // Memory that is no device: the processor carries out the access.
    come(&mut m, [0xC000_5000, 0]);
    assert_eq!(m.vm.regs.eip.get(), READS_AT);
    assert_eq!(m.vm.counters.device_accesses.get(), 1);
}

#[test]
fn what_need_not_be_an_accessor_keeps_faulting() {
    // je into the middle of the comparison; the branch leads elsewhere; another
    // condition; no comparison.
    let changes: [(&[u8], usize, &[u8]); 4] = [
        (WRITE, 15, &[0x74, 0xF4]),
        (READ, 6, &[8]),
        (READ, 5, &[0x73]),
        (WRITE, 0, &[0x81, 0xF2]),
    ];
    for (original, at, change) in changes {
        let mut changed = original.to_vec();
        changed.resize(original.len().max(at + change.len()), NOP);
        changed[at..at + change.len()].copy_from_slice(change);
        let mut m = kernel(&changed);
        match original == WRITE {
            true => fault_of_write(&mut m),
            false => fault_of_read(&mut m),
        }
        assert_eq!(code(&m, changed.len()), changed, "{change:x?}");
        let eip = m.vm.patches.refused[0].get();
        assert!(eip == WRITES_AT || eip == READS_AT);
        assert_eq!(m.vm.counters.device_accesses.get(), 1);
    }
    // The flags are not those of the comparison.
    let mut m = kernel(READ);
    let regs = &m.vm.regs;
    regs.eip.set(READS_AT);
    regs.eax.set(VA + REASON);
    regs.eflags.set(0x202 | ZERO);
    m.host().patch_accessor();
    assert_eq!(code(&m, 7), READ[..7]);
    // It is switched off.
    let mut m = kernel(READ);
    m.vm.slow_paths.set(fast_path::ACCESSORS);
    fault_of_read(&mut m);
    assert_eq!(code(&m, 7), READ[..7]);
}

#[test]
fn a_jump_to_the_trampoline_from_elsewhere_is_a_fault() {
    let mut m = kernel(WRITE);
    m.vm.idt[13].set(crate::state::Gate {
        handler: 0xC000_7100,
        flags: crate::state::Gate::PRESENT,
    });
    m.vm.regs.esp.set(0xC000_7FF8);
    let back = GuestPhys(0x7FF8);
    m.ram.memory().set_word(back, CODE + 7).unwrap();
    m.host()
        .run_guest(Event::Trampoline(TrampolineKind::Accessor))
        .unwrap();
    assert_eq!(m.vm.regs.eip.get(), 0xC000_7100);
    assert_eq!(m.world.device_accesses, []);
}

/// As the manuals say (Intel SDM volume 1, section 3.4.3.1).
#[test]
fn flags_are_those_of_a_comparison() {
    for (a, b, flags) in [
        (5, 5, ZERO | PARITY),
        (0, 1, CARRY | PARITY | ADJUST | SIGN),
        (0x8000_0000, 1, OVERFLOW | PARITY | ADJUST),
        (0x4_0000, 0x3_FFFF, ADJUST),
        (0x7FFF_FFFF, 0xFFFF_FFFF, CARRY | SIGN | OVERFLOW | PARITY),
        (0x25, 0x12, 0),
    ] {
        assert_eq!(compared(a, b), flags, "{a:#x} {b:#x}");
    }
}
