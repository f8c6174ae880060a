//! Questions about a kernel's own segments: per-cpu data, and a canary.
//!
//! A kernel for several processors has its data in the segment of fs, and one
//! with a stack protector has its canary in that of gs. They load these
//! segments at each entry, and use them all the time.

use crate::lab::calls::number;
use crate::lab::memory::{page, peek, poke, va};
use crate::lab::space::{Space, first};
use crate::lab::trap::{self, Next};
use crate::lab::{call, code, hypercall, kernel, user};
use lg_abi::call::CallName;
use lg_abi::hypercall::Hypercall;
use lg_abi::segment::{GDT_ENTRIES, GDT_PER_CPU, GDT_STACK_CANARY};
use lg_guest::interface::has_virtio;
use lg_guest::println;

/// The high word of a descriptor: data of the kernel, as much as the limit says
/// in pages.
const PER_CPU: u32 = 0x008F_9200;
/// So many bytes of it, which cannot be written.
const CANARY: u32 = 0x0040_9000;

/// The descriptors that every kernel has, and these two.
fn table(per_cpu: [u32; 2], canary: [u32; 2]) -> u32 {
    const FLAT: u32 = 0x0000_FFFF;
    let table = page();
    let set = |index: u32, [low, high]: [u32; 2]| {
        poke(table + index * 8, low);
        poke(table + index * 8 + 4, high);
    };
    for (index, high) in [
        (12, 0x00CF_9A00),
        (13, 0x00CF_9200),
        (14, 0x00CF_FA00),
        (15, 0x00CF_F200),
    ] {
        set(index, [FLAT, high]);
    }
    set(GDT_PER_CPU, per_cpu);
    set(GDT_STACK_CANARY, canary);
    table
}

/// A descriptor with this base and high word, and the low part of its limit.
fn descriptor(base: u32, kind: u32, limit: u32) -> [u32; 2] {
    let high = kind | (base >> 16) & 0xFF | base & 0xFF00_0000;
    [(base << 16) | limit, high]
}

/// Per-cpu data at one address, a canary at another: a table with both.
fn both(per_cpu: u32, canary: u32) -> u32 {
    let per_cpu = descriptor(va(per_cpu), PER_CPU, 0xFFFF);
    let canary = descriptor(va(canary), CANARY, 0x18);
    table(per_cpu, canary)
}

fn load_table(table: u32) {
    if !has_virtio() {
        hypercall(Hypercall::LoadGdt, table, GDT_ENTRIES, 0);
        return;
    }
    let load = number(CallName::LoadGdtEntry);
    for index in [12, 13, 14, 15, GDT_PER_CPU, GDT_STACK_CANARY] {
        let at = table + index * 8;
        call(load, index, peek(at), peek(at + 4));
    }
}

/// Does a kernel find its data by fs, and its canary by gs, and do both
/// segments have the limits and rights of their descriptors?
pub(crate) fn own_segments() {
    let (data, canary) = (page(), page());
    poke(data + 8, 80);
    poke(canary + 0x14, 140);
    load_table(both(data, canary));
    let seen = kernel(code!(
        "mov $0xd8, %eax",
        "mov %eax, %fs",
        "mov $0xe0, %eax",
        "mov %eax, %gs",
        "mov %fs:8, %ebx",
        "mov %gs:0x14, %ecx",
        "movl $7, %fs:12",
        "mov $16, %edx",
        "negl %edx",
        "mov %fs:24(%edx), %edx",
        "ud2"
    ));
    let seen = seen.expect("ud2");
    let r = &seen.trapped;
    println!("{} {} {}, {}", r.ebx, r.ecx, r.edx, peek(data + 12));
    for code in [
        code!("mov %gs:0x15, %eax", "ud2"),
        code!("mov %gs:0x18, %eax"),
        code!("movl $0, %gs:0"),
    ] {
        println!("{}", kernel(code).expect("a trap"));
    }
}

/// Does a new base take effect at the next load, and not before?
pub(crate) fn own_segments_replaced() {
    let (first, second) = (page(), page());
    poke(first + 8, 1);
    poke(first + 0x14, 10);
    poke(second + 8, 2);
    poke(second + 0x14, 20);
    let load = code!(
        "mov $0xd8, %eax",
        "mov %eax, %fs",
        "mov $0xe0, %eax",
        "mov %eax, %gs",
        "mov %fs:8, %ebx",
        "add %gs:0x14, %ebx",
        "ud2"
    );
    let read = code!("mov %fs:8, %ebx", "add %gs:0x14, %ebx", "ud2");
    let print = |code| {
        let seen = kernel(code).expect("ud2");
        println!("{}", seen.trapped.ebx);
    };
    load_table(both(first, first));
    print(load);
    load_table(both(second, second));
    print(read);
    print(load);
    load_table(both(first, second));
    print(load);
}

/// Does code that loads the kernel's own segments by a constant get the present
/// descriptors, also if it is executed often?
pub(crate) fn own_segments_in_a_loop() {
    let (data, tables) = (page(), page());
    for n in 1..5 {
        let at = data + 256 * n;
        poke(at + 8, n);
        // The first one is loaded below, the others by the code.
        poke(tables + 0x1C - 4 * n, both(at, tables));
    }
    load_table(peek(tables + 0x18));
    let seen = kernel(code!(
        "mov $0xe0, %eax",
        "mov %eax, %gs",
        "mov $3, %esi",
        "1: mov $0xd8, %edx",
        "mov %edx, %fs",
        "imul $10, %edi",
        "add %fs:8, %edi",
        "mov %gs:8(,%esi,4), %edx",
        "mov $32, %ebx",
        "mov $3, %eax", // LOAD_GDT
        "int $0x1f",
        "dec %esi",
        "jnz 1b",
        "mov $0xd8, %ecx",
        "mov %ecx, %fs",
        "imul $10, %edi",
        "add %fs:8, %edi",
        "ud2"
    ));
    println!("{}", seen.expect("ud2").trapped.edi);
}

/// Does each of two page directories have the present segments, when they
/// change in the other one?
pub(crate) fn own_segments_of_two_directories() {
    let spaces = [first(), Space::new()];
    let load =
        code!("mov $0xd8, %eax", "mov %eax, %fs", "mov %fs:8, %ebx", "ud2");
    for n in 1..4 {
        let data = page();
        poke(data + 8, n);
        load_table(both(data, data));
        for _ in 0..2 {
            for space in spaces {
                space.activate();
                let seen = kernel(load).expect("ud2");
                println!("{}", seen.trapped.ebx);
            }
        }
    }
}

/// Does a kernel keep its own segments after a trap, and after it has saved and
/// loaded them?
pub(crate) fn own_segments_over_traps() {
    let (data, canary) = (page(), page());
    poke(data + 8, 8);
    poke(canary + 0x14, 14);
    load_table(both(data, canary));
    trap::handle(|seen| {
        if seen.trapped.ebp == 0 {
            seen.set_eip(seen.eip() + 2);
            return Next::GoOn;
        }
        Next::GiveUp
    });
    let seen = kernel(code!(
        "mov $0xd8, %eax",
        "mov %eax, %fs",
        "mov $0xe0, %eax",
        "mov %eax, %gs",
        "ud2",
        "mov %fs:8, %ebx",
        "mov %gs:0x14, %ecx",
        "push %fs",
        "push %gs",
        "xor %eax, %eax",
        "mov %eax, %fs",
        "mov %eax, %gs",
        "ud2",
        "pop %gs",
        "pop %fs",
        "mov %fs:8, %edx",
        "mov %gs:0x14, %esi",
        "inc %ebp",
        "ud2"
    ));
    let r = seen.expect("ud2").trapped;
    println!("{} {} {} {}", r.ebx, r.ecx, r.edx, r.esi);
}

/// Does a program have none of its kernel's segments, and can it load none of
/// them?
pub(crate) fn own_segments_of_a_user() {
    let (data, canary) = (page(), page());
    load_table(both(data, canary));
    let load = code!(
        "mov $0xd8, %eax",
        "mov %eax, %fs",
        "mov $0xe0, %eax",
        "mov %eax, %gs",
        "ud2"
    );
    for code in [
        code!("mov %fs, %ebx", "mov %gs, %ecx", "int $0x80"),
        code!("mov %fs:8, %eax"),
        code!("mov %gs:8, %eax"),
        code!("mov $0xd8, %eax", "mov %eax, %fs"),
        code!("mov $0xe3, %eax", "mov %eax, %gs"),
    ] {
        assert!(kernel(load).is_some(), "ud2");
        let seen = user(code);
        println!("{} {}, {seen}", seen.trapped.ebx, seen.trapped.ecx);
    }
}

/// Which descriptors of the kernel's own segments are refused, and with which
/// fault?
pub(crate) fn own_segments_refused() {
    const CODE: u32 = 0x00CF_9A00;
    const SYSTEM: u32 = 0x0000_8200;
    const ABSENT: u32 = 0x00CF_3200;
    const OF_A_USER: u32 = 0x00CF_F200;
    let load = code!("mov $0xd8, %eax", "mov %eax, %fs", "ud2");
    for kind in [CODE, SYSTEM, ABSENT, 0, OF_A_USER] {
        load_table(table([0xFFFF, kind], [0, 0]));
        let seen = kernel(load).expect("a trap");
        println!("{kind:x}: {seen}");
    }
}

/// Does a kernel end that changes its own segments without end?
pub(crate) fn own_segments_changed_for_ever() {
    let pages = [page(), page()];
    let tables = pages.map(|at| both(at, at));
    let load = code!("mov $0xd8, %eax", "mov %eax, %fs", "ud2");
    for table in tables.iter().cycle() {
        load_table(*table);
        kernel(load).expect("ud2");
    }
}
