//! Programs that write to their code by every mapping, and execute it.
//!
//! Two pages of code are mapped at a few addresses of three address spaces, to
//! read or to write, and the mappings change. Programs and their kernel write
//! to the code. The program that executes it next must execute the last code
//! that was written, at any of its addresses.

use crate::lab::code;
use crate::lab::memory::{self, page};
use crate::lab::run::{User, put_user};
use crate::lab::space::{Space, USER_DATA, USER_PAGE, first};
use crate::lab::trap::{self, Next};
use crate::random::Random;
use lg_abi::hypercall::Hypercall;
use lg_abi::page::{PAGE_SIZE, Pte};
use lg_guest::boot::Boot;
use lg_guest::println;

/// The first address at which code is mapped.
const CODE: u32 = USER_DATA + PAGE_SIZE;

/// The offset in its page at which it begins.
const START: u32 = 64;

/// An address space, and its mappings: frame, and whether it is writable.
struct Program {
    space: Space,
    mapped: [(usize, bool); 4],
}

/// One of the two pages.
struct Code {
    frame: u32,
    /// The last bytes written to it.
    says: u32,
}

pub(crate) fn run(boot: &'static Boot) {
    let number =
        |name, usual| crate::number(boot.arguments, name).unwrap_or(usual);
    let (from, steps) = (number("from", 0), number("steps", 1000));
    let mut random = Random::new(number("seed", 1));
    trap::handle(|seen| {
        let goes_on = seen.trapped.vector == 0x80 && seen.trapped.eax == 1;
        if goes_on { Next::GoOn } else { Next::GiveUp }
    });
    // Writes %bl to %ecx.
    put_user(code!("mov %bl, (%ecx)", "int $0x80"));
    let calls = code!(
        ".skip 64, 0x90",
        "1: mov $1, %eax",
        "int $0x80",
        "loop 1b",
        "mov $3, %eax",
        "int $0x80"
    );
    let says_at = calls.len() as u32 - 6;
    let mut codes = [0; 2].map(|_| Code {
        frame: page(),
        says: 3,
    });
    for code in &codes {
        memory::write(code.frame, calls);
    }
    let mut programs = [first(), Space::new(), Space::new()].map(|space| {
        let mapped = [(0, false); 4];
        Program { space, mapped }
    });
    for program in &mut programs {
        for slot in 0..4 {
            map(program, slot, (slot % 2, slot > 1), &codes, slot as u32);
        }
    }
    let mut current = 0;
    for n in from..from + steps {
        if n % 100 == 0 {
            println!("@{n}");
        }
        let slot = random.below(4) as usize;
        let value = 4 + random.below(100);
        let program = &mut programs[current];
        let (code, writable) = program.mapped[slot];
        let at = CODE + slot as u32 * PAGE_SIZE;
        match random.below(8) {
            0 => {
                current = random.below(3) as usize;
                programs[current].space.activate();
            }
            1 => {
                let of = &mut programs[random.below(3) as usize];
                let new = (random.below(2) as usize, random.below(2) != 0);
                map(of, slot, new, &codes, random.below(3));
            }
            2 | 3 if writable => {
                let mut writer = User::new();
                (writer.ebx, writer.ecx) = (value, at + says_at);
                writer.run();
                codes[code].says = value;
            }
            4 => {
                memory::write(codes[code].frame + says_at, &[value as u8]);
                codes[code].says = value;
            }
            _ => {
                let mut program = User::new();
                (program.eip, program.ecx) = (at + START, 1 + random.below(40));
                let says = program.run().trapped.eax;
                assert_eq!(says, codes[code].says, "step {n}");
            }
        }
    }
    crate::survived(steps);
}

/// Maps one of the pages, and reports that in one of three ways.
fn map(
    program: &mut Program,
    slot: usize,
    (code, writable): (usize, bool),
    codes: &[Code; 2],
    tell: u32,
) {
    let at = CODE + slot as u32 * PAGE_SIZE;
    let rights = if writable {
        USER_PAGE
    } else {
        USER_PAGE & !(Pte::WRITE | Pte::DIRTY)
    };
    let entry = codes[code].frame | rights;
    if tell == 0 {
        program.space.set(at, entry);
        crate::lab::hypercall(Hypercall::FlushTlb, 1, 0, 0);
    } else {
        program.space.set_pte(at, entry);
    }
    program.mapped[slot] = (code, writable);
}
