//! Random pieces of code in user mode, against memory of the kernel.
//!
//! Half of all pointers in registers and in the code point to an unused part of
//! the kernel's memory. So code that can write there does so soon. `seed` and
//! `count` say which pieces; `kind=plain` leaves out what the default isolation
//! does not promise to stop: other segments than ds, es and ss as the kernel
//! set them, loads of these, and far transfers.

#![expect(unsafe_code, reason = "loads a segment register")]

use crate::lab::hypercall;
use crate::lab::memory::{page, peek, poke, va};
use crate::lab::run::{User, put_user};
use crate::lab::space::USER_DATA;
use crate::lab::trap::{self, Next};
use core::arch::asm;
use lg_abi::hypercall::Hypercall;
use lg_abi::shared::IF;
use lg_guest::boot::Boot;
use lg_guest::println;

/// Bytes of a piece.
const PIECE: usize = 24;

/// The contents of the unused memory. As code, `int3`.
const UNTOUCHED: u32 = 0xCCCC_CCCC;

/// Bytes of it.
const CANARY: u32 = 0x10_0000;

/// After this time without a trap, a piece is in a loop: nanoseconds.
const LONG_ENOUGH: u32 = 300_000;

/// So many pieces run between two checks of that memory.
const BATCH: u32 = 500;

/// Opcodes that write to memory.
const WRITES: [u8; 16] = [
    0x89, 0x88, 0xA3, 0xAA, 0xAB, 0xA4, 0xA5, 0xC7, 0xFE, 0x01, 0x31, 0x87,
    0x50, 0x60, 0x8F, 0xF3,
];

/// Prefixes of other segments, and a load.
const SPECIAL: [u8; 4] = [0x2E, 0x64, 0x65, 0x8E];

pub(crate) fn run(boot: &'static Boot) {
    let number =
        |name, usual| crate::number(boot.arguments, name).unwrap_or(usual);
    let mut random = Random(number("seed", 1).max(1));
    let (from, count) = (number("from", 0), number("count", 1000));
    let plain = boot.arguments.value("kind") == Some("plain");
    let canary = boot.memory / 2;
    for at in (canary..canary + CANARY).step_by(4) {
        poke(at, UNTOUCHED);
    }
    trap::handle(|_| Next::GiveUp);
    load_tls();
    for n in 0..count {
        let code = piece(&mut random, canary, plain);
        let start = start(&mut random, canary);
        if n < from {
            continue;
        }
        if n % BATCH == 0 {
            println!("@{n}");
            check(canary, n);
        }
        put_user(&code);
        hypercall(Hypercall::SetClockevent, LONG_ENOUGH, 0, 0);
        // SAFETY: the kernel does not use gs.
        unsafe { asm!("mov {0:e}, %gs", in(reg) 0x33, options(att_syntax)) };
        start.run();
        hypercall(Hypercall::SetClockevent, 0, 0, 0);
    }
    check(canary, count);
    crate::survived(count);
}

/// Panics if user code has written to the kernel's memory.
fn check(canary: u32, n: u32) {
    for at in (canary..canary + CANARY).step_by(4) {
        let word = peek(at);
        assert!(
            word == UNTOUCHED,
            "the kernel's word at {at:#x} was {word:#x} before piece {n}"
        );
    }
}

/// The base of thread-local segments. It is small, so that pointers still point
/// to the kernel's memory.
const BASE: u32 = 0x8000;

/// Gives user mode a thread-local segment of 4 GiB, as C libraries have in gs.
fn load_tls() {
    let table = page();
    for n in 0..3 {
        poke(table + n * 8, (BASE << 16) | 0xFFFF);
        poke(table + n * 8 + 4, 0x00CF_F200);
    }
    hypercall(Hypercall::LoadTls, table, 0, 0);
}

/// Numbers that are the same in each run (xorshift).
pub(crate) struct Random(u32);

impl Random {
    pub(crate) fn new(seed: u32) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        (self.next() >> 8) % limit
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[1]
    }

    fn one_of(&mut self, bytes: &[u8]) -> u8 {
        bytes[usize::from(self.byte()) % bytes.len()]
    }

    /// An address: half of them the kernel's.
    fn address(&mut self, canary: u32) -> u32 {
        let at = self.next();
        match (self.next() >> 8) & 3 {
            0 | 1 => va(canary + at % CANARY),
            2 => USER_DATA + at % 0x1000,
            _ => at,
        }
    }
}

fn piece(random: &mut Random, canary: u32, plain: bool) -> [u8; PIECE + 2] {
    // int $0x80 ends it.
    let mut code = [0x80; PIECE + 2];
    code[PIECE] = 0xCD;
    let mut at = 0;
    while at < PIECE {
        match random.byte() & 7 {
            0 if at + 4 <= PIECE => {
                let address = random.address(canary).to_le_bytes();
                code[at..at + 4].copy_from_slice(&address);
                at += 4;
            }
            1..=3 => {
                code[at] = random.one_of(&WRITES);
                at += 1;
            }
            4 if random.byte() & 3 == 0 => {
                code[at] = random.one_of(&SPECIAL);
                at += 1;
            }
            _ => {
                code[at] = random.byte();
                at += 1;
            }
        }
    }
    if plain {
        for at in 0..PIECE {
            if is_special(code[at], code[at + 1]) {
                code[at] = 0x90;
            }
        }
    }
    code
}

/// Whether these bytes may begin an instruction that `kind=plain` leaves out: a
/// prefix of another segment, a load of a segment register, a far transfer.
fn is_special(first: u8, second: u8) -> bool {
    match first {
        0x2E | 0x64 | 0x65 => true,
        0x07 | 0x17 | 0x1F | 0x8E | 0xC4 | 0xC5 => true,
        0x9A | 0xCA | 0xCB | 0xCF | 0xEA => true,
        0x0F => matches!(second, 0xA1 | 0xA9 | 0xB2 | 0xB4 | 0xB5),
        0xFF => matches!((second >> 3) & 7, 3 | 5),
        _ => false,
    }
}

fn start(random: &mut Random, canary: u32) -> User {
    let mut start = User::new();
    start.eflags |= IF;
    for register in [
        &mut start.eax,
        &mut start.ebx,
        &mut start.ecx,
        &mut start.edx,
        &mut start.esi,
        &mut start.edi,
        &mut start.ebp,
    ] {
        *register = random.address(canary);
    }
    if random.byte() & 1 == 0 {
        start.esp = random.address(canary);
    }
    start
}
