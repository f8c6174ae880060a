//! Questions about user mode: registers that must be kept, and the FPU.
//!
//! The registers of a program must be the same when it goes on, regardless of
//! what happened meanwhile.

use crate::lab::memory::{self, peek, poke, store};
use crate::lab::run::{self, User, put_user};
use crate::lab::space::{
    KERNEL_DATA, KERNEL_PAGE, Space, USER_CODE, USER_DATA, USER_PAGE, first,
};
use crate::lab::trap::{self, Next};
use crate::lab::{code, hypercall, kernel, page, user};
use lg_abi::hypercall::Hypercall;
use lg_abi::page::PAGE_SIZE;
use lg_abi::shared::IF;
use lg_guest::println;

const TS: u32 = 8;

/// Does TS give user mode trap 7 before its next use of the FPU, and no trap
/// once it is cleared?
pub(crate) fn ts_of_a_user() {
    let code = code!("nop", "fld1", "fstp %st", "int $0x80");
    hypercall(Hypercall::Ts, TS, 0, 0);
    let seen = user(code);
    println!(
        "trap {}, before the FPU instruction: {}",
        seen.trapped.vector,
        seen.eip() <= 0x804_8001
    );
    let seen = user(code);
    println!("still trap {}", seen.trapped.vector);
    hypercall(Hypercall::Ts, 0, 0, 0);
    println!("{}", user(code));
}

/// Does the Guest get trap 7 only if TS is set and there is a gate, and does
/// user mode run without a gate?
pub(crate) fn ts_without_gate() {
    trap::remove_gate(7);
    hypercall(Hypercall::Ts, TS, 0, 0);
    println!("{}", user(code!("fld1", "fstp %st", "int $0x80")));
}

/// Does trap 7 come before an interrupt's handler returns, so that the FPU is
/// not used in between?
pub(crate) fn ts_frame() {
    hypercall(Hypercall::Ts, TS, 0, 0);
    println!("{}", user(code!("fld1")));
}

/// A state for fxrstor that chance does not produce.
fn pattern(seed: u8) -> [u8; 512] {
    let mut image = [0; 512];
    (image[0], image[1]) = (0x7F, 0x03); // all masked
    image[4] = 0xFF; // all eight in use
    (image[24], image[25]) = (0x80, 0x3F); // masked, round down
    for n in 0..8 {
        for byte in 0..10 {
            image[32 + n * 16 + byte] = seed ^ (n * 16 + byte) as u8;
        }
        // A valid number: the top bit of the fraction is set.
        image[32 + n * 16 + 7] |= 0x80;
        for byte in 0..16 {
            image[160 + n * 16 + byte] =
                seed.wrapping_mul(3) ^ (n * 16 + byte) as u8;
        }
    }
    image
}

/// The parts of a state that must be kept: control words, tags, all registers.
fn same(a: &[u8], b: &[u8]) -> bool {
    a[..5] == b[..5] && a[24..28] == b[24..28] && a[32..288] == b[32..288]
}

/// Does the Host keep the x87 and SSE registers at page faults, `in`,
/// hypercalls, and switches of page directories?
pub(crate) fn vectors_kept_by_the_host() {
    let other = Space::new();
    first().set(KERNEL_DATA, page() | KERNEL_PAGE & !0x60);
    assert_eq!((first().directory, other.directory), (0x2_0000, 0x2_8000));
    let image = pattern(0x5A);
    memory::write(memory::linear(0xC000_0000) + 0x6_0000, &image);
    kernel(code!(
        "fxrstor 0xC0060000",
        "movl $1, 0xE0001000", // a page that was not used yet
        "in $0x60, %al",
        "mov $0, %eax",
        "int $0x1f",
        "mov $4, %eax", // NEW_PGTABLE
        "mov $0x28000, %edx",
        "int $0x1f",
        "in $0x60, %al",
        "mov $4, %eax",
        "mov $0x20000, %edx",
        "int $0x1f",
        "fxsave 0xC0061000"
    ));
    println!("{}", same(&image, memory::bytes(0x6_1000, 512)));
}

/// Are the x87 and SSE registers kept at traps that the kernel handles?
pub(crate) fn vectors_kept_over_traps() {
    trap::handle(|seen| {
        if seen.trapped.vector != 6 {
            return Next::GiveUp;
        }
        seen.set_eip(seen.eip() + 2);
        Next::GoOn
    });
    let image = pattern(0xA5);
    run::start_with(&image);
    user(code!("mov $100, %ecx", "1: ud2", "loop 1b", "int $0x80"));
    println!("{}", same(&image, trap::vectors()));
}

/// Do two programs keep all their registers, x87 and SSE among them, while a
/// timer takes the processor from one and gives it to the other?
pub(crate) fn two_programs() {
    let spaces = [first(), Space::new()];
    trap::handle(|_| Next::GiveUp);
    // It counts in its own memory, and changes no register.
    put_user(code!("1: incl 0x8049000", "jmp 1b"));
    let mut programs = [0, 1].map(|n: u32| {
        let mut start = User::new();
        start.eflags |= IF;
        (start.eax, start.ebx) = (0x1111 + n, 0x2222 + n);
        (start.ecx, start.edx) = (0x3333 + n, 0x4444 + n);
        (start.esi, start.edi) = (0x5555 + n, 0x6666 + n);
        start.ebp = 0x7777 + n;
        (start, pattern(0x10 + n as u8))
    });
    let before = programs.map(|(start, _)| start);
    let mut wrong = 0;
    for turn in 0..60 {
        let n = turn % 2;
        let (start, vectors) = &mut programs[n];
        spaces[n].activate();
        run::start_with(vectors);
        hypercall(Hypercall::SetClockevent, 300_000, 0, 0);
        let seen = start.run();
        if seen.trapped.vector != 32 {
            println!("{seen}");
        }
        *start = User::after(&seen);
        wrong += u32::from(!same(vectors, trap::vectors()));
        let was = &before[n];
        let same = start.eax == was.eax
            && start.ebx == was.ebx
            && start.ecx == was.ecx
            && start.edx == was.edx
            && start.esi == was.esi
            && start.edi == was.edi
            && start.ebp == was.ebp
            && start.esp == was.esp
            && start.ss == was.ss
            && start.cs == was.cs;
        wrong += u32::from(!same);
        *vectors = *trap::vectors();
    }
    println!("wrong: {wrong}");
    for space in spaces {
        space.activate();
        println!("progress: {}", memory::load(USER_DATA) > 1000);
    }
}

/// Does `iret` restore all registers and flags of user mode?
pub(crate) fn registers_of_a_user() {
    put_user(code!("int $0x80"));
    let start = User {
        eflags: 0xCD7 & !0x100,
        eax: 0xA1,
        ebx: 0xB2,
        ecx: 0xC3,
        edx: 0xD4,
        esi: 0xE5,
        edi: 0xF6,
        ebp: 0x17,
        esp: 0xAFFF_FF00,
        ..User::new()
    };
    let seen = start.run();
    let r = seen.trapped;
    println!("{seen}");
    println!(
        "{:x} {:x} {:x} {:x} {:x} {:x} {:x}",
        r.eax, r.ebx, r.ecx, r.edx, r.esi, r.edi, r.ebp
    );
}

/// Do many system calls return to the right address?
pub(crate) fn many_system_calls() {
    trap::handle(|seen| {
        if seen.trapped.vector != 0x80 || seen.trapped.eax == 0 {
            return Next::GiveUp;
        }
        seen.trapped.ebx += seen.trapped.eax;
        Next::GoOn
    });
    let seen = user(code!(
        "mov $10000, %ecx",
        "1: mov $3, %eax",
        "int $0x80",
        "loop 1b",
        "xor %eax, %eax",
        "int $0x80"
    ));
    println!("{}", seen.trapped.ebx);
}

/// The address at which user mode may write to the page of its code.
const CODE_AS_DATA: u32 = USER_DATA + PAGE_SIZE;

/// The offset in that page of the code that writes.
const WRITER: u32 = 0x200;

/// Writes a program that makes forty system calls with eax = 1 and then one
/// with eax = 3, and after it one that writes %bl to %ecx. Returns the offset
/// of the byte that is 3.
fn put_calls_and_writer() -> u32 {
    let calls = code!(
        ".skip 64, 0x90",
        "mov $40, %ecx",
        "1: mov $1, %eax",
        "int $0x80",
        "loop 1b",
        "mov $3, %eax",
        "int $0x80"
    );
    trap::handle(|seen| {
        let goes_on = seen.trapped.vector == 0x80 && seen.trapped.eax == 1;
        if goes_on { Next::GoOn } else { Next::GiveUp }
    });
    put_user(calls);
    memory::write(code_page() + WRITER, code!("mov %bl, (%ecx)", "int $0x80"));
    calls.len() as u32 - 6
}

/// The page of user mode's code.
fn code_page() -> u32 {
    peek(first().pte(USER_CODE)) & !(PAGE_SIZE - 1)
}

/// Writes `value` at `at` in the page of the code, in user mode.
fn write_code(at: u32, value: u32) {
    let mut writer = User::new();
    writer.eip += WRITER;
    (writer.ebx, writer.ecx) = (value, CODE_AS_DATA + at);
    writer.run();
}

/// Does user mode execute new code that it wrote by another address, even if
/// the old code was executed often?
pub(crate) fn code_written_by_another_address() {
    let at = put_calls_and_writer();
    first().set_pte(CODE_AS_DATA, code_page() | USER_PAGE);
    for value in 5..8 {
        println!("{}", User::new().run().trapped.eax);
        write_code(at, value);
    }
    println!("{}", User::new().run().trapped.eax);
}

/// Does user mode execute new code that was written in another page directory?
pub(crate) fn code_written_in_another_directory() {
    let at = put_calls_and_writer();
    let other = Space::new();
    other.set(CODE_AS_DATA, code_page() | USER_PAGE);
    for value in 5..8 {
        println!("{}", User::new().run().trapped.eax);
        other.activate();
        write_code(at, value);
        first().activate();
    }
    println!("{}", User::new().run().trapped.eax);
}

/// Does an instruction keep its meaning after its middle was executed as a
/// system call many times?
pub(crate) fn code_entered_in_its_middle() {
    put_user(code!(
        ".skip 64, 0x90",
        "mov $0x0B0F80CD, %eax", // int $0x80; ud2
        "int $0x80"
    ));
    let mut start = User::new();
    for _ in 0..20 {
        start.eip = USER_CODE + 65;
        start.eax = start.run().trapped.vector;
    }
    start.eip = USER_CODE + 64;
    println!("{:#x} and {:#x}", start.eax, start.run().trapped.eax);
}

/// May the kernel make a system call of its own, as Linux does to start its
/// first program?
pub(crate) fn system_call_of_the_kernel() {
    trap::handle(|seen| {
        if seen.trapped.vector != 0x80 {
            return Next::GiveUp;
        }
        seen.trapped.eax = 7;
        Next::GoOn
    });
    let seen = kernel(code!("int $0x80", "mov %eax, %ebx", "ud2"));
    println!("{}", seen.expect("ud2 traps").trapped.ebx);
}

/// Does user mode with an endless stack fault at the page below it?
pub(crate) fn stack_overflow() {
    println!("{}", user(code!("1: push %eax", "jmp 1b")));
}

/// Does a program continue correctly after a fault on a page that its kernel
/// then maps?
pub(crate) fn demand_paging() {
    trap::handle(|seen| {
        if seen.trapped.vector != 14 {
            return Next::GiveUp;
        }
        let frame = page();
        poke(frame, 1000);
        first()
            .set_pte(seen.cr2 & !0xFFF, frame | crate::lab::space::USER_PAGE);
        Next::GoOn
    });
    let seen = user(code!(
        "mov $0x10000000, %esi",
        "mov $8, %ecx",
        "1: add (%esi), %eax",
        "incl (%esi)",
        "add (%esi), %eax",
        "add $4096, %esi",
        "loop 1b",
        "int $0x80"
    ));
    println!("{}, {} traps", seen.trapped.eax, trap::count());
    store(USER_DATA, 0);
}
