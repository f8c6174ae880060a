//! A direct call is the system call that it replaces, wherever its program is
//! stopped on the way.

use super::*;
use crate::address::GuestPhys;
use crate::fast_path;
use crate::paging::Fault;
use crate::patch::copies::tests::{
    FRAME, PAGE, READ_ONLY, SITE, SYSCALL, int3, machine, mapped, told_eip,
    trap,
};
use crate::patch::copies::{INT3, INT80};
use crate::testing::{CALL_TRAMPOLINES, Machine};
use crate::world::Access;
use lg_abi::page::{PAGE_SHIFT, Pte};

/// Where a trampoline slot is, in the page and in the program.
const SLOT_AT: u32 = 0x40;
const SLOT_VA: u32 = PAGE << PAGE_SHIFT | SLOT_AT;

/// A program whose system call has been made as often as it takes, with a
/// trampoline slot behind it.
fn often(nothing: usize, slow_paths: u32) -> Machine {
    let mut m = program();
    m.vm.slow_paths.set(slow_paths);
    write(&m, SLOT_AT, &NOTHING[nothing]);
    make_often(&mut m);
    m
}

/// One with a system call, and nothing else.
fn program() -> Machine {
    let m = machine();
    write(&m, 0, &[0x90; PAGE_SIZE as usize]);
    write(&m, 0x10, &INT80);
    m
}

fn write(m: &Machine, at: u32, bytes: &[u8]) {
    m.ram.memory().write(FRAME.plus(at), bytes).unwrap();
}

fn make_often(m: &mut Machine) {
    trap(m, SITE, 2, Event::SystemCall);
    for _ in 0..SAMPLE {
        trap(m, SITE, 1, int3());
    }
}

fn copy_bytes<const N: usize>(m: &Machine, at: u32) -> [u8; N] {
    let mut bytes = [0; N];
    m.copies.memory().read(GuestPhys(at), &mut bytes).unwrap();
    bytes
}

fn is_direct(m: &Machine) -> bool {
    const BY: u8 = 0x30;
    assert_eq!(SLOT_AT, 0x10 + u32::from(BY));
    copy_bytes(m, 0x10) == [SHORT_JUMP, BY]
}

#[test]
fn a_call_that_is_made_often_goes_over_a_slot_to_a_trampoline() {
    for (nothing, bytes) in NOTHING.iter().enumerate() {
        let mut m = often(nothing, 0);
        assert!(is_direct(&m), "{nothing}");
        let by = CALL_TRAMPOLINES.wrapping_sub(SLOT_VA + 7).to_le_bytes();
        let slot = [0xEB, 5, 0xE9, by[0], by[1], by[2], by[3]];
        assert_eq!(copy_bytes(&m, SLOT_AT), slot);
        let mut page = [0; 7];
        m.ram.memory().read(FRAME.plus(SLOT_AT), &mut page).unwrap();
        assert_eq!(page, *bytes, "the page is what it was");
        assert_eq!(m.world.call_trampolines, [SITE.0 + 2]);
        // The trampoline has put that into eip.
        trap(
            &mut m,
            SITE,
            2,
            Event::Trampoline(TrampolineKind::DirectCall),
        );
        assert_eq!(m.vm.regs.eip.get(), SYSCALL);
        assert_eq!(told_eip(&m), SITE.0 + 2);
        assert_eq!(m.vm.counters.direct_calls.get(), 1);
    }
}

#[test]
fn without_the_path_it_stays_an_int3() {
    for path in [fast_path::DIRECT, fast_path::FLAT_CODE] {
        let m = often(0, path);
        assert_eq!(copy_bytes(&m, 0x10), [INT3, 0x80]);
        assert!(m.world.call_trampolines.is_empty());
    }
}

#[test]
fn a_program_that_is_stopped_on_the_way_is_put_back() {
    for at in [SLOT_VA + 2, CALL_TRAMPOLINES] {
        let mut m = often(0, 0);
        trap(&mut m, GuestVirt(at), 0, Event::Kick);
        assert_eq!(m.vm.regs.eip.get(), SITE.0, "{at:#x}");
        // A program that is stepped makes its call.
        let step = Event::Trap {
            vector: 1,
            error: 0,
            cr2: 0,
        };
        trap(&mut m, GuestVirt(at), 0, step);
        assert_eq!(m.vm.regs.eip.get(), SYSCALL);
        assert_eq!(told_eip(&m), SITE.0 + 2);
    }
    // Another program has something else there.
    let mut m = often(0, 0);
    m.set_user_pte(PAGE, Pte(0x9025));
    m.host().set_pte(Machine::CR3, SITE, [0x9025, 0]).unwrap();
    trap(&mut m, GuestVirt(SLOT_VA + 2), 0, Event::Kick);
    assert_eq!(m.vm.regs.eip.get(), SLOT_VA + 2);
    let mut m = often(0, 0);
    trap(&mut m, GuestVirt(SLOT_VA), 0, Event::Kick);
    assert_eq!(m.vm.regs.eip.get(), SLOT_VA, "in front of it, all is well");
}

#[test]
fn a_step_that_the_program_knows_nothing_of_makes_the_call() {
    // While the Guest's debug registers are on, each instruction is stepped,
    // and a step that hits nothing is no event for the Guest.
    for at in [SLOT_VA + 2, CALL_TRAMPOLINES] {
        let mut m = often(0, 0);
        m.vm.regs.eip.set(at);
        let call = Event::Trampoline(TrampolineKind::DirectCall);
        assert_eq!(m.host().step_back(Event::Kick, true), call);
        assert_eq!(m.vm.regs.eip.get(), SITE.0 + 2);
    }
}

#[test]
fn a_slot_that_a_jump_leads_into_is_not_used() {
    // jmp into the middle of a trampoline slot, from 16 bytes behind its
    // beginning.
    let jump = [SHORT_JUMP, 0_u8.wrapping_sub(16 + 2 - 3)];
    let mut m = program();
    write(&m, SLOT_AT, &NOTHING[0]);
    write(&m, SLOT_AT + 16, &jump);
    make_often(&mut m);
    assert_eq!(copy_bytes(&m, 0x10), [INT3, 0x80]);
    // The next one will do.
    let mut m = program();
    write(&m, 0x20, &NOTHING[0]);
    write(&m, 0x20 + 16, &jump);
    write(&m, SLOT_AT, &NOTHING[1]);
    make_often(&mut m);
    assert!(is_direct(&m));
}

#[test]
fn a_second_place_ends_direct_calls() {
    let mut m = often(0, 0);
    assert_eq!(mapped(&m), (Machine::RAM, Access::Read));
    const OTHER: u32 = PAGE + 3;
    m.set_user_pte(OTHER, READ_ONLY);
    let va = GuestVirt(OTHER << PAGE_SHIFT);
    let fault = m.host().demand_page(va, false, true);
    assert_eq!(fault, Ok(Fault::Mapped));
    assert_eq!(m.mapper.pages[&OTHER].0, Machine::RAM, "the copy is there");
    assert_eq!(copy_bytes(&m, 0x10), [INT3, 0x80]);
    assert_eq!(copy_bytes(&m, SLOT_AT), NOTHING[0]);
    for _ in 0..2 * SAMPLE {
        trap(&mut m, SITE, 1, int3());
    }
    assert!(!is_direct(&m), "and there are no new ones");
}

#[test]
fn a_copy_with_direct_calls_is_still_true() {
    let mut m = often(0, 0);
    // When the page is mapped again, it is compared with its patched copy.
    m.set_user_pte(PAGE, Pte(0));
    m.host().flush_user().unwrap();
    m.set_user_pte(PAGE, READ_ONLY);
    let fault = m.host().demand_page(SITE, false, true);
    assert_eq!(fault, Ok(Fault::Mapped));
    assert_eq!(mapped(&m), (Machine::RAM, Access::Read));
    // A disk writes to the trampoline slot.
    m.set_user_pte(PAGE, Pte(0));
    m.host().flush_user().unwrap();
    m.ram.memory().write(FRAME.plus(SLOT_AT), &[0x90]).unwrap();
    m.set_user_pte(PAGE, READ_ONLY);
    m.host().demand_page(SITE, false, true).unwrap();
    assert_eq!(mapped(&m), (FRAME.0, Access::Read));
}

#[test]
fn the_end_of_a_copy_frees_its_direct_calls() {
    let mut m = often(0, 0);
    m.host().forget_copy(0).unwrap();
    assert!(m.vm.patches.direct.iter().all(|call| call.copy.get() == 0));
    m.vm.regs.eip.set(CALL_TRAMPOLINES);
    m.host().step_back(Event::Kick, false);
    assert_eq!(
        m.vm.regs.eip.get(),
        CALL_TRAMPOLINES,
        "the trampoline belongs to no call"
    );
}

#[test]
fn nothing_is_one_instruction() {
    for nothing in NOTHING {
        assert_eq!(
            crate::cpu::instruction::length(&nothing),
            Some(TRAMPOLINE_SLOT),
            "{nothing:x?}"
        );
    }
}
