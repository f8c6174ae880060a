//! What is left of a Guest: its last words, and its memory.
//!
//! Virtual addresses are looked up in the Guest's own tables, as the processor
//! would have done it.

use crate::memory::GuestMemory;
use lg_abi::known::Known;
use lg_abi::page::{Format, LINEAR, PAGE_SIZE, Pte};
use lg_wire::debug::{Word, Words};
use lg_wire::last::LastWords;

/// A Guest that has ended.
pub struct Remains<'a> {
    /// Its memory.
    pub memory: &'a GuestMemory,
    /// What it did last.
    pub last: LastWords,
    /// Its interface, which has the names of hypercalls.
    pub interface: Known,
    /// The format of its tables.
    pub paging: Format,
}

/// An entry of a table on the way to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its physical address.
    pub(super) at: u32,
    /// Its low word.
    pub(super) entry: u32,
}

/// 4 MiB or 2 MiB in one entry.
const LARGE: u32 = 1 << 7;

impl Remains<'_> {
    /// The register `word`, if registers were noted.
    pub(super) fn register(&self, word: Word) -> Option<u32> {
        self.words().map(|words| words[word as usize])
    }

    /// All registers, if they were noted.
    pub(super) fn words(&self) -> Option<&Words> {
        self.last.words.as_ref()
    }

    /// How many levels the tables have.
    pub(super) fn levels(&self) -> usize {
        match self.paging {
            Format::TwoLevels => 2,
            Format::Pae => 3,
        }
    }

    /// The entries on the way to `va`, and its physical address if it has one.
    pub(super) fn walk(&self, va: u32) -> (Vec<Step>, Option<u32>) {
        let mut steps = Vec::new();
        let Some(cr3) = self.register(Word::Cr3) else {
            return (steps, None);
        };
        if cr3 == LINEAR {
            return (steps, Some(va));
        }
        let (offsets, large): (&[u32], u32) = match self.paging {
            Format::TwoLevels => (
                &[
                    self.paging.directory_offset(va),
                    self.paging.table_offset(va),
                ],
                4 << 20,
            ),
            Format::Pae => (
                &[
                    Format::pointer_offset(va),
                    self.paging.directory_offset(va),
                    self.paging.table_offset(va),
                ],
                2 << 20,
            ),
        };
        let mut table = cr3;
        for (left, &offset) in (0..offsets.len()).rev().zip(offsets) {
            let at = table.wrapping_add(offset);
            let Ok(entry) = self.memory.read_object::<u32>(at) else {
                return (steps, None);
            };
            steps.push(Step { at, entry });
            if !Pte(entry).has(Pte::PRESENT) {
                return (steps, None);
            }
            if left == 1 && entry & LARGE != 0 {
                let place = entry & !(large - 1) | va & (large - 1);
                return (steps, Some(place));
            }
            table = Pte(entry).frame();
        }
        (steps, Some(table | (va % PAGE_SIZE)))
    }

    /// Copies bytes at `va` out, up to where memory ends.
    pub(super) fn read(&self, va: u32, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        for n in 0..length {
            let at = u32::try_from(n).ok().and_then(|n| va.checked_add(n));
            let place = at.and_then(|at| self.walk(at).1);
            let byte = place.and_then(|p| self.memory.read_object(p).ok());
            match byte {
                Some(byte) => bytes.push(byte),
                None => break,
            }
        }
        bytes
    }

    /// The word at `va`.
    pub(super) fn word(&self, va: u32) -> Option<u32> {
        let bytes = self.read(va, 4);
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The addresses of code by which the Guest came to where it was, newest
    /// first, as frame pointers give them.
    pub(super) fn frames(&self) -> Vec<u32> {
        /// More are not shown.
        const MOST: usize = 32;
        let mut frames = Vec::new();
        let (Some(eip), Some(mut ebp)) =
            (self.register(Word::Eip), self.register(Word::Ebp))
        else {
            return frames;
        };
        frames.push(eip);
        while frames.len() < MOST {
            let (Some(next), Some(back)) =
                (self.word(ebp), self.word(ebp.wrapping_add(4)))
            else {
                break;
            };
            // Code without frame pointers has anything in ebp.
            if !self.is_behind_call(back) {
                break;
            }
            frames.push(back);
            // A stack grows downwards, so an older frame is above.
            if next <= ebp {
                break;
            }
            ebp = next;
        }
        frames
    }

    /// The words on the kernel's stack, from its top to the end of 8 KiB, which
    /// is the size of Linux's.
    pub(super) fn stack(&self) -> Vec<u32> {
        const SIZE: u32 = 8 << 10;
        let Some(top) = self.register(Word::Esp) else {
            return Vec::new();
        };
        let length = SIZE - top % SIZE;
        let bytes = self.read(top, length as usize);
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|word| u32::from_le_bytes(*word)).collect()
    }

    /// Whether the instruction before `va` is a call, so that `va` can be the
    /// address to which a function returns.
    pub(super) fn is_behind_call(&self, va: u32) -> bool {
        const LONGEST: u32 = 7;
        const DIRECT: usize = 5;
        let code = self.read(va.wrapping_sub(LONGEST), LONGEST as usize);
        let end = code.len();
        if end < LONGEST as usize {
            return false;
        }
        // By a register or by memory: the digit 2 is in the next byte.
        let indirect = [2, 3, 4, 6, 7].iter().any(|length| {
            let [opcode, operand] = [0, 1].map(|n| code[end - length + n]);
            opcode == 0xFF && operand >> 3 & 7 == 2
        });
        code[end - DIRECT] == 0xE8 || indirect
    }
}
