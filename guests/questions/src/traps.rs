//! Questions about traps: every vector, and the words that the Host pushes.
//!
//! Each is raised in kernel mode and in user mode, if both can raise it. The
//! bit of the flags that is set for nearly all faults, 0x10000, is RF: a
//! processor sets it, so that a breakpoint at the faulting instruction does not
//! repeat.

use crate::lab::memory;
use crate::lab::run::{User, put_user};
use crate::lab::space::USER_DATA;
use crate::lab::trap::{
    self, INTERRUPT_GATE, Next, TRAP_GATE, USER_INTERRUPT_GATE, USER_TRAP_GATE,
};
use crate::lab::{code, kernel, user};
use lg_abi::shared::IF;
use lg_guest::{println, shared};

/// Runs `code` in both modes and prints the trap that ends it.
fn both(code: &[u8]) {
    match kernel(code) {
        Some(seen) => println!("kernel {seen}"),
        None => println!("kernel: no trap"),
    }
    println!("user   {}", user(code));
}

/// What does a division by zero push?
pub(crate) fn division() {
    both(code!("xor %ecx, %ecx", "div %ecx"));
}

/// What does a division with too large a quotient push?
pub(crate) fn division_overflow() {
    both(code!("mov $5, %edx", "mov $3, %ecx", "div %ecx"));
}

/// Does a single step trap after one instruction?
pub(crate) fn single_step() {
    both(code!(
        "pushf",
        "orl $0x100, (%esp)",
        "popf",
        "nop",
        "nop",
        "ud2"
    ));
}

/// Does `int3` push the address after it?
pub(crate) fn breakpoint() {
    trap::set_gate(3, USER_INTERRUPT_GATE);
    both(code!("int3"));
}

/// What does `int $3` of two bytes push?
pub(crate) fn breakpoint_of_two_bytes() {
    trap::set_gate(3, USER_INTERRUPT_GATE);
    both(code!(".byte 0xCD, 3"));
}

/// What does `int3` do in user mode if its gate does not allow it?
pub(crate) fn breakpoint_denied() {
    both(code!("nop", "int3"));
}

/// What does `into` push, and does it nothing without an overflow?
pub(crate) fn overflow() {
    trap::set_gate(4, USER_INTERRUPT_GATE);
    both(code!("into", "mov $0x7fffffff, %eax", "inc %eax", "into"));
}

/// What does `bound` push?
pub(crate) fn bound() {
    poke_bounds();
    both(code!("mov $10, %eax", "bound %eax, 0x8049000"));
}

/// What does `ud2` push?
pub(crate) fn undefined() {
    both(code!("ud2"));
}

/// What does an invalid `lock` prefix push?
pub(crate) fn undefined_lock() {
    both(code!("lock; nop"));
}

/// What do privileged instructions push?
pub(crate) fn privileged() {
    for (name, code) in [
        ("hlt", code!("hlt")),
        ("cli", code!("cli")),
        ("sti", code!("sti")),
        ("lgdt", code!("lgdt 0x8049000")),
        ("lidt", code!("lidt 0x8049000")),
        ("lldt", code!("xor %eax, %eax", "lldt %ax")),
        ("ltr", code!("xor %eax, %eax", "ltr %ax")),
        ("clts", code!("clts")),
        ("lmsw", code!("xor %eax, %eax", "lmsw %ax")),
        ("rdmsr", code!("rdmsr")),
        ("wrmsr", code!("wrmsr")),
        ("invlpg", code!("invlpg 0x8049000")),
        ("wbinvd", code!("wbinvd")),
        ("from cr0", code!("mov %cr0, %eax")),
        ("to cr3", code!("mov %eax, %cr3")),
    ] {
        println!("{name}:");
        both(code);
    }
}

/// May the kernel move from and to debug registers, and user mode not?
pub(crate) fn debug_registers() {
    both(code!(
        "mov $0x12345678, %ebx",
        "mov %db6, %ebx",
        "mov %ebx, %db7",
        "mov %db0, %ecx",
        "ud2"
    ));
    let registers = trap::nth(0).trapped;
    println!("db6 {:#x}, db0 {:#x}", registers.ebx, registers.ecx);
}

/// Sets debug register `n`.
fn set_debug_register(n: u8, value: u32) {
    let [a, b, c, d] = value.to_le_bytes();
    // mov $value, %eax; mov %eax, %dbn
    kernel(&[0xB8, a, b, c, d, 0x0F, 0x23, 0xC0 | (n << 3)]);
}

/// Does a watchpoint stop user mode after the instruction that writes there,
/// and not after a write beside it?
pub(crate) fn watchpoint() {
    set_debug_register(0, USER_DATA + 4);
    set_debug_register(7, 1 | (0xD << 16));
    let code = code!(
        "movl $1, 0x8049000",
        "movl $1, 0x8049008",
        "mov 0x8049004, %eax",
        "movb $1, 0x8049007",
        "int $0x80"
    );
    println!("{}", user(code));
    kernel(code!("mov %db6, %ebx", "mov %db7, %ecx", "ud2"));
    let r = trap::nth(trap::count() - 1).trapped;
    println!("db6 {:#x}, db7 {:#x}", r.ebx, r.ecx);
    set_debug_register(7, 0);
    println!("off: {}", user(code));
}

/// Does a breakpoint stop user mode at its instruction once, if it continues
/// with RF set?
pub(crate) fn breakpoint_by_register() {
    set_debug_register(1, crate::lab::space::USER_CODE + 1);
    set_debug_register(7, 4);
    trap::handle(|seen| match seen.trapped.vector {
        1 => Next::GoOn,
        _ => Next::GiveUp,
    });
    println!("{}", user(code!("nop", "nop", "int $0x80")));
    println!("before it, {}", trap::nth(trap::count() - 2));
    set_debug_register(7, 0);
}

/// Does the kernel skip `in` and `out` of all widths, and does `in` read ones
/// in its whole width?
pub(crate) fn ports() {
    let seen = kernel(code!(
        "out %al, $0x80",
        "out %ax, $0x80",
        "out %eax, $0x80",
        "mov $0x3f8, %edx",
        "out %al, %dx",
        "out %ax, %dx",
        "out %eax, %dx",
        "xor %eax, %eax",
        "in $0x60, %al",
        "mov %eax, %ebx",
        "xor %eax, %eax",
        "in %dx, %ax",
        "mov %eax, %ecx",
        "xor %eax, %eax",
        "in %dx, %eax",
        "mov %eax, %esi",
        "xor %eax, %eax",
        "in $0x60, %ax",
        "mov %eax, %edi",
        "xor %eax, %eax",
        "in %dx, %al",
        "mov %eax, %ebp",
        "xor %eax, %eax",
        "in $0x60, %eax",
        "ud2"
    ));
    let seen = seen.expect("ud2 traps");
    let r = seen.trapped;
    println!("in $p, %al {:#x}; in %dx, %al {:#x}", r.ebx, r.ebp);
    println!("in $p, %ax {:#x}; in %dx, %ax {:#x}", r.edi, r.ecx);
    println!("in $p, %eax {:#x}; in %dx, %eax {:#x}", r.eax, r.esi);
    println!("{seen}");
}

/// Do `in` and `out` trap in user mode?
pub(crate) fn ports_of_a_user() {
    println!("{}", user(code!("in %dx, %al")));
    println!("{}", user(code!("out %eax, $0x80")));
}

/// Do the string forms of `in` and `out` trap, even in the kernel?
pub(crate) fn ports_by_string() {
    both(code!("mov $0x8049000, %edi", "insb"));
    both(code!("mov $0x8049000, %esi", "rep; outsl"));
}

/// What does `int n` push in each mode, for a vector of each kind: one with a
/// gate for the kernel, one without any, an interrupt's, the system call's?
pub(crate) fn software_interrupts() {
    both(code!("int $6"));
    both(code!("int $14"));
    both(code!("int $2"));
    both(code!("int $8"));
    both(code!("int $33"));
    both(code!("int $0x7f"));
    both(code!("int $0x80"));
    both(code!("int $0xff"));
}

/// May user mode use `int n` if the gate allows level 3?
pub(crate) fn software_interrupt_allowed() {
    trap::set_gate(5, USER_INTERRUPT_GATE);
    both(code!("int $5"));
}

/// Does `int $12` push no error code, unlike the fault?
pub(crate) fn software_interrupt_without_error() {
    trap::set_gate(12, USER_INTERRUPT_GATE);
    for seen in [kernel(code!("int $12")), Some(user(code!("int $12")))] {
        let seen = seen.expect("it traps");
        // `Display` expects an error code for this vector; there is none here.
        let [a, b, c, ..] = seen.trapped.pushed;
        println!("{} words: {a:#x} {b:#x} {c:#x}", seen.words());
    }
}

/// Is `int` refused for the vectors 7, 13 and 14, which the Host must handle
/// itself, with any gate?
pub(crate) fn software_interrupts_of_the_host() {
    for vector in [7, 13, 14] {
        trap::set_gate(vector, USER_INTERRUPT_GATE);
    }
    both(code!("int $7"));
    both(code!("int $13"));
    both(code!("int $14"));
}

/// Is the system call refused in user mode if its gate allows only the kernel?
pub(crate) fn system_call_denied() {
    trap::set_gate(0x80, INTERRUPT_GATE);
    both(code!("int $0x80"));
}

/// Does a system call without a gate end the Guest?
pub(crate) fn system_call_without_gate() {
    trap::remove_gate(0x80);
    user(code!("nop", "int $0x80"));
}

/// Does a trap gate leave interrupts on, and an interrupt gate switch them off?
pub(crate) fn gate_types() {
    let code = code!("nop", "int $0x80");
    for (name, gate) in [
        ("interrupt gate", USER_INTERRUPT_GATE),
        ("trap gate", USER_TRAP_GATE),
    ] {
        trap::set_gate(0x80, gate);
        shared::set_irq_enabled(true);
        let seen = kernel(code);
        shared::set_irq_enabled(false);
        println!("{name}, {}", seen.expect("a system call traps"));
        let mut start = User::new();
        start.eflags |= IF;
        put_user(code);
        println!("{name}, {}", start.run());
        shared::set_irq_enabled(false);
    }
}

/// Does a fault through a trap gate leave interrupts on?
pub(crate) fn fault_through_trap_gate() {
    trap::set_gate(6, TRAP_GATE);
    shared::set_irq_enabled(true);
    let seen = kernel(code!("ud2"));
    shared::set_irq_enabled(false);
    println!("{}", seen.expect("ud2 traps"));
}

/// What is the message of a trap without a gate?
pub(crate) fn unhandled() {
    trap::remove_gate(0);
    kernel(code!("nop", "div %eax"));
}

/// Does the message of a trap without a gate have the error code?
pub(crate) fn unhandled_with_error() {
    trap::remove_gate(13);
    user(code!("nop", "int $0x21"));
}

/// Does the message of a page fault without a gate have the address?
pub(crate) fn unhandled_fault() {
    trap::remove_gate(14);
    user(code!("movl $1, 0x700"));
}

/// Is `int` with vector 2, 8, 15 or 31 in user mode a general protection fault?
pub(crate) fn vectors_of_the_host() {
    println!("{}", user(code!("int $2")));
    println!("{}", user(code!("int $8")));
    println!("{}", user(code!("int $15")));
    println!("{}", user(code!("int $31")));
}

/// Does an unaligned access trap in user mode with AC set, and not in the
/// kernel?
pub(crate) fn alignment() {
    both(code!(
        "pushf",
        "orl $0x40000, (%esp)",
        "popf",
        "mov 0x8049001, %eax",
        "mov $0x8049000, %eax",
        "ud2"
    ));
}

/// Is AC off in the handler, so that unaligned accesses of the kernel do not
/// trap?
pub(crate) fn alignment_in_the_handler() {
    let seen =
        user(code!("pushf", "orl $0x40000, (%esp)", "popf", "int $0x80"));
    println!("{seen}");
    println!("flags in the handler {:#x}", seen.trapped.flags & !IF);
}

/// Which flags does a handler have: DF and ID kept, TF and NT cleared?
pub(crate) fn flags_in_the_handler() {
    for (name, code) in [
        ("direction", code!("std", "stc", "int $0x80")),
        (
            "nested",
            code!("pushf", "orl $0x4000, (%esp)", "popf", "int $0x80"),
        ),
        (
            "id",
            code!("pushf", "orl $0x200000, (%esp)", "popf", "int $0x80"),
        ),
    ] {
        println!("{name}:");
        for seen in [kernel(code).expect("it traps"), user(code)] {
            println!("{seen}");
            println!("flags in the handler {:#x}", seen.trapped.flags & !IF);
        }
    }
}

/// What does an unmasked x87 error push?
pub(crate) fn floating_point() {
    both(code!(
        "fninit",
        "movl $0x0340, 0x8049100", // nothing masked
        "fldcw 0x8049100",
        "fld1",
        "fldz",
        "fdivrp",
        "fwait",
        "ud2"
    ));
}

/// What does an unmasked SSE error push?
pub(crate) fn vector_floating_point() {
    both(code!(
        "movl $0x1d80, 0x8049100", // division by zero unmasked
        "ldmxcsr 0x8049100",
        "mov $1, %eax",
        "cvtsi2ss %eax, %xmm0",
        "xorps %xmm1, %xmm1",
        "divss %xmm1, %xmm0",
        "ud2"
    ));
}

/// What does the use of a null or missing data segment push?
pub(crate) fn bad_segments() {
    both(code!(
        "xor %eax, %eax",
        "mov %eax, %fs",
        "mov %fs:0x8049000, %al"
    ));
    both(code!("mov $0x83, %eax", "mov %eax, %fs"));
    both(code!("mov $0xfff8, %eax", "mov %eax, %fs"));
}

/// What does `iret` in user mode push?
pub(crate) fn iret_of_a_user() {
    println!(
        "{}",
        user(code!(
            "push $0x7b",
            "push $0xB0000000",
            "push $2",
            "push $0x61",
            "push $0",
            "iret"
        ))
    );
}

/// Does an `iret` to user level with a selector of no user code fault as if at
/// user level?
pub(crate) fn iret_to_bad_code() {
    put_user(code!("int $0x80"));
    for cs in [
        0x73, 0x77, 0x3, 0x63, 0x6b, 0x7b, 0x33, 0x23, 0x2b, 0x7, 0xFFFF,
    ] {
        let mut start = User::new();
        start.cs = cs;
        println!("{cs:#x}: {}", start.run());
    }
}

/// Does an `iret` to user level with a selector of no user stack fault as if at
/// user level?
pub(crate) fn iret_to_bad_stacks() {
    put_user(code!("int $0x80"));
    for ss in [
        0x7b, 0x7f, 0x3, 0, 0x78, 0x69, 0x6b, 0x61, 0x73, 0x2b, 0xFFFF,
    ] {
        let mut start = User::new();
        start.ss = ss;
        println!("{ss:#x}: {}", start.run());
    }
}

/// Does an `iret` to level 2, or to no code of the kernel, fault in the kernel?
pub(crate) fn iret_to_other_levels() {
    for wanted in [0, 1, 2, 0x60, 0x62, 0x69, 0x79, 0xFFFD] {
        memory::store(USER_DATA, wanted);
        let code =
            code!("push $2", "push 0x8049000", "push $0xE0000000", "iret");
        let seen = kernel(code).expect("it traps");
        // Its own frame is above, so `Display` cannot count the words.
        let [error, eip, cs, ..] = seen.trapped.pushed;
        let vector = seen.trapped.vector;
        println!(
            "{cs:#x}: trap {vector}: error {error:x} eip {eip:x} cs {cs:x}"
        );
    }
}

/// Is virtual-8086 mode user level with any selectors, and is its first
/// instruction a fault with the frame of that mode?
pub(crate) fn iret_to_vm86() {
    put_user(code!("int $0x80"));
    for cs in [0, 0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x73, 0x7b, 0xFFFF] {
        let mut start = User::new();
        start.eflags = 0x2_0302;
        start.cs = cs;
        start.ss = 0x1234;
        start.vm86 = [0x61, 0x69, 0xFFFF, 0x7b];
        let seen = start.run();
        println!("{seen}");
        let (ds, es) = (seen.trapped.ds, seen.trapped.es);
        println!("in the handler: ds {ds:#x}, es {es:#x}");
        shared::set_irq_enabled(false);
    }
}

/// Is a program's `sysenter` or `syscall` an undefined instruction, also if ebp
/// and esp point to no memory? (Some processors lose its address.)
pub(crate) fn stray_system_calls() {
    for code in [
        code!("sysenter", "int $0x80"),
        code!("mov %esp, %ebp", "sub $8, %ebp", "sysenter", "int $0x80"),
        code!("mov $0x1000, %ebp", "sysenter", "int $0x80"),
        code!("mov $0xFFFFFFFE, %ebp", "sysenter", "int $0x80"),
        code!("syscall", "int $0x80"),
        code!("push %eax", "syscall", "int $0x80"),
        code!("mov $0x1000, %esp", "syscall", "int $0x80"),
        code!("mov $0xFFFFFFFE, %esp", "syscall", "int $0x80"),
        code!(
            "mov $0xC0100000, %esp",
            "mov %esp, %ebp",
            "syscall",
            "int $0x80"
        ),
    ] {
        let seen = user(code);
        let [_, cs, ..] = seen.user_frame();
        println!("trap {}, cs {cs:#x}", seen.trapped.vector);
    }
}

/// Does a far jump to the kernel's code segment fault in user mode?
pub(crate) fn far_jump_of_a_user() {
    println!("{}", user(code!("ljmp $0x61, $0xC0100000")));
}

/// Does a handler that changes registers change them for the code that trapped,
/// and nothing else?
pub(crate) fn go_on() {
    trap::handle(|seen| {
        if seen.trapped.vector != 6 {
            return Next::GiveUp;
        }
        seen.set_eip(seen.eip() + 2);
        seen.trapped.ebx += 1;
        Next::GoOn
    });
    let code = code!(
        "mov $100, %ebx",
        "mov $5, %ecx",
        "std",
        "1: ud2",
        "loop 1b",
        "int $0x80"
    );
    for seen in [kernel(code).expect("it traps"), user(code)] {
        println!("ebx {}, {seen}", seen.trapped.ebx);
    }
}

/// Writes bounds for `bound` to an address for both modes.
fn poke_bounds() {
    memory::store(USER_DATA, 1);
    memory::store(USER_DATA + 4, 9);
}
