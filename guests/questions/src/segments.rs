//! Questions about segments and selectors.
//!
//! All code runs at level 3 of the real machine, with other segments than the
//! Guest has loaded. Some of that is visible.

use crate::lab::memory::{poke, store};
use crate::lab::run::User;
use crate::lab::space::{Space, USER_DATA, first};
use crate::lab::trap::{self, Next};
use crate::lab::{code, hypercall, kernel, page, user};
use lg_abi::hypercall::Hypercall;
use lg_guest::println;

/// The high word of a descriptor: writable data of user mode, all addresses.
const USUAL: u32 = 0x00CF_F200;
/// A limit of 255 bytes.
const SHORT: u32 = 0x0040_F200;
/// It cannot be written.
const READ_ONLY: u32 = 0x00CF_F000;
/// It expands down, and has all addresses above its limit.
const DOWN: u32 = 0x0040_F600;
/// It is not present.
const ABSENT: u32 = 0x00CF_7200;
/// Code that cannot be read.
const UNREADABLE: u32 = 0x00CF_F800;
/// A stack of 16 bits.
const SMALL: u32 = 0x008F_F200;

/// Thread-local segments with these bases and high words, for LOAD_TLS.
fn load_kinds(segments: [(u32, u32); 3]) {
    let table = page();
    for (n, (base, kind)) in (0..).zip(segments) {
        let limit = if kind & 0x80_0000 == 0 { 0xFF } else { 0xFFFF };
        poke(table + n * 8, (base << 16) | limit);
        let high = kind | (base >> 16) & 0xFF | base & 0xFF00_0000;
        poke(table + n * 8 + 4, high);
    }
    hypercall(Hypercall::LoadTls, table, 0, 0);
}

pub(crate) fn load_tls(bases: [u32; 3]) {
    load_kinds(bases.map(|base| (base, USUAL)));
}

/// Do gs and fs have the segments of LOAD_TLS, by all three descriptors?
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

/// Does gs keep its segment after a trap, a write through it, and an interrupt?
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

/// Does a new base take effect at the next load of gs, and may the kernel
/// change it while a program has gs loaded?
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

/// What does gs do with a descriptor that is not present?
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

/// Is each thread-local segment in ds and es the same as in gs?
pub(crate) fn tls_behind_every_register() {
    for n in 0..3 {
        store(USER_DATA + n * 256 + 64, 70 + n);
    }
    load_tls([0, 1, 2].map(|n| USER_DATA + n * 256));
    for code in [
        code!(
            "mov $0x33, %eax",
            "mov %eax, %es",
            "mov %es:64, %ebx",
            "mov $0x33, %eax",
            "mov %eax, %ds",
            "mov 64, %ecx",
            "mov $0x33, %eax",
            "mov %eax, %gs",
            "mov %gs:64, %edx",
            "int $0x80"
        ),
        code!(
            "mov $0x3b, %eax",
            "mov %eax, %es",
            "mov %es:64, %ebx",
            "mov $0x43, %eax",
            "mov %eax, %ds",
            "mov 64, %ecx",
            "mov $0x3b, %eax",
            "mov %eax, %fs",
            "mov %fs:64, %edx",
            "int $0x80"
        ),
        // By instructions with an operand there and without a prefix.
        code!(
            "mov $0x3b, %eax",
            "mov %eax, %es",
            "mov $65, %edi",
            "mov $0x43, %eax",
            "mov %eax, %ds",
            "mov $64, %esi",
            "movsb",
            "mov %es:64, %ebx",
            "incl 64",
            "mov 64, %ecx",
            "int $0x80"
        ),
    ] {
        let seen = user(code);
        let r = seen.trapped;
        println!("{} {} {}, trap {}", r.ebx, r.ecx, r.edx, r.vector);
    }
}

/// Is a thread-local selector that is saved and loaded again, or copied from
/// another register, still the same, also after traps?
pub(crate) fn tls_saved_and_loaded_again() {
    store(USER_DATA + 64, 70);
    store(USER_DATA + 256 + 64, 71);
    load_tls([USER_DATA, USER_DATA + 256, 0]);
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
        "push %gs",
        "pop %es",
        "mov %es:64, %ebx",
        "mov $0x3b, %eax",
        "mov %eax, %es",
        "ud2",
        "mov %es:64, %ecx",
        "push %es",
        "push %ds",
        "pop %es",
        "ud2",
        "pop %es",
        "mov %es:64, %edx",
        "mov %gs:64, %esi",
        "push %ds",
        "pop %es",
        "mov %es:0x8049040, %edi",
        "int $0x80"
    ));
    let r = seen.trapped;
    let (a, b, c) = (r.ebx, r.ecx, r.edx);
    println!("{a} {b} {c} {} {}, trap {}", r.esi, r.edi, r.vector);
}

/// Is a program's stack in a thread-local segment after it loads that, and in
/// the usual one after it loads the usual one?
pub(crate) fn tls_on_the_stack() {
    store(USER_DATA + 64, 70);
    load_tls([0, USER_DATA, 0]);
    trap::handle(|seen| {
        if seen.trapped.vector == 6 {
            seen.set_eip(seen.eip() + 2);
            return Next::GoOn;
        }
        Next::GiveUp
    });
    let seen = user(code!(
        "mov %esp, %edi",
        "mov %ss, %esi",
        "mov $0x3b, %eax",
        "mov %eax, %ss",
        "mov $64, %esp",
        "pop %ebx",
        "ud2",
        "push $5",
        "mov $64, %ebp",
        "mov (%ebp), %ecx",
        "mov 0x8049040, %edx",
        "mov %esi, %ss",
        "mov %edi, %esp",
        "ud2",
        "push $6",
        "pop %eax",
        "int $0x80"
    ));
    let r = seen.trapped;
    println!("{} {} {} {}, {seen}", r.ebx, r.ecx, r.edx, r.eax);
    let seen = user(code!("mov $0x3b, %eax", "mov %eax, %ss", "int $0x80"));
    println!("{seen}");
}

/// Are limit and type of a thread-local segment those of its descriptor, and is
/// a violation a fault without an address?
pub(crate) fn tls_limits() {
    store(USER_DATA, 5);
    store(USER_DATA + 252, 6);
    let with = |kind, code: &[u8]| {
        load_kinds([(USER_DATA, kind), (USER_DATA, kind), (0, USUAL)]);
        let seen = user(code);
        println!("{} {}, {seen}", seen.trapped.ebx, seen.trapped.ecx);
    };
    for kind in [SHORT, READ_ONLY, DOWN] {
        println!("{kind:x}");
        with(
            kind,
            code!(
                "mov $0x33, %eax",
                "mov %eax, %gs",
                "mov $0x3b, %eax",
                "mov %eax, %fs",
                "mov $0x100, %edx",
                "nop",
                "mov %gs:252, %ebx",
                "mov %fs:0, %ecx",
                "int $0x80"
            ),
        );
        with(
            kind,
            code!(
                "mov $0x3b, %eax",
                "mov %eax, %fs",
                "mov %eax, %es",
                "mov %es:0x800, %ebx",
                "mov %fs:0x800, %ecx",
                "int $0x80"
            ),
        );
        with(
            kind,
            code!(
                "mov $0x3b, %eax",
                "mov %eax, %fs",
                "mov %eax, %es",
                "mov %es:252, %ebx",
                "movl $6, %fs:252",
                "int $0x80"
            ),
        );
    }
}

/// Which descriptors are refused, by which registers, and with which fault?
pub(crate) fn tls_refused() {
    for kind in [ABSENT, UNREADABLE, READ_ONLY, SMALL, SHORT] {
        load_kinds([(0, USUAL), (0, kind), (0, USUAL)]);
        let es = user(code!("mov $0x3b, %eax", "mov %eax, %es", "int $0x80"));
        let gs = user(code!("mov $0x3b, %eax", "mov %eax, %gs", "int $0x80"));
        let ss = user(code!("mov $0x3b, %eax", "mov %eax, %ss", "int $0x80"));
        println!("{kind:x}\n  es {es}\n  gs {gs}\n  ss {ss}");
    }
}

/// Does each of two threads in one page directory have its own data in es and
/// gs, when the kernel loads its descriptors at each switch?
pub(crate) fn tls_of_two_threads() {
    let code = code!(
        "mov $0x33, %eax",
        "mov %eax, %gs",
        "mov $0x3b, %eax",
        "mov %eax, %es",
        "incl %gs:0",
        "addl $2, %es:0",
        "mov %gs:0, %eax",
        "mov %es:0, %ebx",
        "int $0x80"
    );
    for turn in 0..6 {
        let at = USER_DATA + turn % 2 * 64;
        load_tls([at, at + 1024, 0]);
        let seen = user(code);
        println!("{} {}", seen.trapped.eax, seen.trapped.ebx);
    }
}

/// Does every selector of a local descriptor table fault, in every register?
pub(crate) fn local_descriptors() {
    for code in [
        code!("mov $0x07, %eax", "mov %eax, %es", "int $0x80"),
        code!("mov $0x07, %eax", "mov %eax, %gs", "int $0x80"),
        code!("mov $0x0f, %eax", "mov %eax, %fs", "int $0x80"),
        code!("mov $0x17, %eax", "mov %eax, %ds", "int $0x80"),
        code!("mov $0x07, %eax", "mov %eax, %ss", "int $0x80"),
        code!("push $0x07", "push $0x8048000", "lret"),
    ] {
        println!("{}", user(code));
    }
}

/// Does IOPL in the frame of an `iret` allow user mode to use ports or the
/// interrupt flag, and is it in the next frame?
pub(crate) fn iopl_of_a_user() {
    for code in [
        code!("in %dx, %al", "int $0x80"),
        code!("out %al, $0x80", "int $0x80"),
        code!("cli", "int $0x80"),
        code!("sti", "int $0x80"),
        code!("pushf", "pop %eax", "int $0x80"),
    ] {
        crate::lab::run::put_user(code);
        let mut start = User::new();
        start.eflags = 0x3002;
        let seen = start.run();
        println!("{:x}, {seen}", seen.trapped.eax & 0x3000);
    }
}

/// May user mode load its own data segments, and not the kernel's?
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

/// May the kernel load its own and the user's data segments, by all
/// instructions?
pub(crate) fn data_segments_of_the_kernel() {
    let good = kernel(code!(
        "mov $0x69, %eax",
        "mov %eax, %ds",
        "mov %eax, %es",
        "movl $3, 0xE0000800", // in the page of this code
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

/// Which selectors does code read? It reads the real ones, because it runs at
/// another level. Only the frames that the Host pushes have the Guest's
/// selectors.
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

/// Does `iret` with the interrupt flag, IOPL and VM give user mode no privilege
/// of the kernel?
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
