//! Taking an instruction apart: prefixes, opcode, operands, length.
//!
//! This is not an emulator. The Guest's instructions run on the real processor,
//! and the Host looks at one only after it trapped, or at its neighbours before
//! one of them is patched. It knows 32-bit code with 32-bit addresses.

use crate::address::GuestVirt;
use crate::cpu::registers::{SegmentRegister, general};
use crate::state::Registers;

/// The longest instruction (Intel SDM volume 2, "Instruction Format").
pub const MAX_INSTRUCTION: usize = 15;

/// `hlt`: one byte that traps.
pub(crate) const HLT: u8 = 0xF4;

/// An instruction's opcode, once its prefixes are off.
pub(crate) struct Instruction<'a> {
    /// 0x0F00 is added to two-byte opcodes.
    pub(crate) opcode: u16,
    /// What follows the opcode: perhaps a ModRM byte.
    pub(crate) rest: &'a [u8],
    /// Bytes up to the end of the opcode.
    pub(crate) length: u32,
    /// Its operand has 16 bits where it would have 32.
    pub(crate) operand_16: bool,
    /// So do addresses.
    pub(crate) address_16: bool,
    /// The segment that a prefix names.
    pub(crate) prefix: Option<SegmentRegister>,
    /// It has the prefix F2 or F3.
    pub(crate) repeated: bool,
}

impl Instruction<'_> {
    /// The segment of an operand whose usual one is `usual`.
    pub(crate) fn segment(&self, usual: SegmentRegister) -> SegmentRegister {
        self.prefix.unwrap_or(usual)
    }
}

/// The prefixes and the opcode at the start of `code`; `None` if they are cut
/// off.
pub(crate) fn instruction(code: &[u8]) -> Option<Instruction<'_>> {
    let mut found = Instruction {
        opcode: 0,
        rest: code,
        length: 0,
        operand_16: false,
        address_16: false,
        prefix: None,
        repeated: false,
    };
    loop {
        let (&byte, rest) = found.rest.split_first()?;
        found.rest = rest;
        found.length += 1;
        match byte {
            0x66 => found.operand_16 = true,
            0x67 => found.address_16 = true,
            0x26 => found.prefix = Some(SegmentRegister::Es),
            0x2E => found.prefix = Some(SegmentRegister::Cs),
            0x36 => found.prefix = Some(SegmentRegister::Ss),
            0x3E => found.prefix = Some(SegmentRegister::Ds),
            0x64 => found.prefix = Some(SegmentRegister::Fs),
            0x65 => found.prefix = Some(SegmentRegister::Gs),
            0xF0 => {}
            0xF2 | 0xF3 => found.repeated = true,
            0x0F => {
                let (&second, rest) = found.rest.split_first()?;
                found.rest = rest;
                found.length += 1;
                found.opcode = 0x0F00 | u16::from(second);
                return Some(found);
            }
            _ => {
                found.opcode = u16::from(byte);
                return Some(found);
            }
        }
    }
}

/// Whether the instruction stores or loads all flags: pushf, popf.
pub(crate) fn moves_flags(code: &[u8]) -> bool {
    instruction(code).is_some_and(|i| matches!(i.opcode, 0x9C | 0x9D))
}

/// The opcode that `code` begins with; 0x0F00 is added to those of two bytes.
pub(crate) fn opcode(code: &[u8]) -> Option<u16> {
    instruction(code).map(|found| found.opcode)
}

/// How many bytes the instruction at the start of `code` has, as 32-bit code;
/// `None` where it is cut off, too long, or not known: 16-bit addresses, which
/// 32-bit code does not use, and what came after SSE4.
pub(crate) fn length(code: &[u8]) -> Option<usize> {
    let found = instruction(code)?;
    let opcode = match (found.opcode, found.rest) {
        (0x0F38 | 0x0F3A, [_, ..]) => found.opcode,
        // With a register behind them these are VEX and XOP.
        (0x62 | 0xC4 | 0xC5, [0xC0..=0xFF, ..]) => return None,
        (0x8F, &[byte, ..]) if byte & 0x38 != 0 => return None,
        (opcode, _) => opcode,
    };
    let third = matches!(opcode, 0x0F38 | 0x0F3A);
    let mut length = found.length as usize + usize::from(third);
    let mut reg = 0;
    if matches!(opcode, 0x0F20..=0x0F27) {
        // Control and debug registers: the ModRM byte always means a register.
        length += 1;
    } else if has_mod_rm(opcode) {
        if found.address_16 {
            return None;
        }
        let rest = code.get(length..)?;
        let mod_rm = mod_rm(rest, &Registers::default())?;
        reg = mod_rm.reg;
        length += mod_rm.length as usize;
    }
    length += immediate(opcode, reg, found.operand_16, found.address_16);
    // With a prefix, this is `extrq` or `insertq` of SSE4a: two bytes say which
    // bits (AMD APM volume 4).
    if opcode == 0x0F78 && (found.operand_16 || found.repeated) {
        length += 2;
    }
    (length <= code.len().min(MAX_INSTRUCTION)).then_some(length)
}

/// Bytes of what follows the opcode and its ModRM, whose middle is `reg`
/// (Intel SDM volume 2, appendix A).
fn immediate(
    opcode: u16,
    reg: u8,
    operand_16: bool,
    address_16: bool,
) -> usize {
    let word = if operand_16 { 2 } else { 4 };
    match opcode {
        0x00..=0x3F if opcode & 7 == 4 => 1,
        0x00..=0x3F if opcode & 7 == 5 => word,
        0x68 | 0x69 | 0x81 | 0xA9 | 0xB8..=0xBF | 0xC7 => word,
        0xE8 | 0xE9 | 0x0F80..=0x0F8F => word,
        0x6A | 0x6B | 0x70..=0x7F | 0x80 | 0x82 | 0x83 | 0xA8 => 1,
        0xB0..=0xB7 | 0xC0 | 0xC1 | 0xC6 | 0xCD | 0xD4 | 0xD5 => 1,
        0xE0..=0xE7 | 0xEB => 1,
        0xA0..=0xA3 => {
            if address_16 {
                2
            } else {
                4
            }
        }
        0x9A | 0xEA => word + 2,
        0xC2 | 0xCA => 2,
        0xC8 => 3,
        0xF6 if reg < 2 => 1,
        0xF7 if reg < 2 => word,
        0x0F0F | 0x0F3A | 0x0F70..=0x0F73 | 0x0FA4 | 0x0FAC => 1,
        0x0FBA | 0x0FC2 | 0x0FC4..=0x0FC6 => 1,
        _ => 0,
    }
}

/// Whether a ModRM byte follows the opcode (Intel SDM volume 2, appendix A).
pub(crate) fn has_mod_rm(opcode: u16) -> bool {
    match opcode {
        0x00..=0x3F => opcode & 7 < 4,
        0x62 | 0x63 | 0x69 | 0x6B | 0x80..=0x8F => true,
        0xC0 | 0xC1 | 0xC4..=0xC7 | 0xD0..=0xD3 | 0xD8..=0xDF => true,
        0xF6 | 0xF7 | 0xFE | 0xFF => true,
        0x0F05..=0x0F09 | 0x0F0B | 0x0F0E | 0x0F30..=0x0F37 => false,
        0x0F77 | 0x0F80..=0x0F8F | 0x0FA0..=0x0FA2 => false,
        0x0FA8..=0x0FAA | 0x0FC8..=0x0FCF => false,
        0x0F00..=0x0FFF => true,
        _ => false,
    }
}

/// A ModRM byte and what it says of an operand.
pub(crate) struct ModRm {
    /// The middle three bits: a register, or more opcode.
    pub(crate) reg: u8,
    pub(crate) operand: Operand,
    /// Bytes that it all takes.
    pub(crate) length: u32,
}

pub(crate) enum Operand {
    Register(u8),
    /// Where, and in which segment if no prefix names one.
    Memory(GuestVirt, SegmentRegister),
}

/// In the place of the number of a base register: there is none.
const NO_BASE: u8 = 8;

pub(crate) fn mod_rm(code: &[u8], regs: &Registers) -> Option<ModRm> {
    let &byte = code.first()?;
    let (kind, reg, rm) = (byte >> 6, byte >> 3 & 7, byte & 7);
    if kind == 3 {
        let operand = Operand::Register(rm);
        return Some(ModRm {
            reg,
            operand,
            length: 1,
        });
    }
    let mut length = 1;
    let mut address = 0_u32;
    let mut base_register = rm;
    if rm == 4 {
        let &sib = code.get(1)?;
        length = 2;
        let (scale, index, base) = (sib >> 6, sib >> 3 & 7, sib & 7);
        base_register = base;
        if base == 5 && kind == 0 {
            base_register = NO_BASE;
            address = displacement(code, length)?;
            length += 4;
        } else {
            address = general(regs, base).get();
        }
        if index != 4 {
            let index = general(regs, index).get();
            address = address.wrapping_add(index << scale);
        }
    } else if rm == 5 && kind == 0 {
        base_register = NO_BASE;
        address = displacement(code, length)?;
        length += 4;
    } else {
        address = address.wrapping_add(general(regs, rm).get());
    }
    if kind == 1 {
        let byte = code.get(length)?.cast_signed();
        address = address.wrapping_add_signed(i32::from(byte));
        length += 1;
    } else if kind == 2 {
        address = address.wrapping_add(displacement(code, length)?);
        length += 4;
    }
    // What esp and ebp point to is on the stack.
    let segment = match base_register {
        4 | 5 => SegmentRegister::Ss,
        _ => SegmentRegister::Ds,
    };
    let operand = Operand::Memory(GuestVirt(address), segment);
    Some(ModRm {
        reg,
        operand,
        length: u32::try_from(length).ok()?,
    })
}

pub(crate) fn displacement(code: &[u8], at: usize) -> Option<u32> {
    let bytes = code.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

        /// An instruction is as long as another decoder says. That one refuses
        /// what no processor carries out. Ours need not: it has to stay in step
        /// with code that runs.
        #[test]
        fn lengths_are_those_of_another_decoder(code: [u8; 20]) {
            use iced_x86::{Decoder, DecoderOptions};
            let options = DecoderOptions::NONE;
            let other = Decoder::new(32, &code, options).decode();
            let ours = length(&code);
            if let (false, Some(ours)) = (other.is_invalid(), ours) {
                proptest::prop_assert_eq!(ours, other.len(), "{:x?}", code);
            }
        }

        /// What compilers of 2007 produce is not refused.
        #[test]
        fn common_instructions_have_a_length(
            opcode in proptest::sample::select(&[
                0x01_u8, 0x29, 0x31, 0x39, 0x50, 0x58, 0x68, 0x6A, 0x74, 0x83,
                0x81, 0x85, 0x89, 0x8B, 0x8D, 0xA1, 0xA3, 0xB8, 0xC3, 0xC7,
                0xE8, 0xE9, 0xEB, 0xF6, 0xFF,
            ][..]),
            rest: [u8; 14],
        ) {
            let mut code = [opcode; 15];
            code[1..].copy_from_slice(&rest);
            proptest::prop_assert!(length(&code).is_some(), "{:x?}", code);
        }
    }

    #[test]
    fn bits_of_sse4a_have_two_bytes_more() {
        let length = |code: &[u8]| {
            let mut long = [0; MAX_INSTRUCTION];
            long[..code.len()].copy_from_slice(code);
            super::length(&long)
        };
        assert_eq!(length(&[0xF2, 0x0F, 0x78, 0xC0]), Some(6)); // insertq
        assert_eq!(length(&[0x66, 0x0F, 0x78, 0xC0]), Some(6)); // extrq
        assert_eq!(length(&[0x66, 0x0F, 0x79, 0xC0]), Some(4));
        assert_eq!(length(&[0x0F, 0x78, 0xC0]), Some(3)); // vmread
    }
}
