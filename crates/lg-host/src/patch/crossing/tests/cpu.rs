//! The few instructions that the code of crossings has.

use super::super::code::CODE;
use super::super::code::CODE_SIZE;
use super::super::words::{CODE_ADDRESS, WORDS};
use super::{ENTRY_TRAMPOLINE, NEAR_TRAMPOLINE, TRAMPOLINE};
use crate::cpu::selectors::{REAL_LONG_CS, REAL_USER_CS};
use crate::state::Registers;
use crate::testing::Machine;
use core::cell::Cell;
use lg_abi::page::PAGE_SIZE;

/// How a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// After as many instructions as were wanted.
    Steps,
    /// By a fault.
    Refused,
    /// By a jump to the trampoline.
    Slow,
    /// On the other side.
    Crossed,
}

struct Cpu<'a> {
    m: &'a Machine,
    eip: u32,
}

/// An operand.
enum Operand<'a> {
    Register(&'a Cell<u32>),
    Memory(u32),
}

/// Executes up to `steps` instructions from eip on.
pub(super) fn run(m: &Machine, steps: usize) -> End {
    let mut cpu = Cpu {
        m,
        eip: m.vm.regs.eip.get(),
    };
    for _ in 0..steps {
        let end = cpu.step();
        if end != Some(End::Refused) {
            m.vm.regs.eip.set(cpu.eip);
        }
        if let Some(end) = end {
            return end;
        }
        cpu.eip = m.vm.regs.eip.get();
    }
    End::Steps
}

impl Cpu<'_> {
    fn regs(&self) -> &Registers {
        &self.m.vm.regs
    }

    fn byte(&mut self) -> u8 {
        let byte = CODE.bytes[(self.eip - CODE_ADDRESS) as usize];
        self.eip += 1;
        byte
    }

    fn word(&mut self) -> u32 {
        let bytes = [(); 4].map(|()| self.byte());
        u32::from_le_bytes(bytes)
    }

    fn signed(&mut self) -> u32 {
        i32::from(self.byte().cast_signed()).cast_unsigned()
    }

    fn register(&self, number: u8) -> &Cell<u32> {
        crate::cpu::registers::general(self.regs(), number)
    }

    fn load(&self, at: u32) -> u32 {
        match at.checked_sub(WORDS) {
            Some(offset) if offset < PAGE_SIZE => {
                self.m.vm.crossing.words.all()[offset as usize / 4].get()
            }
            _ => super::word(self.m, at),
        }
    }

    fn store(&self, at: u32, value: u32) {
        match at.checked_sub(WORDS) {
            Some(offset) if offset < PAGE_SIZE => {
                self.m.vm.crossing.words.all()[offset as usize / 4].set(value);
            }
            _ => super::push(self.m, at, &[value]),
        }
    }

    fn push(&self, value: u32) {
        let esp = &self.regs().esp;
        esp.set(esp.get() - 4);
        self.store(esp.get(), value);
    }

    fn pop(&self) -> u32 {
        let esp = &self.regs().esp;
        esp.set(esp.get() + 4);
        self.load(esp.get() - 4)
    }

    /// The operand of a ModRM byte, and its middle field.
    fn operand(&mut self, base: u32) -> (Operand<'_>, u8) {
        let modrm = self.byte();
        let (mode, number, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
        if mode == 3 {
            return (Operand::Register(self.register(rm)), number);
        }
        let at = match (mode, rm) {
            (0, 5) => return (Operand::Memory(self.word()), number),
            (_, 4) => {
                assert_eq!(self.byte(), 0x24);
                self.regs().esp.get()
            }
            _ => self.register(rm).get(),
        };
        let by = if mode == 1 { self.signed() } else { 0 };
        let at = at.wrapping_add(by).wrapping_add(base);
        (Operand::Memory(at), number)
    }

    /// Sets CF and ZF as `cmp` does; the others are not looked at.
    fn compare(&self, a: u32, b: u32) {
        let flags = &self.regs().eflags;
        let new = u32::from(a < b) | u32::from(a == b) << 6;
        flags.set(flags.get() & !0x8D5 | new);
    }

    fn condition(&self, condition: u8) -> bool {
        let flags = self.regs().eflags.get();
        match condition {
            2 => flags & 1 != 0,
            3 => flags & 1 == 0,
            4 => flags & 0x40 != 0,
            5 => flags & 0x40 == 0,
            _ => panic!("condition {condition}"),
        }
    }

    fn read(&mut self, base: u32) -> (u32, u8) {
        match self.operand(base) {
            (Operand::Register(register), number) => (register.get(), number),
            (Operand::Memory(at), number) => (self.load(at), number),
        }
    }

    fn address(&mut self) -> (u32, u8) {
        match self.operand(0) {
            (Operand::Memory(at), number) => (at, number),
            (Operand::Register(_), _) => panic!("a register"),
        }
    }

    fn step(&mut self) -> Option<End> {
        let mut opcode = self.byte();
        let mut base = 0;
        if matches!(opcode, 0x36 | 0x2E | 0x65) {
            if opcode == 0x65 {
                base = self.regs().gs_base.get();
                let at = self.regs().eax.get().wrapping_add(base);
                if at.wrapping_sub(WORDS) >= PAGE_SIZE {
                    return Some(End::Refused); // there is no page
                }
            }
            opcode = self.byte();
        }
        match opcode {
            0x50..0x58 => self.push(self.register(opcode & 7).get()),
            0x58 | 0x59 | 0x5B => {
                let value = self.pop();
                self.register(opcode & 7).set(value);
            }
            0x6A => {
                let value = self.signed();
                self.push(value);
            }
            0x9C => self.push(self.regs().eflags.get()),
            0x9D => {
                let flags = self.pop();
                self.regs().eflags.set(flags);
            }
            0x0F => return self.step_0f(),
            0x74 | 0x75 => {
                let way = self.signed();
                if self.condition(opcode & 0xF) {
                    self.eip = self.eip.wrapping_add(way);
                }
            }
            0xA1 | 0xA3 => {
                let at = self.word();
                if opcode == 0xA1 {
                    self.regs().eax.set(self.load(at));
                } else {
                    self.store(at, self.regs().eax.get());
                }
            }
            0x0D | 0x25 | 0x3D => {
                let (value, eax) = (self.word(), self.regs().eax.get());
                match opcode {
                    0x0D => self.regs().eax.set(eax | value),
                    0x25 => self.regs().eax.set(eax & value),
                    _ => self.compare(eax, value),
                }
            }
            0xE9 => {
                let way = self.word();
                self.eip = self.eip.wrapping_add(way);
            }
            0xC3 => {
                self.eip = self.pop();
                return Some(End::Crossed);
            }
            0xFF => return self.step_ff(),
            _ => self.step_with_operand(opcode, base),
        }
        None
    }

    fn step_0f(&mut self) -> Option<End> {
        match self.byte() {
            0xB2 => {
                let (at, _) = self.address();
                let ss = self.load(at + 4) & 0xFFFF;
                self.regs().esp.set(self.load(at));
                self.regs().ss.set(ss);
            }
            opcode @ 0x80..0x90 => {
                let way = self.word();
                if self.condition(opcode & 0xF) {
                    self.eip = self.eip.wrapping_add(way);
                }
            }
            0x0B => return Some(End::Refused),
            opcode => panic!("opcode 0f {opcode:x}"),
        }
        None
    }

    fn step_ff(&mut self) -> Option<End> {
        let (at, number) = self.address();
        match number {
            0 => self.store(at, self.load(at).wrapping_add(1)),
            4 | 5 => {
                self.eip = self.load(at);
                let inside = self.eip.wrapping_sub(CODE_ADDRESS);
                if (inside as usize) < CODE_SIZE {
                    return None;
                }
                let slow = [TRAMPOLINE, ENTRY_TRAMPOLINE, NEAR_TRAMPOLINE]
                    .contains(&self.eip);
                if number == 5 {
                    let cs = if slow { REAL_LONG_CS } else { REAL_USER_CS };
                    assert_eq!(self.load(at + 4), cs);
                }
                return Some(if slow { End::Slow } else { End::Crossed });
            }
            6 => self.push(self.load(at)),
            _ => panic!("opcode ff /{number}"),
        }
        None
    }

    fn step_with_operand(&mut self, opcode: u8, base: u32) {
        match opcode {
            0x8C => {
                let number = self.byte() >> 3 & 7;
                // The other half of the byte says where to.
                let to = CODE.bytes[(self.eip - 1 - CODE_ADDRESS) as usize] & 7;
                let regs = self.regs();
                let segments = [
                    &regs.es, &regs.es, &regs.ss, &regs.ds, &regs.fs, &regs.gs,
                ];
                self.register(to).set(segments[usize::from(number)].get());
            }
            0x89 => {
                let regs = &self.m.vm.regs;
                let value = |number| match number {
                    4 => regs.esp.get(),
                    _ => crate::cpu::registers::general(regs, number).get(),
                };
                let (at, from) = match self.operand(base) {
                    (Operand::Register(to), number) => {
                        to.set(value(number));
                        return;
                    }
                    (Operand::Memory(at), number) => (at, number),
                };
                self.store(at, value(from));
            }
            0x8D => {
                let (at, number) = self.address();
                self.register(number).set(at);
            }
            0x8B | 0x03 | 0x3B => {
                let (value, number) = self.read(base);
                let old = self.register(number).get();
                match opcode {
                    0x8B => self.register(number).set(value),
                    0x03 => {
                        let sum = old.wrapping_add(value);
                        self.register(number).set(sum);
                        self.compare(sum, 0);
                    }
                    _ => self.compare(old, value),
                }
            }
            0x01 => {
                let (at, number) = self.address();
                let sum =
                    self.load(at).wrapping_add(self.register(number).get());
                self.store(at, sum);
                self.compare(sum, 0);
            }
            0x80 => {
                let (at, number) = self.address();
                assert_eq!(number, 7);
                let value = super::byte(self.m, at);
                let with = self.byte();
                self.compare(value.into(), with.into());
            }
            0x39 => {
                let (value, number) = self.read(base);
                self.compare(value, self.register(number).get());
            }
            0x85 => {
                let (value, number) = self.read(base);
                self.compare(value & self.register(number).get(), 0);
            }
            0x81 | 0x83 | 0xF7 => {
                let (value, number) = self.read(base);
                let with = match opcode {
                    0x83 => self.signed(),
                    _ => self.word(),
                };
                match number {
                    7 => self.compare(value, with),
                    _ => self.compare(value & with, 0),
                }
            }
            0x8F => {
                let (at, _) = self.address();
                let value = self.pop();
                self.store(at, value);
            }
            0xC7 => {
                let (at, _) = self.address();
                let value = self.word();
                self.store(at, value);
            }
            _ => panic!("opcode {opcode:x} at {:x}", self.eip),
        }
    }
}
