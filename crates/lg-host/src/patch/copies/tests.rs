//! A patched copy is what its page is, except for the traps in it.

use super::*;
use crate::fast_path;
use crate::host::Event;
use crate::state::Gate;
use crate::testing::Machine;
use lg_abi::page::Pte;
use lg_abi::shared::SYSCALL_VECTOR;

/// The user page with the code, and the frame it is in.
pub(in crate::patch) const PAGE: u32 = 0x100;
pub(in crate::patch) const FRAME: GuestPhys = GuestPhys(0x20_0000);

/// Where `int $0x80` is.
pub(in crate::patch) const SITE: GuestVirt =
    GuestVirt(PAGE << PAGE_SHIFT | 0x10);

/// Where system calls and breakpoints go.
pub(in crate::patch) const SYSCALL: u32 = 0xC000_4000;
pub(in crate::patch) const BREAKPOINT: u32 = 0xC000_5000;

pub(in crate::patch) const READ_ONLY: Pte = Pte(FRAME.0 | 0x25);

/// A user program behind its first `int $0x80`, with another one 16 bytes on,
/// and an `int3` of its own 16 bytes behind that.
pub(in crate::patch) fn machine() -> Machine {
    let mut m = Machine::new();
    let memory = m.ram.memory();
    // With page 0, the kernel's memory is linear.
    let first = GuestPhys(Machine::KERNEL_TABLE);
    memory.set_word(first, 0x63).unwrap();
    // Zeros can be read in two ways.
    memory.write(FRAME, &[0x90; PAGE_SIZE as usize]).unwrap();
    memory.write(FRAME.plus(0x10), &INT80).unwrap();
    memory.write(FRAME.plus(0x20), &INT80).unwrap();
    memory.write(FRAME.plus(0x30), &[INT3]).unwrap();
    m.set_user_pte(PAGE, READ_ONLY);
    let gate = |handler| Gate {
        handler,
        flags: Gate::PRESENT | 3 << Gate::DPL_SHIFT,
    };
    m.vm.idt[SYSCALL_VECTOR as usize].set(gate(SYSCALL));
    m.vm.idt[3].set(gate(BREAKPOINT));
    let mut host = m.host();
    host.demand_page(GuestVirt(0xC000_8000), true, false)
        .unwrap();
    host.demand_page(SITE, false, true).unwrap();
    m.vm.user.set(1);
    m
}

/// The program traps `length` bytes behind `at`.
pub(in crate::patch) fn trap(
    m: &mut Machine,
    at: GuestVirt,
    length: u32,
    event: Event,
) {
    m.vm.user.set(1);
    m.vm.regs.eip.set(at.0 + length);
    m.host().run_guest(event).unwrap();
}

pub(in crate::patch) fn int3() -> Event {
    Event::Trap {
        vector: 3,
        error: 0,
        cr2: 0,
    }
}

/// Where the Guest's handler was told that the program stood.
pub(in crate::patch) fn told_eip(m: &Machine) -> u32 {
    let at = GuestPhys(m.vm.regs.esp.get() - 0xC000_0000);
    m.ram.memory().word(at).unwrap()
}

/// The frame that is mapped where the code is.
pub(in crate::patch) fn mapped(m: &Machine) -> (u32, Access) {
    m.mapper.pages[&PAGE]
}

#[test]
fn a_system_call_comes_as_an_int3_and_is_told_as_what_it_was() {
    let mut m = machine();
    trap(&mut m, SITE, 2, Event::SystemCall);
    assert_eq!(mapped(&m), (Machine::RAM, Access::Read));
    let mut code = [0; 2];
    m.copies.memory().read(GuestPhys(0x10), &mut code).unwrap();
    assert_eq!(code, [INT3, 0x80]);
    m.ram.memory().read(FRAME.plus(0x10), &mut code).unwrap();
    assert_eq!(code, INT80, "the page itself is what it was");
    trap(&mut m, SITE, 1, int3());
    assert_eq!(m.vm.regs.eip.get(), SYSCALL);
    assert_eq!(told_eip(&m), SITE.0 + 2);
    assert_eq!(m.vm.counters.copy_calls.get(), 1);
}

#[test]
fn a_second_call_in_the_page_goes_to_the_same_copy() {
    let mut m = machine();
    trap(&mut m, SITE, 2, Event::SystemCall);
    trap(&mut m, SITE.plus(0x10), 2, Event::SystemCall);
    let mut code = [0; 2];
    m.copies.memory().read(GuestPhys(0x20), &mut code).unwrap();
    assert_eq!(code, [INT3, 0x80]);
    assert_eq!(m.vm.patches.copy_count.get(), 1);
}

#[test]
fn a_programs_own_int3_stays_its_own() {
    let mut m = machine();
    trap(&mut m, SITE, 2, Event::SystemCall);
    trap(&mut m, SITE.plus(0x20), 1, int3());
    assert_eq!(m.vm.regs.eip.get(), BREAKPOINT);
    assert_eq!(told_eip(&m), SITE.0 + 0x21);
}

#[test]
fn the_kernels_next_write_ends_the_copy() {
    let mut m = machine();
    trap(&mut m, SITE, 2, Event::SystemCall);
    let kernels = GuestVirt(0xC000_0000 + FRAME.0);
    let page = kernels.page_number();
    assert_eq!(m.mapper.pages[&page], (FRAME.0, Access::Read));
    let fault = Event::Trap {
        vector: 14,
        error: 7,
        cr2: kernels.0,
    };
    m.vm.user.set(0);
    m.host().run_guest(fault).unwrap();
    assert_eq!(m.mapper.pages[&page], (FRAME.0, Access::Write));
    assert_ne!(mapped_or_none(&m), Some((Machine::RAM, Access::Read)));
}

fn mapped_or_none(m: &Machine) -> Option<(u32, Access)> {
    m.mapper.pages.get(&PAGE).copied()
}

#[test]
fn a_page_that_a_disk_has_overwritten_is_mapped_itself() {
    let mut m = machine();
    trap(&mut m, SITE, 2, Event::SystemCall);
    m.set_user_pte(PAGE, Pte(0));
    m.host().recheck_page(SITE, true).unwrap();
    m.ram.memory().write(FRAME.plus(0x40), &[1]).unwrap();
    m.set_user_pte(PAGE, READ_ONLY);
    m.host().recheck_page(SITE, true).unwrap();
    assert_eq!(mapped(&m), (FRAME.0, Access::Read));
}

#[test]
fn a_view_that_was_away_compares_the_copies_that_it_maps() {
    let mut m = machine();
    trap(&mut m, SITE, 2, Event::SystemCall);
    m.ram.memory().write(FRAME.plus(0x40), &[1]).unwrap();
    m.vm.views[0].flush.set(Changes::USER);
    m.host().catch_up().unwrap();
    assert_eq!(mapped(&m), (FRAME.0, Access::Read));
}

#[test]
fn without_the_fast_path_there_is_no_copy() {
    let mut m = machine();
    m.vm.slow_paths.set(fast_path::INT80);
    trap(&mut m, SITE, 2, Event::SystemCall);
    assert_eq!(mapped(&m), (FRAME.0, Access::Read));
    assert_eq!(told_eip(&m), SITE.0 + 2);
}

/// A page of the program's where it may write to the code.
const ALIAS: u32 = PAGE + 1;
const WRITABLE: Pte = Pte(FRAME.0 | 0x67);

fn alias() -> GuestVirt {
    GuestVirt(ALIAS << PAGE_SHIFT)
}

/// The program writes to its code.
fn write_by_alias(m: &mut Machine) {
    let fault = Event::Trap {
        vector: 14,
        error: 7,
        cr2: alias().0,
    };
    m.vm.user.set(1);
    m.vm.regs.eip.set(SITE.0);
    m.host().run_guest(fault).unwrap();
    assert_eq!(m.mapper.pages[&ALIAS], (FRAME.0, Access::Write));
}

#[test]
fn a_writable_mapping_elsewhere_becomes_read_only_until_a_write_faults() {
    let mut m = machine();
    m.set_user_pte(ALIAS, WRITABLE);
    m.host().demand_page(alias(), true, true).unwrap();
    assert_eq!(m.mapper.pages[&ALIAS], (FRAME.0, Access::Write));
    trap(&mut m, SITE, 2, Event::SystemCall);
    assert_eq!(mapped(&m), (Machine::RAM, Access::Read));
    assert_eq!(m.mapper.pages[&ALIAS], (FRAME.0, Access::Read));
    write_by_alias(&mut m);
    assert_eq!(mapped(&m), (FRAME.0, Access::Read));
}

#[test]
fn a_flush_does_not_end_a_copy_whose_page_is_writable_elsewhere() {
    let mut m = machine();
    m.set_user_pte(ALIAS, WRITABLE);
    m.host().demand_page(alias(), true, true).unwrap();
    trap(&mut m, SITE, 2, Event::SystemCall);
    m.host().flush_everything().unwrap();
    assert_eq!(m.vm.counters.copies_forgotten.get(), 0);
    assert_eq!(mapped(&m), (Machine::RAM, Access::Read));
    assert_eq!(m.mapper.pages[&ALIAS], (FRAME.0, Access::Read));
}

#[test]
fn a_page_that_is_written_to_again_and_again_gets_no_more_copies() {
    let mut m = machine();
    m.set_user_pte(ALIAS, WRITABLE);
    for n in 0..10 {
        trap(&mut m, SITE, 2, Event::SystemCall);
        let has_copy =
            mapped(&m) == (Machine::RAM + n * PAGE_SIZE, Access::Read);
        assert_eq!(has_copy, n < 4, "{n}");
        write_by_alias(&mut m);
    }
    // Copies that live longer are worth their cost, however many.
    let mut m = machine();
    m.set_user_pte(ALIAS, WRITABLE);
    for n in 0..10 {
        trap(&mut m, SITE, 2, Event::SystemCall);
        assert_eq!(mapped(&m).0, Machine::RAM + n * PAGE_SIZE);
        for _ in 0..64 {
            trap(&mut m, SITE, 1, int3());
        }
        write_by_alias(&mut m);
    }
}

#[test]
fn code_that_another_instruction_covers_is_not_patched() {
    let mut m = machine();
    // mov $0x80cd,%eax; the program goes to its second byte.
    let code = [0xB8, 0xCD, 0x80, 0, 0];
    m.ram.memory().write(FRAME.plus(0x0F), &code).unwrap();
    for _ in 0..3 {
        trap(&mut m, SITE, 2, Event::SystemCall);
        assert_eq!(mapped(&m), (FRAME.0, Access::Read));
    }
    assert_eq!(m.vm.patches.copy_count.get(), 0);
}

#[test]
fn a_page_of_a_network_has_no_copy() {
    let mut m = machine().with_outbox();
    let network = GuestPhys(Machine::NETWORK);
    let mut page = [0; PAGE_SIZE as usize];
    m.ram.memory().read(FRAME, &mut page).unwrap();
    m.ram.memory().write(network, &page).unwrap();
    m.set_user_pte(PAGE, Pte(network.0 | 0x25));
    m.host().recheck_page(SITE, true).unwrap();
    trap(&mut m, SITE, 2, Event::SystemCall);
    assert_eq!(mapped(&m), (network.0, Access::Read));
}

#[test]
fn a_kernel_that_executes_a_copy_makes_its_system_call() {
    let mut m = machine();
    trap(&mut m, SITE, 2, Event::SystemCall);
    m.vm.user.set(0);
    m.vm.regs.eip.set(SITE.0 + 1);
    m.host().run_guest(int3()).unwrap();
    assert_eq!(m.vm.regs.eip.get(), SYSCALL);
    assert_eq!(told_eip(&m), SITE.0 + 2);
}
