//! Seccomp filters: one assembler for all of them.
//!
//! A filter is a program for the kernel's packet filter machine. It sees the
//! number of a system call, the instruction that made it and its arguments, and
//! ends in a verdict. The Switcher assembles its filters in memory that it has,
//! without an allocator. The Launcher's filter is mostly made by seccompiler;
//! what that crate cannot say, and the filters of tests, are assembled here.

#![no_std]

#[cfg(test)]
extern crate std;

mod interpreter;
pub use interpreter::Call;

/// One instruction of a filter (`struct sock_filter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions a jump skips if its condition is true.
    pub jump_true: u8,
    /// And if it is false.
    pub jump_false: u8,
    /// Its operand.
    pub value: u32,
}

/// What happens to a call: the numbers of linux/seccomp.h.
pub mod verdict {
    /// The process dies (`SECCOMP_RET_KILL_PROCESS`).
    pub const KILL: u32 = 0x8000_0000;
    /// SIGSYS (`SECCOMP_RET_TRAP`).
    pub const TRAP: u32 = 0x0003_0000;
    /// It fails with the error in the low half (`SECCOMP_RET_ERRNO`).
    pub const FAIL: u32 = 0x0005_0000;
    /// The task stands still until its driver answers
    /// (`SECCOMP_RET_USER_NOTIF`).
    pub const STAND: u32 = 0x7FC0_0000;
    /// It is made (`SECCOMP_RET_ALLOW`).
    pub const ALLOW: u32 = 0x7FFF_0000;
}

/// `AUDIT_ARCH_I386`: the call was made as 32-bit programs make theirs.
pub const ARCH_I386: u32 = 0x4000_0003;
/// `AUDIT_ARCH_X86_64`.
pub const ARCH_X86_64: u32 = 0xC000_003E;

// Offsets into `struct seccomp_data`.
/// Offset of the call's number.
pub const NR: u32 = 0;
/// Offset of the architecture.
pub const ARCH: u32 = 4;
/// Offset of the low word of the instruction pointer; the high word follows.
pub const IP: u32 = 8;

/// Offset of the low word of argument `n`; the high word follows.
#[must_use]
pub const fn argument(n: u32) -> u32 {
    16 + 8 * n
}

/// The two words that a filter sees of a wide one: the low, the high.
#[expect(clippy::cast_possible_truncation, reason = "that is what halves are")]
#[must_use]
pub const fn halves(wide: u64) -> [u32; 2] {
    [wide as u32, (wide >> 32) as u32]
}

// Classes and modes of instructions (linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_NOT_LESS: u16 = 0x35;
const JUMP_NOT_LESS_THAN_X: u16 = 0x3D;
const JUMP_ANY_BIT: u16 = 0x45;
const AND: u16 = 0x54;
const ADD_X: u16 = 0x0C;
const TO_X: u16 = 0x07;
const RETURN: u16 = 0x06;

/// The most instructions that a filter has.
const MAX: usize = 352;

/// A filter under construction. Filters are made of our own tables, so one that
/// is too long is a mistake of ours, and a panic.
pub struct Filter {
    code: [Instruction; MAX],
    len: usize,
    /// The verdict on a call that does not meet a requirement.
    otherwise: u32,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

impl Filter {
    /// A filter without instructions. A requirement that is not met kills.
    #[must_use]
    pub fn new() -> Self {
        Self {
            code: [Instruction::default(); MAX],
            len: 0,
            otherwise: verdict::KILL,
        }
    }

    /// Chooses what happens from here on to a call that does not meet a
    /// requirement.
    pub fn otherwise(&mut self, verdict: u32) {
        self.otherwise = verdict;
    }

    /// The instructions.
    #[must_use]
    pub fn code(&self) -> &[Instruction] {
        &self.code[..self.len]
    }

    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, value: u32) {
        self.code[self.len] = Instruction {
            code,
            jump_true,
            jump_false,
            value,
        };
        self.len += 1;
    }

    /// Loads the word at `offset` of the call.
    pub fn load(&mut self, offset: u32) {
        self.push(LOAD_WORD, 0, 0, offset);
    }

    /// Keeps the loaded word for [`Self::add_x`] and
    /// [`Self::require_at_least_x`].
    pub fn set_x(&mut self) {
        self.push(TO_X, 0, 0, 0);
    }

    /// Adds the word that was kept, modulo 2^32.
    pub fn add_x(&mut self) {
        self.push(ADD_X, 0, 0, 0);
    }

    /// Ends in a verdict.
    pub fn end(&mut self, verdict: u32) {
        self.push(RETURN, 0, 0, verdict);
    }

    /// Does `then`, which must end in a verdict, when the loaded word is
    /// `value`. Otherwise the word stays loaded.
    ///
    /// # Panics
    ///
    /// When `then` is longer than a jump: we are wrong.
    pub fn when(&mut self, value: u32, then: impl FnOnce(&mut Self)) {
        self.jump(JUMP_EQUAL, value, then);
    }

    /// Does `then`, which must end in a verdict, when a bit of `bits` is set in
    /// the loaded word.
    ///
    /// # Panics
    ///
    /// As [`Self::when`].
    pub fn when_any_bit(&mut self, bits: u32, then: impl FnOnce(&mut Self)) {
        self.jump(JUMP_ANY_BIT, bits, then);
    }

    /// Does `then`, which must end in a verdict, when all of `bits` are set in
    /// the loaded word. Other bits of that word are lost.
    ///
    /// # Panics
    ///
    /// As [`Self::when`].
    pub fn when_all_bits(&mut self, bits: u32, then: impl FnOnce(&mut Self)) {
        self.push(AND, 0, 0, bits);
        self.jump(JUMP_EQUAL, bits, then);
    }

    fn jump(&mut self, code: u16, value: u32, then: impl FnOnce(&mut Self)) {
        let jump = self.len;
        self.push(code, 0, 0, value);
        then(self);
        let skipped = self.len - jump - 1;
        self.code[jump].jump_false =
            u8::try_from(skipped).expect("rules are short");
    }

    /// If the loaded word is `first` or more, skips the `len` instructions that
    /// the caller puts behind these.
    pub fn skip_from(&mut self, first: u32, len: u32) {
        self.push(JUMP_NOT_LESS, 0, 1, first);
        self.push(JUMP, 0, 0, len);
    }

    /// The verdict that was chosen, unless the loaded word is `value`.
    pub fn require(&mut self, value: u32) {
        self.push(JUMP_EQUAL, 1, 0, value);
        self.end(self.otherwise);
    }

    /// The verdict that was chosen, unless the loaded word is one of these.
    pub fn require_one_of(&mut self, [a, b]: [u32; 2]) {
        self.push(JUMP_EQUAL, 2, 0, a);
        self.push(JUMP_EQUAL, 1, 0, b);
        self.end(self.otherwise);
    }

    /// The same, unless it is at most `value`.
    pub fn require_at_most(&mut self, value: u32) {
        self.push(JUMP_GREATER, 0, 1, value);
        self.end(self.otherwise);
    }

    /// The same, unless it is at least the word that was kept.
    pub fn require_at_least_x(&mut self) {
        self.push(JUMP_NOT_LESS_THAN_X, 1, 0, 0);
        self.end(self.otherwise);
    }

    /// The same, if one of these bits is set.
    pub fn require_no_bit(&mut self, bits: u32) {
        self.push(JUMP_ANY_BIT, 0, 1, bits);
        self.end(self.otherwise);
    }

    /// The same, unless both words at `offset` make up `value`.
    pub fn require_wide(&mut self, offset: u32, value: u64) {
        let [low, high] = halves(value);
        self.load(offset);
        self.require(low);
        self.load(offset + 4);
        self.require(high);
    }

    /// The same, unless the high word of argument `n` is zero.
    pub fn require_narrow(&mut self, n: u32) {
        self.load(argument(n) + 4);
        self.require(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(filter: &Filter, nr: u32, arguments: [u64; 6]) -> u32 {
        let call = Call {
            nr,
            arch: ARCH_X86_64,
            ip: 0,
            arguments,
        };
        call.verdict_of(filter.code())
    }

    #[test]
    fn a_requirement_that_is_not_met_ends_with_the_verdict_that_was_chosen() {
        let mut f = Filter::new();
        f.load(NR);
        f.require_one_of([1, 2]);
        f.otherwise(verdict::TRAP);
        f.require_wide(argument(1), 7 << 32 | 5);
        f.end(verdict::ALLOW);
        let good = [0, 7 << 32 | 5, 0, 0, 0, 0];
        assert_eq!(verdict_of(&f, 1, good), verdict::ALLOW);
        assert_eq!(verdict_of(&f, 2, good), verdict::ALLOW);
        assert_eq!(verdict_of(&f, 3, good), verdict::KILL);
        assert_eq!(verdict_of(&f, 1, [0, 5, 0, 0, 0, 0]), verdict::TRAP);
    }

    #[test]
    fn a_stretch_is_skipped_from_a_word_on() {
        let mut f = Filter::new();
        f.load(NR);
        f.skip_from(10, 1);
        f.end(verdict::ALLOW);
        f.end(verdict::TRAP);
        for (nr, expected) in [
            (9, verdict::ALLOW),
            (10, verdict::TRAP),
            (u32::MAX, verdict::TRAP),
        ] {
            assert_eq!(verdict_of(&f, nr, [0; 6]), expected, "{nr}");
        }
    }

    #[test]
    fn bits_are_looked_at_one_by_one_or_all_together() {
        let mut f = Filter::new();
        f.load(argument(0));
        f.when_all_bits(6, |f| f.end(verdict::FAIL | 1));
        f.load(argument(0));
        f.when_any_bit(6, |f| f.end(verdict::FAIL | 2));
        f.end(verdict::ALLOW);
        for (bits, expected) in [
            (1, verdict::ALLOW),
            (2, verdict::FAIL | 2),
            (7, verdict::FAIL | 1),
        ] {
            assert_eq!(verdict_of(&f, 0, [bits, 0, 0, 0, 0, 0]), expected);
        }
    }
}
