//! Runs a filter as the kernel would, for tests.
//!
//! It knows the instructions that the assembler makes, and panics at others.

use super::{
    ADD_X, AND, ARCH, Instruction, JUMP, JUMP_ANY_BIT, JUMP_EQUAL,
    JUMP_GREATER, JUMP_NOT_LESS, JUMP_NOT_LESS_THAN_X, LOAD_WORD, NR, RETURN,
    TO_X, halves,
};

/// A system call as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub nr: u32,
    /// Its architecture.
    pub arch: u32,
    /// The address behind the instruction that made it.
    pub ip: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let wide = |value| halves(value)[offset as usize % 8 / 4];
        match offset {
            NR => self.nr,
            ARCH => self.arch,
            8 | 12 => wide(self.ip),
            _ => wide(self.arguments[(offset as usize - 16) / 8]),
        }
    }

    /// Runs a filter.
    ///
    /// # Panics
    ///
    /// At an instruction that the assembler does not make, and at the end of a
    /// filter without a verdict.
    #[must_use]
    pub fn verdict_of(&self, code: &[Instruction]) -> u32 {
        let (mut a, mut x, mut pc) = (0_u32, 0_u32, 0);
        loop {
            let i = code[pc];
            pc += 1;
            let condition = match i.code {
                LOAD_WORD => {
                    a = self.word(i.value);
                    continue;
                }
                TO_X => {
                    x = a;
                    continue;
                }
                ADD_X => {
                    a = a.wrapping_add(x);
                    continue;
                }
                AND => {
                    a &= i.value;
                    continue;
                }
                JUMP => {
                    pc += i.value as usize;
                    continue;
                }
                RETURN => return i.value,
                JUMP_EQUAL => a == i.value,
                JUMP_GREATER => a > i.value,
                JUMP_NOT_LESS => a >= i.value,
                JUMP_NOT_LESS_THAN_X => a >= x,
                JUMP_ANY_BIT => a & i.value != 0,
                other => panic!("no such instruction: {other:#x}"),
            };
            let skip = if condition { i.jump_true } else { i.jump_false };
            pc += usize::from(skip);
        }
    }
}
