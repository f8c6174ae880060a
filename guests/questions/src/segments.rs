//! Segments: selectors that mean something, and those behind gs.
//!
//! All code runs at level 3 of the real machine, on segments that are not
//! those it believes in. Some of that can be seen.

use crate::lab::memory::{poke, store};
use crate::lab::run::User;
use crate::lab::space::{Space, USER_DATA, first};
use crate::lab::trap::{self, Next};
use crate::lab::{code, hypercall, kernel, page, user};
use lg_abi::hypercall::Hypercall;
use lg_guest::println;

/// Thread-local segments with these bases, user mode's, for LOAD_TLS.
fn tls(bases: [u32; 3]) -> u32 {
    let table = page();
    for (n, base) in (0..).zip(bases) {
        poke(table + n * 8, (base << 16) | 0xFFFF);
        let high = 0x00CF_F200 | (base >> 16) & 0xFF | base & 0xFF00_0000;
        poke(table + n * 8 + 4, high);
    }
    table
}

fn load_tls(bases: [u32; 3]) {
    hypercall(Hypercall::LoadTls, tls(bases), 0, 0);
}

/// Does gs reach what LOAD_TLS says, by all three descriptors, and fs, too?
pub(crate) fn tls_of_a_user() {
    for n in 0..3 {
        store(USER_DATA + n * 256, 100 + n);
    }
    load_tls([0, 1, 2].map(|n| USER_DATA + n * 256));
    let seen = user(code!(
        "mov $0x33, %eax",
        "mov %eax, %gs",
        "mov %gs:0, %ebx",
        "mov $0x3b, %eax",
        "mov %eax, %gs",
        "mov %gs:0, %ecx",
        "mov $0x43, %eax",
        "mov %eax, %fs",
        "mov %fs:0, %edx",
        "int $0x80"
    ));
    let r = seen.trapped;
    println!("{} {} {}, trap {}", r.ebx, r.ecx, r.edx, r.vector);
}

/// Is gs still what it was after a trap, a write through it, and an
/// interrupt's worth of kernel?
pub(crate) fn tls_over_traps() {
    store(USER_DATA, 5);
    load_tls([USER_DATA; 3]);
    trap::handle(|seen| {
        if seen.trapped.vector == 6 {
            seen.set_eip(seen.eip() + 2);
            return Next::GoOn;
        }
        Next::GiveUp
    });
    let seen = user(code!(
        "mov $0x33, %eax",
        "mov %eax, %gs",
        "ud2",
        "mov %gs:0, %ebx",
        "incl %gs:0",
        "ud2",
        "mov %gs:0, %ecx",
        "mov $4, %edx",
        "negl %edx",
        "mov %gs:4(%edx), %edx", // an index below zero, as libraries have it
        "int $0x80"
    ));
    let r = seen.trapped;
    println!("{} {} {}, trap {}", r.ebx, r.ecx, r.edx, r.vector);
}

/// Does each of two page directories get its own thread-local data, when the
/// kernel loads it at each switch?
pub(crate) fn tls_of_two_directories() {
    let spaces = [first(), Space::new()];
    let code = code!(
        "mov $0x33, %eax",
        "mov %eax, %gs",
        "incl %gs:0",
        "mov %gs:0, %eax",
        "int $0x80"
    );
    for _ in 0..3 {
        for (n, space) in (1..).zip(spaces) {
            space.activate();
            load_tls([USER_DATA + n * 64, 0, 0]);
            println!("directory {n}: {}", user(code).trapped.eax);
        }
    }
}

/// Does a new base count from the next load of gs on, and may the kernel
/// change it under a program that has gs loaded?
pub(crate) fn tls_replaced() {
    store(USER_DATA, 1);
    store(USER_DATA + 64, 2);
    load_tls([USER_DATA; 3]);
    let load = code!(
        "mov $0x33, %eax",
        "mov %eax, %gs",
        "mov %gs:0, %eax",
        "int $0x80"
    );
    println!("{}", user(load).trapped.eax);
    load_tls([USER_DATA + 64; 3]);
    println!("{}", user(load).trapped.eax);
}

/// What does gs do without a descriptor: one that is not present?
pub(crate) fn tls_not_present() {
    hypercall(Hypercall::LoadTls, page(), 0, 0);
    let load = code!(
        "mov $0x33, %eax",
        "mov %eax, %gs",
        "mov %gs:0, %eax",
        "int $0x80"
    );
    println!("trap {}", user(load).trapped.vector);
}

/// May user mode load the data segments that it knows, and may it not load the
/// kernel's?
pub(crate) fn data_segments_of_a_user() {
    let good = user(code!(
        "mov $0x7b, %eax",
        "mov %eax, %ds",
        "mov %eax, %es",
        "mov %eax, %fs",
        "mov %eax, %ss",
        "push %ds",
        "pop %ds",
        "push %es",
        "pop %es",
        "xor %eax, %eax",
        "mov %eax, %gs",
        "movl $3, 0x8049000",
        "mov %es:0x8049000, %eax",
        "int $0x80"
    ));
    println!("{}, trap {}", good.trapped.eax, good.trapped.vector);
    println!("{}", user(code!("mov $0x69, %eax", "mov %eax, %ds")));
    println!("{}", user(code!("mov $0x68, %eax", "mov %eax, %es")));
    println!("{}", user(code!("mov $0x61, %eax", "mov %eax, %ss")));
}

/// May the kernel load its own and the user's, by all the ways there are?
pub(crate) fn data_segments_of_the_kernel() {
    let good = kernel(code!(
        "mov $0x69, %eax",
        "mov %eax, %ds",
        "mov %eax, %es",
        "movl $3, 0xE0000800", // in the page that this is
        "mov $0x7b, %eax",
        "mov %eax, %ds",
        "mov %eax, %es",
        "push %ds",
        "push %es",
        "pop %es",
        "pop %ds",
        "mov 0xE0000800, %ecx",
        "push $0x69",
        "pop %ss",
        "mov $0x69, %eax",
        "mov %eax, %ss",
        "mov %ecx, %eax",
        "ud2"
    ));
    let good = good.expect("ud2 traps");
    println!("{}, trap {}", good.trapped.eax, good.trapped.vector);
    let bad = kernel(code!("mov $0x50, %eax", "mov %eax, %ds"));
    println!("{}", bad.expect("it traps"));
}

/// Which selectors does code see that looks? The real ones: it runs at another
/// level than it believes, and the frames that the Host pushes are what tells
/// it otherwise.
pub(crate) fn selectors_seen() {
    let look = code!(
        "mov %cs, %eax",
        "mov %ss, %ebx",
        "mov %ds, %ecx",
        "int $0x80"
    );
    for seen in [kernel(look).expect("it traps"), user(look)] {
        let r = seen.trapped;
        println!("cs {:#x}, ss {:#x}, level {}", r.eax, r.ebx, r.eax & 3);
    }
}

/// Does `iret` with the interrupt flag, IOPL and VM set give user mode none of
/// what the kernel has?
pub(crate) fn iret_flags() {
    crate::lab::run::put_user(code!("int $0x80"));
    for flags in [0x3202, 0x2_0202, 0xFFFF_FCFF & !0x4_0100] {
        let mut start = User::new();
        start.eflags = flags;
        let seen = start.run();
        println!(
            "{:#x}: trap {} {:#x}",
            flags,
            seen.trapped.vector,
            seen.eflags()
        );
        lg_guest::shared::set_irq_enabled(false);
    }
}
