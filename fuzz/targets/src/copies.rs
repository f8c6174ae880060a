//! Patched copies of pages: the code that executes is the code of the page.
//!
//! Programs in several address spaces, their kernel and a device write to a few
//! pages of code, which are mapped in any way and executed in between. After
//! every step, the machine compares each mapped copy with its page
//! ([`crate::machine`]), and a program executes the code that was written last.
//! Patches are taken back and made again, one or all.

use crate::input::Input;
use crate::machine::{
    DIRECTORY, Machine, PAGE_OFFSET, USER_TABLE, VIEWS, with_machine,
};
use core::sync::atomic::Ordering;
use lg_abi::hypercall::{Hypercall, RawCall};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_abi::shared::SYSCALL_VECTOR;
use lg_host::host::Event;
use lg_host::kill::Kill;
use lg_host::patch::TrampolineKind;
use lg_host::state::Gate;
use lg_wire::state::page_bit;

/// Steps that one input may take.
const MAX_STEPS: u32 = 300;

/// The first of the frames with code, and how many there are.
const FRAME: u32 = 32 * PAGE_SIZE;
const FRAMES: u32 = 3;

/// The first of the user pages that map them, and how many there are.
const PAGE: u32 = 16;
const PAGES: u32 = 4;

/// The offsets of code in a page.
const PLACES: [u32; 2] = [0x100, 0x300];

const INT80: [u8; 2] = [0xCD, 0x80];

/// The code that may be there.
const CODES: [[u8; 2]; 4] = [INT80, [0x90; 2], [0xCC, 0x90], [0xB8, 0xCD]];

/// Makes steps until the input ends or the Guest dies.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.byte();
    with_machine(first & 1 != 0, |machine| {
        machine.vm.slow_paths.set(u32::from(first >> 1 & 0x30));
        set_up(machine);
        for _ in 0..MAX_STEPS {
            if input.is_empty() || step(machine, &mut input).is_err() {
                return;
            }
        }
    });
}

fn set_up(machine: &Machine<'_>) {
    for vector in [3, 14, SYSCALL_VECTOR] {
        machine.vm.idt[vector as usize].set(Gate {
            handler: PAGE_OFFSET + 0xF000,
            flags: Gate::PRESENT | 3 << Gate::DPL_SHIFT,
        });
    }
    for frame in 0..FRAMES {
        let at = FRAME + frame * PAGE_SIZE;
        machine.write(at, &[0x90; PAGE_SIZE as usize]);
        for place in PLACES {
            machine.write(at + place, &INT80);
        }
        machine.write(at + 0x120, &[0x8D, 0xB4, 0x26, 0, 0, 0, 0]);
    }
}

/// One of `all`.
fn one<T: Copy>(all: &[T], input: &mut Input<'_>) -> T {
    all[usize::from(input.byte()) % all.len()]
}

fn step(machine: &mut Machine<'_>, input: &mut Input<'_>) -> Result<(), Kill> {
    let user = |input: &mut Input<'_>| {
        (PAGE + input.below(PAGES)) << PAGE_SHIFT | one(&PLACES, input)
    };
    let frame = |input: &mut Input<'_>| {
        FRAME + input.below(FRAMES) * PAGE_SIZE + one(&PLACES, input)
    };
    match input.byte() % 12 {
        0 | 1 => map(machine, input),
        2 => {
            let directory = input.below(1 + as_number(VIEWS));
            kernel(machine);
            machine.call(RawCall {
                eax: Hypercall::NewPgtable as u32,
                edx: DIRECTORY + directory * PAGE_SIZE,
                ebx: 0,
                ecx: 0,
            })
        }
        3 | 4 => {
            let at = user(input);
            machine.store(at, true, &one(&CODES, input)).map(drop)
        }
        5 => {
            let at = PAGE_OFFSET + frame(input);
            machine.store(at, false, &one(&CODES, input)).map(drop)
        }
        6 => {
            let at = frame(input);
            machine.write(at, &one(&CODES, input));
            let written = &machine.vm.wire.written_pages;
            written.fetch_or(page_bit(at), Ordering::SeqCst);
            machine.step(Event::Kick)
        }
        7 => {
            let room = input.bit().then(|| input.byte().into());
            let current = machine.current;
            machine.mappers[current].borrow_mut().room = room;
            Ok(())
        }
        10 => {
            machine.toggle_patch(input.byte().into());
            Ok(())
        }
        11 => {
            machine.take_back_patches();
            if input.bit() {
                machine.make_patches_again();
            }
            Ok(())
        }
        _ => {
            let at = user(input);
            for _ in 0..=input.below(20) {
                execute(machine, at)?;
            }
            Ok(())
        }
    }
}

/// Puts the Guest into its kernel.
fn kernel(machine: &Machine<'_>) {
    machine.vm.user.set(0);
}

/// The kernel maps a frame for a program, and reports it.
fn map(machine: &mut Machine<'_>, input: &mut Input<'_>) -> Result<(), Kill> {
    let directory = input.below(1 + as_number(VIEWS));
    let page = PAGE + input.below(PAGES);
    // Writable and dirty, writable, neither, or not present.
    let rights = one(&[0x67, 0x27, 0x25, 0x25, 0], input);
    let entry = (FRAME + input.below(FRAMES) * PAGE_SIZE) | rights;
    let table = USER_TABLE + directory * PAGE_SIZE;
    machine.set_word(table + page * 4, entry);
    let set_pte = RawCall {
        eax: Hypercall::SetPte as u32,
        edx: DIRECTORY + directory * PAGE_SIZE,
        ebx: page << PAGE_SHIFT,
        ecx: entry,
    };
    let flush = RawCall {
        eax: Hypercall::FlushTlb as u32,
        edx: 1,
        ebx: 0,
        ecx: 0,
    };
    kernel(machine);
    match input.byte() % 3 {
        0 => machine.call(flush),
        1 => machine.call(set_pte),
        _ => {
            machine.leave_in_ring(set_pte);
            machine.step(Event::Kick)
        }
    }
}

/// A program executes what is at `va`.
fn execute(machine: &mut Machine<'_>, va: u32) -> Result<(), Kill> {
    let Some(code) = machine.code(va)? else {
        return Ok(());
    };
    let int3 = Event::Trap {
        vector: 3,
        error: 0,
        cr2: 0,
    };
    let (event, length) = match code {
        INT80 => (Event::SystemCall, 2),
        [0xCC, _] => (int3, 1),
        [0xEB, _] => (Event::Trampoline(TrampolineKind::DirectCall), 2),
        _ => return Ok(()),
    };
    machine.vm.user.set(1);
    machine.vm.cs.set(0x73);
    machine.vm.ss.set(0x7B);
    machine.vm.regs.eip.set(va + length);
    machine.step(event)
}

fn as_number(n: usize) -> u32 {
    u32::try_from(n).expect("it is small")
}
