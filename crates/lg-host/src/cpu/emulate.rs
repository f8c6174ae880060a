//! Reading instructions: the few that we carry out, and what others touch.
//!
//! This is not an emulator. A Guest's instructions run on the real processor;
//! we look at one only after it trapped. Is it one that a kernel may use and
//! privilege level 3 may not (port I/O, debug registers)? Does it load a
//! segment register, from where, and how long is it? Which memory does it
//! touch, so that a segment limit that stopped it can be told to the Guest as
//! the page fault that it would have had? And of its neighbours, before one is
//! patched: how long is each, so that code can be read in step?

use crate::address::GuestVirt;
use crate::cpu::segments::SegmentRegister;
use crate::run::Host;
use crate::state::Registers;
use core::cell::Cell;

mod sizes;

/// The longest instruction (Intel SDM volume 2, "Instruction Format").
pub const MAX_INSTRUCTION: usize = 15;

/// Trap after one instruction.
pub const EFLAGS_TF: u32 = 1 << 8;
/// Nested task: an `iret` with it set means something else.
pub const EFLAGS_NT: u32 = 1 << 14;
/// Resume: no debug fault for one instruction.
pub const EFLAGS_RF: u32 = 1 << 16;
/// Virtual-8086 mode. Never in the registers: only in frames.
pub const EFLAGS_VM: u32 = 1 << 17;
/// Alignment check.
pub const EFLAGS_AC: u32 = 1 << 18;

/// The flags that an `iret` of the Guest's may set: CF PF AF ZF SF TF DF OF,
/// AC and ID. NT is left out, for with it our own `iret` would fail.
pub const EFLAGS_USABLE: u32 = 0x0024_0DD5;

/// The flags that are always set while the Guest runs: the one that is always
/// set anyway, and the real interrupt flag.
pub const EFLAGS_FIXED: u32 = 0x202;

/// A piece of memory that an instruction touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its first byte, counted from the start of its segment.
    pub va: GuestVirt,
    /// Whether it is written.
    pub write: bool,
    /// The segment.
    pub(crate) segment: SegmentRegister,
}

impl Access {
    /// Its last byte, if it is as long as an access may be without us knowing
    /// the instruction's operand size: sixteen bytes.
    #[must_use]
    pub fn last(self) -> u32 {
        self.va.0.saturating_add(15)
    }
}

/// Where a segment register is loaded from.
pub(crate) enum Source {
    Register(u16),
    Memory(Access),
}

/// An instruction that loads a segment register.
pub(crate) struct SegmentLoad {
    pub(crate) register: SegmentRegister,
    pub(crate) source: Source,
    /// Bytes that it takes from the stack.
    pub(crate) popped: u32,
    /// Bytes of code.
    pub(crate) length: u32,
}

/// An instruction's opcode, once its prefixes are off.
struct Instruction<'a> {
    /// 0x0F00 is added to two-byte opcodes.
    opcode: u16,
    /// What follows the opcode: perhaps a ModRM byte.
    rest: &'a [u8],
    /// Bytes up to the end of the opcode.
    length: u32,
    operand_16: bool,
    address_16: bool,
    /// The segment that a prefix names.
    prefix: Option<SegmentRegister>,
    repeated: bool,
}

impl Instruction<'_> {
    /// The segment of an operand whose usual one is `usual`.
    fn segment(&self, usual: SegmentRegister) -> SegmentRegister {
        self.prefix.unwrap_or(usual)
    }
}

fn instruction(code: &[u8]) -> Option<Instruction<'_>> {
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

/// How many bytes the instruction at the start of `code` has, as 32-bit code;
/// `None` where it is cut off, too long, or not to be told: the 16-bit
/// addresses that nobody uses, and what came after SSE4.
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
        // Control and debug registers: always a register, whatever it says.
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

/// A ModRM byte and what hangs on it.
struct ModRm {
    /// The middle three bits: a register, or more opcode.
    reg: u8,
    operand: Operand,
    /// Bytes that it all takes.
    length: u32,
}

enum Operand {
    Register(u8),
    /// Where, and in which segment if no prefix names one.
    Memory(GuestVirt, SegmentRegister),
}

/// In the place of the number of a base register: there is none.
const NO_BASE: u8 = 8;

fn mod_rm(code: &[u8], regs: &Registers) -> Option<ModRm> {
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

fn displacement(code: &[u8], at: usize) -> Option<u32> {
    let bytes = code.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The general register with the number that instructions use.
pub(crate) fn general(regs: &Registers, number: u8) -> &Cell<u32> {
    match number & 7 {
        0 => &regs.eax,
        1 => &regs.ecx,
        2 => &regs.edx,
        3 => &regs.ebx,
        4 => &regs.esp,
        5 => &regs.ebp,
        6 => &regs.esi,
        _ => &regs.edi,
    }
}

/// The segment load that `code` begins with, if it is one.
pub(crate) fn segment_load(
    code: &[u8],
    regs: &Registers,
) -> Option<SegmentLoad> {
    use SegmentRegister::{Ds, Es, Fs, Gs, Ss};
    let found = instruction(code)?;
    let popped = if found.operand_16 { 2 } else { 4 };
    let pop = |register| {
        let source = Source::Memory(Access {
            va: GuestVirt(regs.esp.get()),
            write: false,
            segment: Ss,
        });
        let length = found.length;
        Some(SegmentLoad {
            register,
            source,
            popped,
            length,
        })
    };
    match found.opcode {
        0x07 => pop(Es),
        0x17 => pop(Ss),
        0x1F => pop(Ds),
        0x0FA1 => pop(Fs),
        0x0FA9 => pop(Gs),
        0x8E if !found.address_16 => {
            let modrm = mod_rm(found.rest, regs)?;
            let register = match modrm.reg {
                0 => Es,
                2 => Ss,
                3 => Ds,
                4 => Fs,
                5 => Gs,
                _ => return None,
            };
            let source = match modrm.operand {
                Operand::Register(n) => {
                    let [low, high, ..] = general(regs, n).get().to_le_bytes();
                    Source::Register(u16::from_le_bytes([low, high]))
                }
                Operand::Memory(va, usual) => Source::Memory(Access {
                    va,
                    write: false,
                    segment: found.segment(usual),
                }),
            };
            let length = found.length + modrm.length;
            Some(SegmentLoad {
                register,
                source,
                popped: 0,
                length,
            })
        }
        _ => None,
    }
}

/// The memory that `code` may touch beyond its own bytes: two places at the
/// most.
pub(crate) fn accesses(code: &[u8], regs: &Registers) -> [Option<Access>; 2] {
    use SegmentRegister::{Ds, Es, Ss};
    let Some(mut found) = instruction(code) else {
        return [None; 2];
    };
    let access = |va, segment, write| {
        let va = GuestVirt(va);
        Some(Access { va, write, segment })
    };
    let data = found.segment(Ds);
    let (esi, edi) = (regs.esi.get(), regs.edi.get());
    let (source, written) = (access(esi, data, false), access(edi, Es, true));
    let compared = access(edi, Es, false);
    let top = access(regs.esp.get(), Ss, false);
    let below = access(regs.esp.get().wrapping_sub(4), Ss, true);
    match found.opcode {
        // movs, cmps, stos, lods, scas, ins, outs
        0xA4 | 0xA5 => [source, written],
        0xA6 | 0xA7 => [source, compared],
        0xAA | 0xAB | 0x6C | 0x6D => [written, None],
        0xAC | 0xAD | 0x6E | 0x6F => [source, None],
        0xAE | 0xAF => [compared, None],
        // maskmovq
        0x0FF7 => [access(edi, data, true), None],
        // mov to and from an absolute address
        0xA0..=0xA3 => {
            let va = displacement(found.rest, 0);
            let write = found.opcode >= 0xA2;
            [va.and_then(|va| access(va, data, write)), None]
        }
        opcode if pushes(opcode) => [below, None],
        opcode if pops(opcode) => [top, None],
        // leave
        0xC9 => [access(regs.ebp.get(), Ss, false), None],
        // xlat
        0xD7 => {
            let al = regs.eax.get() & 0xFF;
            [access(regs.ebx.get().wrapping_add(al), data, false), None]
        }
        opcode if has_mod_rm(opcode) && !found.address_16 => {
            if matches!(opcode, 0x0F38 | 0x0F3A) {
                // The third byte of the opcode.
                found.rest = found.rest.get(1..).unwrap_or(&[]);
            }
            let Some(modrm) = mod_rm(found.rest, regs) else {
                return [None; 2];
            };
            let stack = match (opcode, modrm.reg) {
                // call and push, indirect; pop into memory
                (0xFF, 2 | 3 | 6) => below,
                (0x8F, _) => top,
                _ => None,
            };
            let operand = match modrm.operand {
                Operand::Register(_) => None,
                // lea touches nothing
                Operand::Memory(..) if opcode == 0x8D => None,
                Operand::Memory(va, usual) => {
                    let write = writes(opcode, modrm.reg, found.repeated);
                    access(va.0, found.segment(usual), write)
                }
            };
            [operand, stack]
        }
        _ => [None; 2],
    }
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

/// Whether the instruction stores or loads all flags: pushf, popf.
pub(crate) fn moves_flags(code: &[u8]) -> bool {
    instruction(code).is_some_and(|i| matches!(i.opcode, 0x9C | 0x9D))
}

/// The opcode that `code` begins with; 0x0F00 is added to those of two bytes.
pub(crate) fn opcode(code: &[u8]) -> Option<u16> {
    instruction(code).map(|found| found.opcode)
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

/// A near jump, call or return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Branch {
    /// Where it goes.
    pub(crate) target: u32,
    /// The address that a call leaves on the stack.
    pub(crate) pushed: Option<u32>,
    /// Bytes that a return takes from it.
    pub(crate) popped: u32,
}

/// The near branch that `code`, which lies at eip, begins with. A conditional
/// one is taken as taken. `word` reads an operand of one word.
pub(crate) fn branch(
    code: &[u8],
    regs: &Registers,
    word: impl Fn(Access) -> Option<u32>,
) -> Option<Branch> {
    let found = instruction(code)?;
    if found.operand_16 || found.address_16 {
        return None;
    }
    let on_stack = Access {
        va: GuestVirt(regs.esp.get()),
        write: false,
        segment: SegmentRegister::Ss,
    };
    let behind = |more: u32| {
        regs.eip.get().wrapping_add(found.length).wrapping_add(more)
    };
    let short = || {
        let &by = found.rest.first()?;
        Some(behind(1).wrapping_add_signed(i32::from(by.cast_signed())))
    };
    let near = || Some(behind(4).wrapping_add(displacement(found.rest, 0)?));
    let jump = |target| Branch {
        target,
        pushed: None,
        popped: 0,
    };
    match found.opcode {
        0x70..=0x7F | 0xE0..=0xE3 | 0xEB => short().map(jump),
        0xE9 | 0x0F80..=0x0F8F => near().map(jump),
        0xE8 => near().map(|target| Branch {
            pushed: Some(behind(4)),
            ..jump(target)
        }),
        0xC3 => {
            let target = word(on_stack)?;
            Some(Branch {
                popped: 4,
                ..jump(target)
            })
        }
        0xC2 => {
            let &[low, high, ..] = found.rest else {
                return None;
            };
            let more = u32::from(u16::from_le_bytes([low, high]));
            let target = word(on_stack)?;
            Some(Branch {
                popped: 4 + more,
                ..jump(target)
            })
        }
        0xFF => {
            let modrm = mod_rm(found.rest, regs)?;
            let target = match modrm.operand {
                Operand::Register(n) => general(regs, n).get(),
                Operand::Memory(va, usual) => word(Access {
                    va,
                    write: false,
                    segment: found.segment(usual),
                })?,
            };
            match modrm.reg {
                2 => Some(Branch {
                    pushed: Some(behind(modrm.length)),
                    ..jump(target)
                }),
                4 => Some(jump(target)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a ModRM byte follows the opcode (Intel SDM volume 2, appendix A).
fn has_mod_rm(opcode: u16) -> bool {
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

/// How long the CPUID is that `code` begins with, if it is one.
pub(crate) fn cpuid_length(code: &[u8]) -> Option<u32> {
    const CPUID: u16 = 0x0FA2;
    let found = instruction(code)?;
    let fits = found.length as usize <= MAX_INSTRUCTION;
    (found.opcode == CPUID && fits).then_some(found.length)
}

impl Host<'_> {
    /// Steps over `in` and `out`: there are no ports, and `in` reads ones.
    /// Linux asks a few of them at boot, and lguest promised it this.
    pub(crate) fn port_io(&mut self, code: &[u8]) -> bool {
        let Some(found) = instruction(code) else {
            return false;
        };
        let regs = &self.vm.regs;
        let (immediate, input) = match found.opcode {
            0xE4 | 0xE5 => (1, true),
            0xEC | 0xED => (0, true),
            0xE6 | 0xE7 => (1, false),
            0xEE | 0xEF => (0, false),
            _ => return false,
        };
        let length = found.length + immediate;
        if length as usize > MAX_INSTRUCTION {
            return false; // so many prefixes make it no instruction at all
        }
        if input {
            regs.eax.set(match (found.opcode & 1, found.operand_16) {
                (0, _) => regs.eax.get() | 0xFF,
                (_, true) => regs.eax.get() | 0xFFFF,
                (_, false) => u32::MAX,
            });
        }
        regs.eip.set(regs.eip.get().wrapping_add(length));
        true
    }

    /// Carries out a move from or to a debug register.
    pub(crate) fn debug_register(&mut self, code: &[u8]) -> bool {
        let (regs, debug) = (&self.vm.regs, &self.vm.debug);
        let &[0x0F, direction @ (0x21 | 0x23), modrm, ..] = code else {
            return false;
        };
        let register = modrm >> 3 & 7;
        if direction == 0x21 {
            general(regs, modrm).set(debug.read(register));
        } else {
            debug.write(register, general(regs, modrm).get(), 0);
        }
        regs.eip.set(regs.eip.get().wrapping_add(3));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

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
    fn branches_are_followed_to_where_they_lead() {
        let regs = Registers::default();
        regs.eip.set(0x1000);
        regs.ecx.set(0xC010_0000);
        let nowhere = |_| None;
        let to = |code: &[u8]| branch(code, &regs, nowhere);
        let jump = |target| Branch {
            target,
            pushed: None,
            popped: 0,
        };
        assert_eq!(to(&[0xFF, 0xE1]), Some(jump(0xC010_0000)));
        let call = Branch {
            pushed: Some(0x1002),
            ..jump(0xC010_0000)
        };
        assert_eq!(to(&[0xFF, 0xD1]), Some(call));
        assert_eq!(to(&[0xEB, 0xFE]), Some(jump(0x1000)));
        assert_eq!(to(&[0x0F, 0x84, 0, 1, 0, 0]), Some(jump(0x1106)));
        assert_eq!(to(&[0xC3]), None, "an unreadable stack");
        // call *%gs:16
        let far = branch(&[0x65, 0xFF, 0x15, 16, 0, 0, 0], &regs, |operand| {
            assert_eq!(operand.segment, SegmentRegister::Gs);
            Some(operand.va.0)
        });
        assert_eq!(far.map(|branch| branch.target), Some(16));
        let ret = branch(&[0xC2, 8, 0], &regs, |_| Some(5));
        assert_eq!(
            ret,
            Some(Branch {
                popped: 12,
                ..jump(5)
            })
        );
        assert_eq!(to(&[0x90]), None);
    }

    #[test]
    fn code_that_ends_too_soon_is_nothing() {
        let regs = Registers::default();
        for code in [&[][..], &[0x66], &[0x0F], &[0x8B], &[0x8B, 0x04]] {
            assert_eq!(accesses(code, &regs), [None; 2]);
            assert!(segment_load(code, &regs).is_none());
        }
    }

    #[test]
    fn an_instruction_that_is_too_long_is_none() {
        let mut machine = Machine::new();
        let mut host = machine.host();
        let eip = host.vm.regs.eip.get();
        let mut code = [0x66; MAX_INSTRUCTION];
        // in $n, %eax: a byte follows the opcode
        code[MAX_INSTRUCTION - 1] = 0xE5;
        assert!(!host.port_io(&code));
        assert_eq!(host.vm.regs.eip.get(), eip);
        assert!(host.port_io(&code[1..]));
        assert_eq!(host.vm.regs.eip.get(), eip + 15);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

        /// An instruction is as long as another decoder says. That one refuses
        /// what no processor carries out; ours does not mind, for it only has
        /// to stay in step with code that runs.
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

        /// What compilers make of 2007 is not refused.
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
    fn segment_loads_are_told_from_other_moves() {
        let regs = Registers::default();
        regs.eax.set(0xFFFF_007B);
        let load = segment_load(&[0x8E, 0xD8, 0x90], &regs).unwrap();
        assert_eq!(load.register, SegmentRegister::Ds);
        assert!(matches!(load.source, Source::Register(0x7B)));
        assert_eq!((load.length, load.popped), (2, 0));
        let load = segment_load(&[0x0F, 0xA9], &regs).unwrap();
        assert_eq!(load.register, SegmentRegister::Gs);
        assert_eq!((load.length, load.popped), (2, 4));
        // mov cs, ax does not exist
        assert!(segment_load(&[0x8E, 0xC8], &regs).is_none());
    }
}
