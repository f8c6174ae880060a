//! Which memory an instruction touches.
//!
//! A segment limit that stopped an access is told to the Guest as the page
//! fault that it would have had. A watchpoint looks at each access, and needs
//! its size, too.

use crate::address::GuestVirt;
use crate::cpu::instruction::{
    Instruction, Operand, displacement, has_mod_rm, instruction, mod_rm,
};
use crate::cpu::registers::SegmentRegister;
use crate::state::Registers;

mod sizes;

/// A piece of memory that an instruction touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Its first byte, counted from the start of its segment.
    pub(crate) va: GuestVirt,
    /// Whether it is written.
    pub(crate) write: bool,
    /// The segment.
    pub(crate) segment: SegmentRegister,
}

impl Access {
    fn new(va: u32, segment: SegmentRegister, write: bool) -> Self {
        let va = GuestVirt(va);
        Self { va, write, segment }
    }

    /// The last byte that it may have. The longest operand has sixteen bytes,
    /// and the size of this one was not looked at.
    #[must_use]
    pub(crate) fn last(self) -> u32 {
        self.va.0.saturating_add(15)
    }
}

/// The memory that `code` may touch beyond its own bytes: two places at the
/// most.
pub(crate) fn accesses(code: &[u8], regs: &Registers) -> [Option<Access>; 2] {
    use SegmentRegister::{Ds, Ss};
    let Some(found) = instruction(code) else {
        return [None; 2];
    };
    let access = |va, segment, write| Some(Access::new(va, segment, write));
    let data = found.segment(Ds);
    match found.opcode {
        // movs, cmps, stos, lods, scas, ins, outs
        0xA4..=0xA7 | 0xAA..=0xAF | 0x6C..=0x6F => strings(&found, regs),
        // maskmovq
        0x0FF7 => [access(regs.edi.get(), data, true), None],
        // mov to and from an absolute address
        0xA0..=0xA3 => {
            let va = displacement(found.rest, 0);
            let write = found.opcode >= 0xA2;
            [va.and_then(|va| access(va, data, write)), None]
        }
        opcode if pushes(opcode) => [Some(below(regs)), None],
        opcode if pops(opcode) => [Some(top(regs)), None],
        // leave
        0xC9 => [access(regs.ebp.get(), Ss, false), None],
        // xlat
        0xD7 => {
            let al = regs.eax.get() & 0xFF;
            [access(regs.ebx.get().wrapping_add(al), data, false), None]
        }
        opcode if has_mod_rm(opcode) && !found.address_16 => {
            operand(&found, regs).unwrap_or([None; 2])
        }
        _ => [None; 2],
    }
}

/// What a pop takes.
fn top(regs: &Registers) -> Access {
    Access::new(regs.esp.get(), SegmentRegister::Ss, false)
}

/// What a push writes.
fn below(regs: &Registers) -> Access {
    let va = regs.esp.get().wrapping_sub(4);
    Access::new(va, SegmentRegister::Ss, true)
}

/// What a string instruction touches. A prefix changes the segment of the
/// source only.
fn strings(found: &Instruction<'_>, regs: &Registers) -> [Option<Access>; 2] {
    use SegmentRegister::{Ds, Es};
    let (esi, edi) = (regs.esi.get(), regs.edi.get());
    let source = Some(Access::new(esi, found.segment(Ds), false));
    let written = Some(Access::new(edi, Es, true));
    let compared = Some(Access::new(edi, Es, false));
    match found.opcode {
        0xA4 | 0xA5 => [source, written],
        0xA6 | 0xA7 => [source, compared],
        0xAA | 0xAB | 0x6C | 0x6D => [written, None],
        0xAE | 0xAF => [compared, None],
        // lods, outs
        _ => [source, None],
    }
}

/// What an instruction with a ModRM byte touches: its operand, and the stack.
/// `None` if it is cut off.
fn operand(
    found: &Instruction<'_>,
    regs: &Registers,
) -> Option<[Option<Access>; 2]> {
    const LEA: u16 = 0x8D;
    let opcode = found.opcode;
    let rest = if matches!(opcode, 0x0F38 | 0x0F3A) {
        // The third byte of the opcode.
        found.rest.get(1..)?
    } else {
        found.rest
    };
    let modrm = mod_rm(rest, regs)?;
    let stack = match (opcode, modrm.reg) {
        // call and push, indirect; pop into memory
        (0xFF, 2 | 3 | 6) => Some(below(regs)),
        (0x8F, _) => Some(top(regs)),
        _ => None,
    };
    let operand = match modrm.operand {
        Operand::Memory(va, usual) if opcode != LEA => {
            let write = writes(opcode, modrm.reg, found.repeated);
            Some(Access::new(va.0, found.segment(usual), write))
        }
        _ => None,
    };
    Some([operand, stack])
}

/// Whether the one-byte or two-byte opcode puts something on the stack: push,
/// pushf, pusha, call, enter.
fn pushes(opcode: u16) -> bool {
    let segments =
        matches!(opcode, 0x06 | 0x0E | 0x16 | 0x1E | 0x0FA0 | 0x0FA8);
    let calls = matches!(opcode, 0x9A | 0xC8 | 0xE8);
    segments
        || calls
        || matches!(opcode, 0x50..=0x57 | 0x60 | 0x68 | 0x6A | 0x9C)
}

/// Whether it takes something from there: pop, popf, popa, ret, iret.
fn pops(opcode: u16) -> bool {
    let segments = matches!(opcode, 0x07 | 0x17 | 0x1F | 0x0FA1 | 0x0FA9);
    let returns = matches!(opcode, 0xC2 | 0xC3 | 0xCA | 0xCB | 0xCF);
    segments || returns || matches!(opcode, 0x58..=0x5F | 0x61 | 0x9D)
}

/// The memory that `code` touches beyond its own bytes, and how many bytes
/// there.
pub(crate) fn sized_accesses(
    code: &[u8],
    regs: &Registers,
) -> [Option<(Access, u32)>; 2] {
    let Some(found) = instruction(code) else {
        return [None; 2];
    };
    let opcode = found.opcode;
    let is_string = matches!(opcode, 0x6C..=0x6F | 0xA4..=0xA7 | 0xAA..=0xAF);
    if found.repeated && is_string && regs.ecx.get() == 0 {
        return [None; 2];
    }
    let word = if found.operand_16 { 2 } else { 4 };
    let reg = found.rest.first().map_or(0, |byte| byte >> 3 & 7);
    let prefixes = &code[..code.len() - found.rest.len()];
    let size = sizes::operand_size(opcode, reg, word, prefixes);
    let on_stack = if matches!(opcode, 0x60 | 0x61) {
        8 * word
    } else {
        word
    };
    let [first, second] = accesses(code, regs);
    let first = first.map(|mut access| {
        if opcode == 0x60 {
            // pusha goes on downwards
            access.va = GuestVirt(access.va.0.wrapping_sub(7 * word));
        }
        let stack = pushes(opcode) || pops(opcode);
        (access, if stack { on_stack } else { size })
    });
    let second =
        second.map(|access| (access, if is_string { size } else { on_stack }));
    [first, second]
}

/// Whether an instruction with a ModRM byte writes its memory operand.
/// `repeated`: it has the prefix F2 or F3, which is part of some opcodes.
fn writes(opcode: u16, reg: u8, repeated: bool) -> bool {
    match opcode {
        // add or adc sbb and sub xor; cmp only reads
        0x00..=0x37 => opcode & 7 < 2,
        0x38..=0x3F => false,
        0x80..=0x83 => reg != 7,
        // xchg, mov, mov from segment, pop
        0x86..=0x89 | 0x8C | 0x8F => true,
        // shifts; mov immediate
        0xC0 | 0xC1 | 0xD0..=0xD3 | 0xC6 | 0xC7 => true,
        // floating point: the stores
        0xD9 => matches!(reg, 2 | 3 | 6 | 7),
        0xDB | 0xDF => matches!(reg, 1..=3 | 6 | 7),
        0xDD => matches!(reg, 1..=3 | 6 | 7),
        // not, neg
        0xF6 | 0xF7 => matches!(reg, 2 | 3),
        // inc, dec
        0xFE | 0xFF => reg < 2,
        // SSE stores
        0x0F11 | 0x0F13 | 0x0F17 | 0x0F29 | 0x0F2B | 0x0F7F => true,
        0x0F7E => !repeated,
        0x0FD6 | 0x0FE7 | 0x0FC3 => true,
        // setcc
        0x0F90..=0x0F9F => true,
        // bts, btr, btc, shld, shrd, cmpxchg, xadd, cmpxchg8b
        0x0FAB | 0x0FB3 | 0x0FBB | 0x0FB0 | 0x0FB1 => true,
        0x0FBA => reg >= 5,
        0x0FA4 | 0x0FA5 | 0x0FAC | 0x0FAD => true,
        0x0FC0 | 0x0FC1 | 0x0FC7 => true,
        // fxsave, stmxcsr, xsave
        0x0FAE => matches!(reg, 0 | 3 | 4),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(code: &[u8], regs: &Registers) -> [Option<(u32, bool)>; 2] {
        accesses(code, regs).map(|a| a.map(|a| (a.va.0, a.write)))
    }

    #[test]
    fn addresses_are_computed_as_the_processor_does() {
        let regs = Registers::default();
        regs.eax.set(0x1000);
        regs.ecx.set(0x10);
        regs.ebp.set(0x8000);
        // mov [eax+ecx*4+0x20], edx
        let mov = [0x89, 0x54, 0x88, 0x20];
        assert_eq!(touched(&mov, &regs), [Some((0x1060, true)), None]);
        // mov edx, [ebp-4]
        let mov = [0x8B, 0x55, 0xFC];
        assert_eq!(touched(&mov, &regs), [Some((0x7FFC, false)), None]);
        // mov eax, [0xC0000000]
        let mov = [0xA1, 0, 0, 0, 0xC0];
        assert_eq!(touched(&mov, &regs), [Some((0xC000_0000, false)), None]);
        // inc dword [ecx*8+0xC0001000]
        let inc = [0xFF, 0x04, 0xCD, 0x00, 0x10, 0x00, 0xC0];
        assert_eq!(touched(&inc, &regs), [Some((0xC000_1080, true)), None]);
        // lea touches nothing, nor does a register operand
        assert_eq!(touched(&[0x8D, 0x00], &regs), [None, None]);
        assert_eq!(touched(&[0x89, 0xC8], &regs), [None, None]);
        // pshufb [eax], mm0: a third byte of opcode
        let pshufb = [0x0F, 0x38, 0x00, 0x00];
        assert_eq!(touched(&pshufb, &regs), [Some((0x1000, false)), None]);
    }

    #[test]
    fn each_operand_has_its_segment() {
        use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
        let regs = Registers::default();
        let segments =
            |code: &[u8]| accesses(code, &regs).map(|a| a.map(|a| a.segment));
        for (code, first, second) in [
            (&[0x8B, 0x00][..], Ds, None),   // mov [eax], eax
            (&[0x26, 0x8B, 0x00], Es, None), // es:
            (&[0x2E, 0x8B, 0x00], Cs, None), // cs:
            (&[0x64, 0x8B, 0x00], Fs, None), // fs:
            (&[0x65, 0xA1, 0, 0, 0, 0], Gs, None), // mov gs:0, eax
            (&[0x8B, 0x45, 0], Ss, None),    // [ebp]
            (&[0x3E, 0x8B, 0x45, 0], Ds, None), // ds:[ebp]
            (&[0x8B, 0x05, 0, 0, 0, 0], Ds, None), // [disp]
            (&[0x8B, 0x04, 0x24], Ss, None), // [esp]
            (&[0x8B, 0x04, 0x25, 0, 0, 0, 0], Ds, None), // [disp], by a SIB
            (&[0x8B, 0x04, 0x28], Ds, None), // [eax + ebp]
            (&[0xA4], Ds, Some(Es)),         // movsb
            (&[0x26, 0xA4], Es, Some(Es)),   // its source only
            (&[0x64, 0xAA], Es, None),       // stosb has no prefix
            (&[0xFF, 0x30], Ds, Some(Ss)),   // push [eax]
            (&[0x50], Ss, None),             // push eax
        ] {
            assert_eq!(segments(code), [Some(first), second], "{code:x?}");
        }
    }

    #[test]
    fn stacks_and_strings_are_touched_without_being_named() {
        let regs = Registers::default();
        regs.esp.set(0x2000);
        regs.esi.set(0x3000);
        regs.edi.set(0x4000);
        let rep_movsd = [0xF3, 0xA5];
        assert_eq!(
            touched(&rep_movsd, &regs),
            [Some((0x3000, false)), Some((0x4000, true))]
        );
        assert_eq!(touched(&[0x50], &regs), [Some((0x1FFC, true)), None]);
        assert_eq!(touched(&[0xC3], &regs), [Some((0x2000, false)), None]);
        // call [esi]
        assert_eq!(
            touched(&[0xFF, 0x16], &regs),
            [Some((0x3000, false)), Some((0x1FFC, true))]
        );
    }

    #[test]
    fn code_that_ends_too_soon_touches_nothing() {
        let regs = Registers::default();
        for code in [&[][..], &[0x66], &[0x0F], &[0x8B], &[0x8B, 0x04]] {
            assert_eq!(accesses(code, &regs), [None; 2]);
        }
    }
}
