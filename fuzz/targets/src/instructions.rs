//! Instructions that fault, as the Host handles them.
//!
//! Any code bytes, any registers and any descriptors reach the instructions
//! that the Host carries out or steps over, the segments that it puts right,
//! and the accesses that it computes. The Host must come to an end. The Guest
//! continues at that instruction, after it, or in a handler.

use crate::input::Input;
use crate::machine::{
    CODE, KERNEL_TABLE, Machine, PAGE_OFFSET, STACK, USER_TABLE, with_machine,
};
use lg_abi::hypercall::{Hypercall, RawCall};
use lg_abi::segment::Descriptor;
use lg_host::address::GuestPhys;
use lg_host::cpu::instruction::MAX_INSTRUCTION;
use lg_host::host::Event;

/// The address of the handlers of all traps.
const HANDLERS: u32 = 0xC000_8000;

/// The address of a program's code: the same page as the kernel's.
const USER_CODE: u32 = CODE;

/// Faults at one instruction.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    with_machine(input.bit(), |machine| {
        for vector in 0..32 {
            let gate = RawCall {
                eax: Hypercall::LoadIdtEntry as u32,
                edx: vector,
                ebx: 0x0061_0000 | HANDLERS & 0xFFFF,
                ecx: HANDLERS & 0xFFFF_0000 | 0xEF00,
            };
            if machine.call(gate).is_err() {
                return;
            }
        }
        let page = CODE >> 12;
        machine.set_word(USER_TABLE + page * 4, CODE | 0x67);
        machine.set_word(USER_TABLE + page * 4 + 4, KERNEL_TABLE | 0x65);
        for n in 6..9 {
            let (low, high) = (input.word(), input.word());
            machine.vm.gdt[n].set(Descriptor { low, high });
        }
        while !input.is_empty() {
            fault(machine, &mut input);
        }
    });
}

fn fault(machine: &mut Machine<'_>, input: &mut Input<'_>) {
    let vm = machine.vm;
    let regs = &vm.regs;
    let user = input.bit();
    vm.user.set(u32::from(user));
    vm.cs.set(if user { 0x73 } else { 0x61 });
    let at = 0x1000 - input.below(64) - 1;
    let base = if user { USER_CODE } else { PAGE_OFFSET + CODE };
    let eip = base + at;
    regs.eip.set(eip);
    regs.esp.set(STACK - 0x100);
    for register in [
        &regs.eax, &regs.ebx, &regs.ecx, &regs.edx, &regs.esi, &regs.edi,
        &regs.ebp,
    ] {
        register.set(Machine::interesting(input));
    }
    for selector in [&regs.ds, &regs.es, &regs.fs, &regs.gs] {
        selector.set(u32::from(input.byte()));
    }
    if user && input.bit() {
        regs.esp.set(Machine::interesting(input));
    }
    machine.write(CODE + at, input.bytes(MAX_INSTRUCTION + 1));
    let mut code = [0; 2];
    let read = machine.memory().read(GuestPhys(CODE + at), &mut code[..1]);
    read.expect("it is there");
    let second = GuestPhys(CODE + at + 1);
    let _ = machine.memory().read(second, &mut code[1..]);
    let esp = regs.esp.get();
    let error = if input.bit() {
        u32::from(input.half())
    } else {
        0
    };
    let vector = [13, 13, 12, 3, 4, 6, 17, 1][input.below(8) as usize];
    let cr2 = 0;
    let result = machine.step(Event::Trap { vector, error, cr2 });
    if result.is_err() {
        return;
    }
    // An iret goes where the stack says, a hypercall may do anything, and a
    // debug register may be moved to esp.
    let special =
        code[0] == 0xCF || [[0xCD, 0x1F], [0x0F, 0x21]].contains(&code);
    let moved = regs.eip.get().wrapping_sub(eip);
    let stepped = moved <= 15 || moved == u32::MAX;
    // A hypercall may have changed the handlers.
    let handled = vm.idt.iter().any(|g| g.get().handler == regs.eip.get());
    assert!(special || stepped || handled, "eip went {moved:#x}");
    if !special && stepped && !handled {
        let popped = regs.esp.get().wrapping_sub(esp);
        assert!(popped <= 4, "esp went {popped:#x}");
    }
}
