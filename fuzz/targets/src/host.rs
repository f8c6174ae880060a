//! The Host, with any sequence of events, hypercalls and interrupts.
//!
//! The Guest writes anything to its own memory, tables and shared page
//! included. It makes any call by trap, by ring and by trampoline, and is
//! kicked, stopped and interrupted meanwhile. The Guest goes on, or a `Kill`
//! ends it. The Host must not panic or loop, and must not map memory that does
//! not exist.

use crate::input::Input;
use crate::machine::{CODE, Machine, PAGE_OFFSET, STACK, with_machine};
use lg_abi::hypercall::RawCall;
use lg_abi::shared::LHCALL_RING_SIZE;
use lg_host::address::{GuestPhys, as_word};
use lg_host::cpu::registers::{EFLAGS_FIXED, EFLAGS_RF, EFLAGS_USABLE};
use lg_host::host::Event;
use lg_host::kill::Kill;
use lg_host::patch::TrampolineKind;
use lg_wire::outbox::{WAKE_WHEN_IDLE, ring, word};
use std::sync::atomic::Ordering;

/// The flags that Guest code can have when it traps.
const FLAGS: u32 = EFLAGS_USABLE | EFLAGS_FIXED | EFLAGS_RF;

/// Steps that one input may take.
const MAX_STEPS: u32 = 300;

/// Makes steps until the input ends or the Guest dies.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.byte();
    with_machine(first & 1 != 0, |machine| {
        machine.vm.slow_paths.set(u32::from(first >> 1));
        for _ in 0..MAX_STEPS {
            if input.is_empty() || step(machine, &mut input).is_err() {
                return;
            }
            let flags = machine.vm.regs.eflags.get();
            assert_eq!(flags & !FLAGS, 0, "no Guest may have {flags:#x}");
            let (cs, level) = (machine.vm.cs.get(), machine.vm.cpl());
            assert_eq!(cs & 3, level, "code at another level than its own");
        }
    });
}

fn step(machine: &mut Machine<'_>, input: &mut Input<'_>) -> Result<(), Kill> {
    let vm = machine.vm;
    match input.byte() % 16 {
        0 => {
            let at = Machine::interesting(input);
            machine.set_word(at, Machine::interesting(input));
            Ok(())
        }
        1 => iret(machine, input),
        2 => machine.step(Event::Trap {
            vector: input.byte() % 32,
            error: u32::from(input.half()),
            cr2: Machine::interesting(input),
        }),
        3 => machine.step(Event::Trap {
            vector: 14,
            error: input.below(4) | 4,
            cr2: Machine::interesting(input),
        }),
        4 | 5 => {
            let call = call(input);
            machine.call(call)
        }
        6 => ring_calls(machine, input),
        7 => {
            vm.wire.irqs.fetch_or(input.word(), Ordering::SeqCst);
            vm.wire.kick.fetch_add(1, Ordering::SeqCst);
            machine.step(Event::Kick)
        }
        8 => {
            let kind = TrampolineKind::from_number(1 + input.below(6));
            machine.step(kind.map_or(Event::Kick, Event::Trampoline))
        }
        9 => protection_fault(machine, input),
        10 => {
            set_registers(machine, input);
            Ok(())
        }
        11 => {
            machine.pass(input.word());
            machine.step(Event::Kick)
        }
        12 => {
            // As after an iret to a program.
            vm.user.set(1);
            vm.cs.set(0x73);
            vm.ss.set(0x7B);
            vm.regs.eip.set(Machine::interesting(input));
            Ok(())
        }
        13 => {
            vm.wire.break_wanted.store(1, Ordering::SeqCst);
            machine.step(Event::Kick)
        }
        14 => {
            let room = usize::from(input.byte());
            let current = machine.current;
            machine.mappers[current].borrow_mut().room =
                input.bit().then_some(room);
            machine.step(Event::SystemCall)
        }
        _ => machine.step(match input.byte() % 4 {
            0 => Event::StraySystemCall,
            1 => Event::LongMode,
            2 => Event::SystemCall,
            _ => {
                scribble(machine, input);
                Event::Kick
            }
        }),
    }
}

/// The Guest puts some calls into the ring, at the Host's position or
/// elsewhere.
fn ring_calls(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
) -> Result<(), Kill> {
    let vm = machine.vm;
    let size = as_word(LHCALL_RING_SIZE);
    let start = if input.bit() {
        vm.next_hcall.get()
    } else {
        input.below(size)
    };
    vm.next_hcall.set(start);
    for _ in 0..=input.below(4) {
        let next = vm.next_hcall.get();
        machine.leave_in_ring(call(input));
        // One after the other, as the Host will find them.
        vm.next_hcall.set((next + 1) % size);
    }
    vm.next_hcall.set(start);
    machine.step(Event::Kick)
}

/// The kernel's code faults at any instruction.
fn protection_fault(
    machine: &mut Machine<'_>,
    input: &mut Input<'_>,
) -> Result<(), Kill> {
    let at = input.below(0xF0);
    let code = input.bytes(16);
    machine.write(CODE + at, code);
    machine.vm.regs.eip.set(PAGE_OFFSET + CODE + at);
    machine.step(Event::Trap {
        vector: 13,
        error: u32::from(input.half()),
        cr2: 0,
    })
}

/// The Guest's code sets some registers and all flags.
fn set_registers(machine: &Machine<'_>, input: &mut Input<'_>) {
    let regs = &machine.vm.regs;
    for register in [
        &regs.eax, &regs.ebx, &regs.ecx, &regs.edx, &regs.esi, &regs.edi,
        &regs.ebp, &regs.esp, &regs.eip, &regs.ds, &regs.es, &regs.fs,
        &regs.gs,
    ] {
        if input.bit() {
            register.set(Machine::interesting(input));
        }
    }
    regs.eflags.set(input.word() & FLAGS | 2);
}

/// Its reader or other code writes a word of the outbox.
fn scribble(machine: &Machine<'_>, input: &mut Input<'_>) {
    let ring = ring(input.below(4)).unwrap_or(0);
    let at = input.one_of(&[
        ring + word::ROOM,
        ring + word::ROOM,
        ring + word::FETCHED,
        ring + word::POSTED,
        ring + word::ASLEEP,
        WAKE_WHEN_IDLE,
    ]);
    let value = match input.byte() {
        n @ 0..192 => 8 * u32::from(n),
        _ => Machine::interesting(input),
    };
    let _ = machine.outbox().store(GuestPhys(at), value);
}

/// The kernel returns by iret, to itself or to a program.
fn iret(machine: &mut Machine<'_>, input: &mut Input<'_>) -> Result<(), Kill> {
    let cs = match input.below(4) {
        0 => 0x73,
        1 => 0x61,
        _ => u32::from(input.half()),
    };
    let ss = if input.bit() {
        0x7B
    } else {
        u32::from(input.half())
    };
    let flags = input.word();
    let eip = Machine::interesting(input);
    let esp_of_a_user = Machine::interesting(input);
    let frame = [eip, cs, flags, esp_of_a_user, ss, cs, cs, ss, ss];
    let esp = STACK - 0x40;
    for (at, word) in (esp - PAGE_OFFSET..).step_by(4).zip(frame) {
        machine.set_word(at, word);
    }
    machine.write(CODE + 0x200, &[0xCF]);
    machine.vm.user.set(0);
    machine.vm.cs.set(0x61);
    machine.vm.ss.set(0x69);
    machine.vm.regs.esp.set(esp);
    machine.vm.regs.eip.set(PAGE_OFFSET + CODE + 0x200);
    machine.step(Event::Trap {
        vector: 13,
        error: 0,
        cr2: 0,
    })
}

/// A hypercall with plausible arguments.
fn call(input: &mut Input<'_>) -> RawCall {
    RawCall {
        eax: input.below(18),
        edx: Machine::interesting(input),
        ebx: Machine::interesting(input),
        ecx: Machine::interesting(input),
    }
}
