//! Questions about user pages above the kernel's first address.
//!
//! A kernel may have such pages: Linux with COMPAT_VDSO has its entry page just
//! below the Switcher. The page tables decide whether user mode may use a page,
//! at any address.

use crate::lab::memory::{peek, poke, store, write};
use crate::lab::run::{User, put_user};
use crate::lab::space::{KERNEL_PAGE, USER_DATA, USER_PAGE, first};
use crate::lab::trap::{self, Next};
use crate::lab::{code, page, user};
use crate::segments::load_tls;
use lg_abi::page::Pte;
use lg_guest::println;

/// The address of Linux's entry page, and two addresses far from others.
const ENTRY_PAGE: u32 = 0xFFBF_E000;
const HIGH: u32 = 0xE040_0000;
const NEXT: u32 = HIGH + 0x1000;

/// Maps a user page at `at`, with `code` in it. Returns its physical address.
fn give(at: u32, code: &[u8]) -> u32 {
    let frame = page();
    write(frame, code);
    first().set_pte(at, frame | USER_PAGE);
    frame
}

/// Maps it for reading only.
fn give_to_read(at: u32) -> u32 {
    let frame = give(at, &[]);
    first().set_pte(at, frame | USER_PAGE & !Pte::WRITE);
    frame
}

/// May user mode read and write a user page above the kernel's first address,
/// by every kind of operand, and does its kernel see what it wrote?
pub(crate) fn high_page_of_a_user() {
    let frame = give(HIGH, &[1, 2, 3, 4]);
    for code in [
        code!("mov 0xE0400000, %eax", "int $0x80"),
        code!("mov $5, %eax", "add %eax, 0xE0400000", "int $0x80"),
        code!(
            "mov $0xE0400004, %ebx",
            "movl $7, (%ebx)",
            "incl (%ebx)",
            "mov (%ebx), %eax",
            "int $0x80"
        ),
        code!(
            "mov $0xE0400100, %esp",
            "push $9",
            "pushl 0xE0400004",
            "pop %eax",
            "pop %ebx",
            "int $0x80"
        ),
        code!(
            "mov $0xE0400100, %esp",
            "pushf",
            "pop %eax",
            "and $0x100, %eax", // TF is clear
            "int $0x80"
        ),
        code!(
            "mov $0xE0400000, %esi",
            "mov $0xE0400200, %edi",
            "mov $200, %ecx",
            "rep movsb",
            "mov %ecx, %eax",
            "int $0x80"
        ),
        code!("movups 0xE0400000, %xmm1", "movd %xmm1, %eax", "int $0x80"),
    ] {
        let seen = user(code);
        let r = seen.trapped;
        println!("{:x} {:x}, trap {}", r.eax, r.ebx, r.vector);
    }
    println!("{:x} {:x}", peek(frame), peek(frame + 0x200));
}

/// Are the neighbours of a high user page still the kernel's, is a write to a
/// read-only one refused, and is the page gone after the kernel unmaps it?
pub(crate) fn high_page_and_its_neighbours() {
    let frame = give_to_read(HIGH);
    first().set(NEXT, page() | KERNEL_PAGE);
    println!("{}", user(code!("mov 0xE0400000, %eax", "int $0x80")));
    println!("{}", user(code!("mov %eax, 0xE0400000", "int $0x80")));
    println!("{}", user(code!("mov 0xE0401000, %eax", "int $0x80")));
    println!("{}", user(code!("mov %eax, 0xE0401000", "int $0x80")));
    println!("{}", user(code!("mov 0xE0402000, %eax", "int $0x80")));
    // From one page to the other, by a single instruction.
    println!(
        "{}",
        user(code!(
            "mov $0xE0400000, %esi",
            "mov $0xE0401000, %edi",
            "movsb",
            "int $0x80"
        ))
    );
    first().set_pte(HIGH, frame | KERNEL_PAGE);
    println!("{}", user(code!("mov 0xE0400000, %eax", "int $0x80")));
    first().set_pte(HIGH, 0);
    println!("{}", user(code!("mov 0xE0400000, %eax", "int $0x80")));
}

/// Can user mode run code in a high page, from its first instruction on or by a
/// call, and return?
pub(crate) fn high_code_of_a_user() {
    give(HIGH, code!("add $2, %eax", "ret"));
    put_user(code!("int $0x80"));
    give(
        NEXT,
        code!("mov $3, %eax", "mov $0x8048000, %ebx", "jmp *%ebx"),
    );
    let mut start = User::new();
    start.eip = NEXT;
    let seen = start.run();
    println!("{}, {seen}", seen.trapped.eax);
    let seen = user(code!(
        "xor %eax, %eax",
        "mov $1000, %ecx",
        "mov $0xE0400000, %ebx",
        "1: call *%ebx",
        "loop 1b",
        "int $0x80"
    ));
    println!("{}, {seen}", seen.trapped.eax);
    // A trap there is reported with its address there.
    give(HIGH, code!("int3"));
    start.eip = HIGH;
    println!("{}", start.run());
    give(HIGH, code!("mov 0xC0100000, %eax"));
    println!("{}", start.run());
}

/// Do system calls by an entry page just below the Switcher return to the right
/// address?
pub(crate) fn high_entry_page() {
    let frame = give(ENTRY_PAGE, b"\x7fELF");
    poke(frame + 24, ENTRY_PAGE + 0x400);
    for at in (0x400..0x420).step_by(4) {
        poke(frame + at, 0x9090_9090);
    }
    write(frame + 0x400, code!("int $0x80", "ret"));
    write(
        frame + 0x420,
        code!("pop %eax", "mov $119, %eax", "int $0x80"),
    );
    first().set_pte(ENTRY_PAGE, frame | USER_PAGE & !Pte::WRITE);
    trap::handle(|seen| {
        if seen.trapped.vector != 0x80 || seen.trapped.eax == 0 {
            return Next::GiveUp;
        }
        seen.trapped.ebx += seen.trapped.eax;
        Next::GoOn
    });
    let seen = user(code!(
        "mov 0xFFBFE018, %esi", // the address of the entry, from the page
        "mov $1000, %ecx",
        "1: mov $3, %eax",
        "call *%esi",
        "loop 1b",
        "xor %eax, %eax",
        "call *%esi"
    ));
    println!("{}, trap {}", seen.trapped.ebx, seen.trapped.vector);
    // As C libraries call it.
    store(USER_DATA + 16, ENTRY_PAGE + 0x400);
    load_tls([USER_DATA, 0, 0]);
    let seen = user(code!(
        "mov $0x33, %eax",
        "mov %eax, %gs",
        "mov $1000, %ecx",
        "1: mov $3, %eax",
        "call *%gs:16",
        "loop 1b",
        "xor %eax, %eax",
        "call *%gs:16"
    ));
    println!("{}, trap {}", seen.trapped.ebx, seen.trapped.vector);
}

/// Does a program read the right values from a high page for a long time, also
/// if its kernel steps through it?
pub(crate) fn high_page_step_by_step() {
    let frame = give(HIGH, &[]);
    for n in 0..1024 {
        poke(frame + n * 4, n);
    }
    let sum = code!(
        "xor %eax, %eax",
        "mov $0xE0400000, %esi",
        "mov $1024, %ecx",
        "1: add (%esi), %eax",
        "add $4, %esi",
        "loop 1b",
        "int $0x80"
    );
    println!("{}", user(sum).trapped.eax);
    trap::handle(|seen| {
        if seen.trapped.vector == 1 {
            return Next::GoOn;
        }
        Next::GiveUp
    });
    put_user(code!(
        "mov 0xE0400004, %eax",
        "add 0xE0400008, %eax",
        "nop",
        "int $0x80"
    ));
    let mut start = User::new();
    start.eflags |= 0x100;
    let seen = start.run();
    let steps = trap::count_of(1);
    println!("{}, {steps} steps, {seen}", seen.trapped.eax);
}
