//! Instructions that access pages of devices, as another decoder sees them.
//!
//! An instruction of any form is aimed at a page that may name a device. What
//! becomes of it must be what that decoder, the tables and the model say.

use super::code::{PAGE, PAGES, fault, handler, place};
use super::model::{Model, mask};
use crate::input::Input;
use crate::machine::{CODE, DATA, LIMIT, Machine, PAGE_OFFSET};
use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register,
};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_abi::shared::offset;
use lg_host::kill::Kill;
use lg_host::state::Registers;
use std::cell::Cell;

/// Opcodes of moves, and of others.
const OPCODES: &[&[u8]] = &[
    &[0x88],
    &[0x89],
    &[0x8A],
    &[0x8B],
    &[0xA0],
    &[0xA1],
    &[0xA2],
    &[0xA3],
    &[0xC6],
    &[0xC7],
    &[0x0F, 0xB6],
    &[0x0F, 0xB7],
    &[0x0F, 0xBE],
    &[0x0F, 0xBF],
    &[0x01],
    &[0x03],
    &[0x80],
    &[0x87],
    &[0x8C],
    &[0x8E],
    &[0xA4],
    &[0xA5],
    &[0xAA],
    &[0xAD],
    &[0xF6],
    &[0xFF],
    &[0x0F, 0xC1],
    &[0x0F, 0xE7],
];

/// Prefixes of an instruction.
const PREFIXES: [u8; 12] = [
    0x66, 0x66, 0x66, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x67, 0xF2, 0xF3,
];

/// The Guest's code accesses memory, perhaps of a device.
pub(super) fn access(
    machine: &mut Machine<'_>,
    model: &mut Model,
    input: &mut Input<'_>,
) -> Result<(), Kill> {
    let user = input.byte() < 0x40;
    let at = input.below(64);
    let eip = place(machine, user, at);
    let regs = &machine.vm.regs;
    for register in GENERAL {
        if register != Register::ESP {
            cell(regs, register).set(input.word());
        }
    }
    let mut code = code(input);
    let va = address(input);
    aim(&mut code, regs, va);
    machine.write(CODE + at, &code);
    let found = decode(&code, eip);
    let reached = memory(&found, regs).map_or(va, |(va, _)| va);
    let stores = found.op0_kind() == OpKind::Memory;
    let odd = input.byte() == 0;
    let (va, write) = match odd {
        true => (address(input), input.bit()),
        false => (reached, stores),
    };
    let said = Fault { va, write, user };
    let before = GENERAL.map(|register| cell(regs, register).get());
    let error = 4 | u32::from(write) << 1;
    fault(machine, 14, error, va)?;
    let is_move = (!found.is_invalid()).then(|| is_move(&found, &code));
    check(machine, model, &said, (&found, is_move), (eip, before));
    Ok(())
}

/// What the processor said.
struct Fault {
    va: u32,
    write: bool,
    user: bool,
}

/// An address in a page that may be a device's.
fn address(input: &mut Input<'_>) -> u32 {
    let base = if input.bit() { PAGE_OFFSET } else { 0 };
    let page = base + ((PAGE + input.below(PAGES)) << PAGE_SHIFT);
    page + match input.byte() {
        n @ 0..240 => u32::from(n) % 0x50,
        n => PAGE_SIZE - 1 - u32::from(n) % 8,
    }
}

/// An instruction.
fn code(input: &mut Input<'_>) -> [u8; 16] {
    let mut code = Vec::new();
    for _ in 0..input.byte().saturating_sub(128) / 40 {
        code.push(PREFIXES[input.below(12) as usize]);
    }
    let opcode = usize::from(input.byte());
    match OPCODES.get(opcode % (OPCODES.len() + 1)) {
        Some(opcode) => code.extend(*opcode),
        None => code.extend(input.bytes(2)),
    }
    code.extend(input.bytes(11));
    let mut whole = [0; 16];
    let len = code.len().min(whole.len());
    whole[..len].copy_from_slice(&code[..len]);
    whole
}

fn decode(code: &[u8], eip: u32) -> Instruction {
    let mut decoder = Decoder::new(32, code, DecoderOptions::NONE);
    decoder.set_ip(eip.into());
    decoder.decode()
}

/// Changes a register or the displacement so that the instruction accesses
/// `va`.
fn aim(code: &mut [u8], regs: &Registers, va: u32) {
    let mut decoder = Decoder::new(32, code, DecoderOptions::NONE);
    let found = decoder.decode();
    let Some((reached, _)) = memory(&found, regs) else {
        return;
    };
    let missing = va.wrapping_sub(reached);
    let place = decoder.get_constant_offsets(&found);
    let from = place.displacement_offset();
    if place.displacement_size() == 4 {
        let old = found.memory_displacement32();
        let new = old.wrapping_add(missing).to_le_bytes();
        code[from..from + 4].copy_from_slice(&new);
    } else if found.memory_base().is_gpr32()
        && ![Register::ESP, found.memory_index()].contains(&found.memory_base())
    {
        let cell = cell(regs, found.memory_base());
        cell.set(cell.get().wrapping_add(missing));
    }
}

/// Where the instruction accesses memory, in segments that begin at 0, and how
/// many bytes.
fn memory(found: &Instruction, regs: &Registers) -> Option<(u32, u32)> {
    let is_memory = |&n: &u32| found.op_kind(n) == OpKind::Memory;
    let operand = (0..found.op_count()).find(is_memory)?;
    let value = |register: Register, _, _| {
        let full = register.full_register32();
        Some(match full.is_gpr32() {
            true => cell(regs, full).get().into(),
            false => 0,
        })
    };
    let va = found.virtual_address(operand, 0, value)?;
    let bytes = u32::try_from(found.memory_size().size()).ok()?;
    Some((u32::try_from(va & 0xFFFF_FFFF).ok()?, bytes))
}

/// Whether it is a move of one value between memory and a register or a
/// constant, which the Host carries out.
fn is_move(found: &Instruction, code: &[u8]) -> bool {
    const BAD: [u8; 4] = [0x67, 0xF0, 0xF2, 0xF3];
    let mut prefixes = code.iter().take_while(|byte| PREFIXES.contains(byte));
    let moves = [Mnemonic::Mov, Mnemonic::Movzx, Mnemonic::Movsx];
    let segment = matches!(
        found.code(),
        Code::Mov_rm16_Sreg
            | Code::Mov_r32m16_Sreg
            | Code::Mov_Sreg_rm16
            | Code::Mov_Sreg_r32m16
    );
    let is_memory = |n| found.op_kind(n) == OpKind::Memory;
    // Of several such prefixes the last one counts.
    let odd = [Register::FS, Register::GS].contains(&found.memory_segment());
    moves.contains(&found.mnemonic())
        && !segment
        && !odd
        && (0..found.op_count()).any(is_memory)
        && !prefixes.any(|byte| BAD.contains(byte))
}

/// Checks what has become of the access.
fn check(
    machine: &Machine<'_>,
    model: &mut Model,
    fault: &Fault,
    (found, is_move): (&Instruction, Option<bool>),
    (eip, before): (u32, [u32; 8]),
) {
    let (va, write) = (fault.va, fault.write);
    let regs = &machine.vm.regs;
    let asked = machine.device_requests();
    let entry = crate::tables::walk(machine, va).filter(|entry| {
        (!write || entry & 2 != 0) && (!fault.user || entry & 4 != 0)
    });
    let Some(entry) = entry else {
        let at = regs.eip.get();
        assert_eq!(at, handler(14), "{va:#x} may not be accessed");
        assert_eq!(machine.word(DATA + offset::CR2), va);
        assert_eq!(asked, []);
        return;
    };
    let frame = entry & !(PAGE_SIZE - 1);
    let address = frame + va % PAGE_SIZE;
    let Some(is_move) = is_move.filter(|_| address >= LIMIT) else {
        assert!(asked.len() <= usize::from(address >= LIMIT));
        return;
    };
    let old = Registers::default();
    for (register, value) in GENERAL.into_iter().zip(before) {
        cell(&old, register).set(value);
    }
    let (reached, bytes) = memory(found, &old).unwrap_or_default();
    let fits = bytes <= PAGE_SIZE - va % PAGE_SIZE;
    let stores = found.op0_kind() == OpKind::Memory;
    if !is_move || reached != va || stores != write || !fits {
        assert_eq!(regs.eip.get(), handler(13), "{found:?}");
        assert_eq!(asked, []);
        return;
    }
    let len = u32::try_from(found.len()).unwrap_or(0);
    assert_eq!(regs.eip.get(), eip + len, "{found:?}");
    let value = stores.then(|| stored(found, &old));
    let (read, expected) = match model.at(address) {
        Some((index, at)) => model.access(index, at, bytes, value),
        None => (u32::MAX, None),
    };
    assert_eq!(asked, expected.as_slice(), "{found:?}");
    if !stores {
        load(found, &old, read & mask(bytes), bytes);
    }
    for register in GENERAL {
        let (now, then) = (cell(regs, register), cell(&old, register));
        assert_eq!(now.get(), then.get(), "{found:?}: {register:?}");
    }
}

/// The value that the instruction stores.
fn stored(found: &Instruction, regs: &Registers) -> u32 {
    match found.op1_kind() {
        OpKind::Register => {
            let register = found.op1_register();
            cell(regs, register.full_register32()).get() >> shift(register)
        }
        _ => u32::try_from(found.immediate(1) & 0xFFFF_FFFF).unwrap_or(0),
    }
}

/// Puts `value`, which has `bytes` bytes, into the register.
fn load(found: &Instruction, regs: &Registers, value: u32, bytes: u32) {
    let register = found.op0_register();
    let size = u32::try_from(register.size()).unwrap_or(4);
    let sign = value >> (8 * bytes - 1) & 1 != 0;
    let value = if found.mnemonic() == Mnemonic::Movsx && sign {
        value | !mask(bytes)
    } else {
        value
    };
    let cell = cell(regs, register.full_register32());
    let mask = mask(size) << shift(register);
    cell.set(cell.get() & !mask | value << shift(register) & mask);
}

/// By how many bits a register is shifted in the one that it is a part of.
fn shift(register: Register) -> u32 {
    let high = [Register::AH, Register::CH, Register::DH, Register::BH];
    if high.contains(&register) { 8 } else { 0 }
}

/// The general registers.
const GENERAL: [Register; 8] = [
    Register::EAX,
    Register::ECX,
    Register::EDX,
    Register::EBX,
    Register::ESP,
    Register::EBP,
    Register::ESI,
    Register::EDI,
];

fn cell(regs: &Registers, register: Register) -> &Cell<u32> {
    match register {
        Register::EAX => &regs.eax,
        Register::ECX => &regs.ecx,
        Register::EDX => &regs.edx,
        Register::EBX => &regs.ebx,
        Register::ESP => &regs.esp,
        Register::EBP => &regs.ebp,
        Register::ESI => &regs.esi,
        _ => &regs.edi,
    }
}
