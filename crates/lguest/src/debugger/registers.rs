//! The registers as GDB has them, and the processor that they belong to.
//!
//! The description (`i386.xml`) names them; this file has them in its order.
//! The floating-point registers come as FXSAVE leaves them. It has a tag of one
//! bit for each, and GDB wants two bits, which say what kind of number it is.

use gdbstub::arch::{Arch, Registers as Layout};
use lg_wire::debug::{Frame, WORDS, WRITABLE, Word, Words};

/// A 32-bit x86 with SSE.
#[derive(Debug)]
pub(super) enum I386 {}

impl Arch for I386 {
    type Usize = u32;
    type Registers = Registers;
    type BreakpointKind = usize;
    type RegId = ();

    fn target_description_xml() -> Option<&'static str> {
        Some(include_str!("i386.xml"))
    }
}

/// The general registers and segments.
const GENERAL: usize = 16;

/// Where st0 begins, where the words behind st7 do, and where xmm0 does.
const ST: usize = GENERAL * 4;
const ST_SIZE: usize = 10;
const CONTROL: usize = ST + 8 * ST_SIZE;
const XMM: usize = CONTROL + 8 * 4;
const XMM_SIZE: usize = 8 * 16;
const MXCSR: usize = XMM + XMM_SIZE;

/// What the description has behind MXCSR.
const SYSTEM: usize = MXCSR + 4;
const SYSTEM_WORDS: [Word; 3] = [Word::FsBase, Word::GsBase, Word::Cr3];

/// Bytes of all of them.
const SIZE: usize = SYSTEM + SYSTEM_WORDS.len() * 4;

/// Places in an area of FXSAVE (Intel SDM volume 1, 10.5.1).
mod area {
    pub(super) const STATUS: usize = 2;
    pub(super) const TAGS: usize = 4;
    pub(super) const OPCODE: usize = 6;
    pub(super) const INSTRUCTION: usize = 8;
    pub(super) const DATA: usize = 16;
    pub(super) const MXCSR: usize = 24;
    pub(super) const ST: usize = 32;
    pub(super) const XMM: usize = 160;
}

/// Bytes of such an area.
pub(super) const AREA: usize = 512;

/// All registers, in the order of the description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    bytes: [u8; SIZE],
    /// Whether a register is not known, a bit for each word.
    unknown: u128,
}

const _: () = assert!(SIZE / 4 < 128);

impl Default for Registers {
    fn default() -> Self {
        Self {
            bytes: [0; SIZE],
            unknown: 0,
        }
    }
}

impl Layout for Registers {
    type ProgramCounter = u32;

    fn pc(&self) -> u32 {
        self.word(Word::Eip as usize * 4)
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for (n, byte) in self.bytes.into_iter().enumerate() {
            let known = self.unknown >> (n / 4) & 1 == 0;
            write_byte(known.then_some(byte));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.bytes = *bytes.first_chunk().ok_or(())?;
        Ok(())
    }
}

impl Registers {
    /// The registers of a Guest.
    pub(super) fn new(words: &Words, fpu: &[u8; AREA]) -> Self {
        let mut all = Self::default();
        for (n, &word) in words.iter().take(GENERAL).enumerate() {
            all.set(n * 4, &word.to_le_bytes());
        }
        for n in 0..8 {
            let from = area::ST + n * 16;
            all.set(ST + n * ST_SIZE, &fpu[from..from + ST_SIZE]);
        }
        let half = |at: usize| [fpu[at], fpu[at + 1], 0, 0];
        let status = u16::from_le_bytes([fpu[2], fpu[3]]);
        let tags = full_tags(fpu, usize::from(status >> 11 & 7));
        let [low, high] = tags.to_le_bytes();
        for (n, word) in [
            half(0),
            half(area::STATUS),
            [low, high, 0, 0],
            [0; 4],
            whole(fpu, area::INSTRUCTION),
            [0; 4],
            whole(fpu, area::DATA),
            half(area::OPCODE),
        ]
        .into_iter()
        .enumerate()
        {
            all.set(CONTROL + n * 4, &word);
        }
        all.set(XMM, &fpu[area::XMM..area::XMM + XMM_SIZE]);
        all.set(MXCSR, &whole(fpu, area::MXCSR));
        for (n, word) in SYSTEM_WORDS.into_iter().enumerate() {
            all.set(SYSTEM + n * 4, &words[word as usize].to_le_bytes());
        }
        all
    }

    /// Those of a program whose page directory is not loaded: where it was when
    /// it entered the kernel, as far as that is known.
    pub(super) fn of_program(directory: u32, frame: Option<Frame>) -> Self {
        let mut words = [None; WORDS];
        words[Word::Cr3 as usize] = Some(directory);
        if let Some([eip, cs, flags, esp, ss]) = frame {
            for (word, value) in [
                (Word::Eip, eip),
                (Word::Cs, cs),
                (Word::Eflags, flags),
                (Word::Esp, esp),
                (Word::Ss, ss),
            ] {
                words[word as usize] = Some(value);
            }
        }
        let all = words.map(Option::unwrap_or_default);
        let mut registers = Self::new(&all, &[0; AREA]);
        registers.unknown = u128::MAX;
        let general = words.iter().take(GENERAL).enumerate();
        let system = SYSTEM_WORDS.iter().enumerate();
        for (n, _) in general.filter(|(_, word)| word.is_some()) {
            registers.unknown &= !(1 << n);
        }
        for (n, &word) in system {
            if words[word as usize].is_some() {
                registers.unknown &= !(1 << (SYSTEM / 4 + n));
            }
        }
        registers
    }

    /// The general registers and eflags, as bytes.
    pub(super) fn writable(&self) -> Vec<u8> {
        self.bytes[..WRITABLE * 4].to_vec()
    }

    /// What cannot be written: segments, their bases, the page directory.
    pub(super) fn fixed(&self) -> [&[u8]; 2] {
        [&self.bytes[WRITABLE * 4..ST], &self.bytes[SYSTEM..]]
    }

    /// Puts the floating-point registers into an area of FXSAVE.
    pub(super) fn put_into(&self, fpu: &mut [u8; AREA]) {
        for n in 0..8 {
            let (from, to) = (ST + n * ST_SIZE, area::ST + n * 16);
            fpu[to..to + ST_SIZE]
                .copy_from_slice(&self.bytes[from..][..ST_SIZE]);
        }
        let control = |n: usize| CONTROL + n * 4;
        for (to, n) in [(0, 0), (area::STATUS, 1), (area::OPCODE, 7)] {
            fpu[to..to + 2].copy_from_slice(&self.bytes[control(n)..][..2]);
        }
        for (to, n) in [(area::INSTRUCTION, 4), (area::DATA, 6)] {
            fpu[to..to + 4].copy_from_slice(&self.bytes[control(n)..][..4]);
        }
        let tags = self.word(control(2));
        let used = (0..8).filter(|n| tags >> (2 * n) & 3 != EMPTY);
        fpu[area::TAGS] = used.fold(0, |all, n| all | 1_u8 << n);
        fpu[area::XMM..area::XMM + XMM_SIZE]
            .copy_from_slice(&self.bytes[XMM..MXCSR]);
        fpu[area::MXCSR..area::MXCSR + 4]
            .copy_from_slice(&self.bytes[MXCSR..SYSTEM]);
    }

    fn word(&self, at: usize) -> u32 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|n: usize| self.bytes[at + n]);
        u32::from_le_bytes([a, b, c, d])
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn whole(fpu: &[u8; AREA], at: usize) -> [u8; 4] {
    [0, 1, 2, 3].map(|n: usize| fpu[at + n])
}

/// The tag of a register without a number in it.
const EMPTY: u32 = 3;

/// The tags of two bits. The area has one bit for each physical register, and
/// the numbers in the order of the stack, whose top is register `top`.
fn full_tags(fpu: &[u8; AREA], top: usize) -> u16 {
    const ZERO: u16 = 1;
    const SPECIAL: u16 = 2;
    (0..8_usize).fold(0, |tags, register| {
        let at = area::ST + (register + 8 - top) % 8 * 16;
        let exponent = u16::from_le_bytes([fpu[at + 8], fpu[at + 9]]) & 0x7FFF;
        let is_zero = fpu[at..at + 8].iter().all(|&byte| byte == 0);
        let has_integer_bit = fpu[at + 7] & 0x80 != 0;
        let tag = match exponent {
            _ if fpu[area::TAGS] >> register & 1 == 0 => 3,
            0 if is_zero => ZERO,
            0 | 0x7FFF => SPECIAL,
            _ if has_integer_bit => 0,
            _ => SPECIAL,
        };
        tags | tag << (2 * register)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An area with pi on top of the stack, 0 below it, and other bytes.
    fn area() -> [u8; AREA] {
        let mut fpu = [0; AREA];
        for (n, byte) in fpu.iter_mut().enumerate().skip(area::XMM) {
            *byte = n.to_le_bytes()[0];
        }
        fpu[..2].copy_from_slice(&0x037F_u16.to_le_bytes());
        fpu[2..4].copy_from_slice(&(6_u16 << 11).to_le_bytes());
        fpu[area::TAGS] = 0b1100_0000;
        let pi = [0x35, 0xC2, 0x68, 0x21, 0xA2, 0xDA, 0x0F, 0xC9, 0x00, 0x40];
        fpu[area::ST..area::ST + 10].copy_from_slice(&pi);
        fpu[area::MXCSR..area::MXCSR + 4]
            .copy_from_slice(&0x1F80_u32.to_le_bytes());
        fpu
    }

    #[test]
    fn registers_are_where_the_description_has_them() {
        let mut words = Words::default();
        for (n, word) in (0..).zip(&mut words) {
            *word = 0x1000 + n;
        }
        let all = Registers::new(&words, &area());
        let bits: usize = include_str!("i386.xml")
            .split("bitsize=\"")
            .skip(1)
            .map(|rest| {
                rest[..rest.find('"').unwrap()].parse::<usize>().unwrap()
            })
            .sum();
        assert_eq!(bits, SIZE * 8);
        assert_eq!(all.pc(), 0x1008);
        assert_eq!(all.word(15 * 4), 0x100F, "gs");
        assert_eq!(&all.bytes[ST..ST + 2], &[0x35, 0xC2]);
        assert_eq!(all.word(CONTROL), 0x037F);
        assert_eq!(all.word(CONTROL + 8), 0x4FFF, "pi and 0, the rest empty");
        assert_eq!(all.bytes[XMM], 160);
        assert_eq!(all.word(MXCSR), 0x1F80);
        assert_eq!(all.word(SYSTEM + 8), 0x1000 + Word::Cr3 as u32);
    }

    #[test]
    fn what_was_shown_goes_back_where_it_was() {
        let before = area();
        let all = Registers::new(&Words::default(), &before);
        let mut after = [0; AREA];
        all.put_into(&mut after);
        let end = area::XMM + XMM_SIZE;
        assert_eq!(after[..end], before[..end]);
        let mut again = Registers::default();
        let mut bytes = Vec::new();
        all.gdb_serialize(|byte| bytes.extend(byte));
        assert_eq!(again.gdb_deserialize(&bytes), Ok(()));
        assert_eq!(again, all);
        assert_eq!(again.gdb_deserialize(&bytes[1..]), Err(()));
    }

    #[test]
    fn what_is_not_known_of_a_program_is_not_said() {
        let known = |frame| {
            let all = Registers::of_program(0x5000, frame);
            let mut bytes = Vec::new();
            all.gdb_serialize(|byte| bytes.push(byte));
            let words = bytes.chunks(4).enumerate();
            let known = words.filter(|(_, word)| word[0].is_some());
            let known = known.map(|(n, word)| {
                assert!(word.iter().all(Option::is_some));
                (n, all.word(n * 4))
            });
            known.collect::<Vec<_>>()
        };
        let cr3 = (SYSTEM / 4 + 2, 0x5000);
        assert_eq!(known(None), [cr3]);
        let frame = Some([0x0804_8000, 0x73, 0x202, 0xBFFF_0000, 0x7B]);
        let words = [
            (4, 0xBFFF_0000),
            (8, 0x0804_8000),
            (9, 0x202),
            (10, 0x73),
            (11, 0x7B),
            cr3,
        ];
        assert_eq!(known(frame), words);
    }
}
