//! The Guest's code: where it is, where its handlers are, and its faults.
//!
//! The kernel and a program execute the same page. Each vector has a handler of
//! its own, so that eip says which trap was delivered.

use crate::machine::{CODE, Machine, PAGE_OFFSET, STACK};
use lg_host::host::Event;
use lg_host::kill::Kill;

/// The handler of vector 0; the others follow.
const HANDLERS: u32 = 0xC000_8000;

/// The first of the pages that may name a device, below 4 MiB and in the
/// kernel's memory, and how many they are.
pub(super) const PAGE: u32 = 128;
pub(super) const PAGES: u32 = 8;

/// The handler of a vector.
pub(super) const fn handler(vector: u32) -> u32 {
    HANDLERS + 16 * vector
}

/// The Guest is at `offset` of its page of code, in its kernel or in a program.
pub(super) fn place(machine: &Machine<'_>, user: bool, offset: u32) -> u32 {
    let vm = machine.vm;
    vm.user.set(u32::from(user));
    vm.cs.set(if user { 0x73 } else { 0x61 });
    vm.ss.set(if user { 0x7B } else { 0x69 });
    vm.regs.ds.set(0x7B);
    vm.regs.es.set(0x7B);
    vm.regs.eflags.set(0x202);
    vm.regs.esp.set(STACK - 0x100);
    let base = if user { 0 } else { PAGE_OFFSET };
    vm.regs.eip.set(base + CODE + offset);
    base + CODE + offset
}

/// An instruction faults. The Host may put something else right first, and let
/// it be tried again.
pub(super) fn fault(
    machine: &mut Machine<'_>,
    vector: u8,
    error: u32,
    cr2: u32,
) -> Result<(), Kill> {
    const TRIES: u32 = 4;
    let eip = machine.vm.regs.eip.get();
    for _ in 0..TRIES {
        machine.step(Event::Trap { vector, error, cr2 })?;
        if machine.vm.regs.eip.get() != eip {
            break;
        }
    }
    Ok(())
}
