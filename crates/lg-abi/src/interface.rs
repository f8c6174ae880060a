//! What differs between generations of Guests, as data.
//!
//! An [`Interface`] says how a Guest of some releases makes a call and how its
//! `lguest_data` is laid out. The Host works with the one that its Guest has.

use crate::call::{Call, CallName, MAX_ARGUMENTS};
use crate::layout::Layout;

/// One more than the highest number of a call in any generation.
pub const NUMBERS: usize = 20;

/// The most words of an entry of the ring.
pub const MAX_RING_WORDS: usize = 5;

/// Bytes of a word.
const WORD: u32 = 4;

/// The registers that take part in a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the processor's manual has them all
pub struct CallRegisters {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
    pub esi: u32,
}

/// The name of a register. The number of the call is always in eax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // see `CallRegisters`
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
    Esi,
}

impl CallRegisters {
    /// What is in `register`.
    #[must_use]
    #[inline]
    pub const fn get(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
            Register::Esi => self.esi,
        }
    }

    /// Puts `word` into `register`.
    #[inline]
    pub const fn set(&mut self, register: Register, word: u32) {
        *match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
            Register::Esi => &mut self.esi,
        } = word;
    }
}

/// How Guests of some releases talk to the Host.
#[derive(Debug)]
pub struct Interface {
    /// The call with each number.
    pub calls: [Option<CallName>; NUMBERS],
    /// The registers of the arguments, in their order. Where there are fewer
    /// than a call has arguments, the others are 0.
    pub arguments: &'static [Register],
    /// The registers that the words of a ring entry stand for.
    pub ring: &'static [Register],
    /// Whether a Guest may call by `vmcall`, too.
    pub vmcall: bool,
    /// Where the fields of `lguest_data` are.
    pub layout: Layout,
}

impl Interface {
    /// The call with this number, or `None` for a number that has no meaning.
    #[must_use]
    #[inline]
    pub const fn name(&self, number: u32) -> Option<CallName> {
        if (number as usize) < NUMBERS {
            self.calls[number as usize]
        } else {
            None
        }
    }

    /// The number of the call `name`; `None` if these releases lack it.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // below `NUMBERS`
    pub const fn number(&self, name: CallName) -> Option<u32> {
        let mut number = 0;
        while number < NUMBERS {
            match self.calls[number] {
                Some(found) if found as usize == name as usize => {
                    return Some(number as u32);
                }
                _ => number += 1,
            }
        }
        None
    }

    /// The registers of call `number` with these arguments. Arguments for
    /// which these releases have no register are left out.
    #[must_use]
    #[inline]
    pub const fn registers(
        &self,
        number: u32,
        arguments: [u32; MAX_ARGUMENTS],
    ) -> CallRegisters {
        let mut registers = CallRegisters {
            eax: number,
            ebx: 0,
            ecx: 0,
            edx: 0,
            esi: 0,
        };
        let mut n = 0;
        while n < self.arguments.len() {
            registers.set(self.arguments[n], arguments[n]);
            n += 1;
        }
        registers
    }

    /// The call that these registers make; `None` if its number has no
    /// meaning.
    #[must_use]
    #[inline(always)]
    pub const fn decode(&self, registers: &CallRegisters) -> Option<Call> {
        let Some(name) = self.name(registers.eax) else {
            return None;
        };
        let mut arguments = [0; MAX_ARGUMENTS];
        let mut n = 0;
        while n < self.arguments.len() {
            arguments[n] = registers.get(self.arguments[n]);
            n += 1;
        }
        Some(name.with(arguments))
    }

    /// Bytes of an entry of the ring.
    #[must_use]
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // MAX_RING_WORDS at the most
    pub const fn ring_entry_size(&self) -> u32 {
        self.ring.len() as u32 * WORD
    }

    /// The registers that the `words` of a ring entry stand for.
    #[must_use]
    #[inline]
    pub const fn from_ring(
        &self,
        words: &[u32; MAX_RING_WORDS],
    ) -> CallRegisters {
        let mut registers = CallRegisters {
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 0,
            esi: 0,
        };
        let mut n = 0;
        while n < self.ring.len() {
            registers.set(self.ring[n], words[n]);
            n += 1;
        }
        registers
    }
}

/// A table by number, from pairs of number and call.
#[must_use]
pub const fn by_number(
    pairs: &[(usize, CallName)],
) -> [Option<CallName>; NUMBERS] {
    with([None; NUMBERS], pairs)
}

/// The table `calls` with more pairs of number and call.
#[must_use]
pub const fn with(
    mut calls: [Option<CallName>; NUMBERS],
    pairs: &[(usize, CallName)],
) -> [Option<CallName>; NUMBERS] {
    let mut n = 0;
    while n < pairs.len() {
        let (number, name) = pairs[n];
        assert!(calls[number].is_none(), "two calls have one number");
        calls[number] = Some(name);
        n += 1;
    }
    calls
}
