//! Hypercalls: their arguments, at the edge and beyond it.
//!
//! A Guest never checks whether a call worked. So a bad call must end the
//! Guest, and the reason must be clear.

use crate::lab::memory::{self, peek, poke};
use crate::lab::trap::{self, INTERRUPT_GATE};
use crate::lab::{call, code, hypercall, kernel, page, user};
use lg_abi::hypercall::Hypercall;
use lg_abi::segment::GDT_ENTRIES;
use lg_guest::println;

/// The first page of physical memory that the Guest does not have: RAM and
/// the descriptor page come before it. See the command in the test.
pub(crate) const END: u32 = (16 << 20) + 4096;

/// Does an unknown call number end the Guest?
pub(crate) fn number_11() {
    call(11, 0, 0, 0);
}

/// Does the first call number after the table end the Guest?
pub(crate) fn number_17() {
    call(17, 0, 0, 0);
}

/// Does the greatest call number end the Guest?
pub(crate) fn number_max() {
    call(u32::MAX, 0, 0, 0);
}

/// Is a call number with a higher bit than the eighth another number?
pub(crate) fn number_256() {
    call(256, 0, 0, 0);
}

/// Does a second LGUEST_INIT end the Guest?
pub(crate) fn init_twice() {
    hypercall(Hypercall::Init, page(), 0, 0);
}

/// What has the Host written into the shared page: reserve_mem, guestid,
/// tsc_khz, time?
pub(crate) fn init_answers() {
    use lg_guest::shared;
    println!("reserve_mem {:#x}", shared::reserve_mem());
    println!("guestid is not zero: {}", shared::guest_id() != 0);
    let khz = shared::tsc_khz();
    println!("tsc_khz plausible: {}", khz == 0 || khz > 100_000);
    let (sec, nsec) = shared::time();
    println!("time after 2020: {}", sec > 1_577_836_800);
    println!("nsec below a second: {}", nsec < 1_000_000_000);
}

/// Do hypercalls keep all registers but eax, and also eax if there is no
/// result?
pub(crate) fn registers_kept() {
    let seen = kernel(code!(
        "mov $0, %eax", // FLUSH_ASYNC
        "mov $0x11111111, %edx",
        "mov $0x22222222, %ebx",
        "mov $0x33333333, %ecx",
        "mov $0x44444444, %esi",
        "mov $0x55555555, %edi",
        "mov $0x66666666, %ebp",
        "stc",
        "int $0x1f",
        "ud2"
    ));
    let seen = seen.expect("ud2 traps");
    let r = seen.trapped;
    println!("eax {:#x} edx {:#x} ebx {:#x}", r.eax, r.edx, r.ebx);
    println!("ecx {:#x} esi {:#x} edi {:#x}", r.ecx, r.esi, r.edi);
    println!("ebp {:#x}, carry {}", r.ebp, seen.eflags() & 1);
}

/// May user mode make hypercalls?
pub(crate) fn user_hypercall() {
    let seen = user(code!("mov $2, %eax", "int $0x1f"));
    println!("{seen}");
}

/// Does CRASH end the Guest with its message?
pub(crate) fn crash() {
    let message = page();
    memory::write(message, b"goodbye\0not this");
    hypercall(Hypercall::Crash, message, 0, 0);
}

/// Does a CRASH message without an end stop after 128 bytes?
pub(crate) fn crash_without_end() {
    let message = page();
    memory::write(message, &[b'x'; 4096]);
    memory::write(message + 120, b"12345678and more");
    hypercall(Hypercall::Crash, message, 0, 0);
}

/// May a CRASH message end at the end of memory?
pub(crate) fn crash_at_the_end_of_memory() {
    // The descriptor page is the last one; most of it is unused.
    let at = END - 4;
    memory::write(map_end() + 4092, b"last");
    hypercall(Hypercall::Crash, at, 0, 0);
}

/// May a CRASH message begin after the end of memory?
pub(crate) fn crash_beyond_memory() {
    hypercall(Hypercall::Crash, END, 0, 0);
}

/// Are control characters in a CRASH message shown without effect on the
/// terminal?
pub(crate) fn crash_with_control_characters() {
    let message = page();
    memory::write(message, b"\x1b[2J\r\nred\x07 \xFF\0");
    hypercall(Hypercall::Crash, message, 0, 0);
}

/// Is an empty CRASH message allowed?
pub(crate) fn crash_with_empty_message() {
    hypercall(Hypercall::Crash, page(), 0, 0);
}

/// May LOAD_GDT load all entries, and no entry?
pub(crate) fn gdt_sizes() {
    let table = flat_gdt();
    hypercall(Hypercall::LoadGdt, table, GDT_ENTRIES, 0);
    hypercall(Hypercall::LoadGdt, table, 0, 0);
    println!("still here");
}

/// Does LOAD_GDT with one entry too many end the Guest?
pub(crate) fn gdt_too_large() {
    hypercall(Hypercall::LoadGdt, flat_gdt(), GDT_ENTRIES + 1, 0);
}

/// May the table of LOAD_GDT reach beyond memory?
pub(crate) fn gdt_beyond_memory() {
    hypercall(Hypercall::LoadGdt, END - 8, 2, 0);
}

/// Must a table of no entries for LOAD_GDT be in memory?
pub(crate) fn gdt_empty_anywhere() {
    hypercall(Hypercall::LoadGdt, 0xFFFF_FFF8, 0, 0);
    println!("still here");
}

/// May the descriptors of LOAD_TLS be beyond memory?
pub(crate) fn tls_beyond_memory() {
    hypercall(Hypercall::LoadTls, END - 16, 0, 0);
}

/// Are gates of any type ignored for the Host's own vectors, and for vectors
/// that do not exist?
pub(crate) fn gates_ignored() {
    const TASK_GATE: u32 = 0x8500;
    for vector in [2, 8, 15, 31, 64, 127, 129, 255, 256, u32::MAX] {
        hypercall(Hypercall::LoadIdtEntry, vector, 0, TASK_GATE);
    }
    println!("still here");
}

/// Does a task gate end the Guest?
pub(crate) fn gate_of_a_task() {
    hypercall(Hypercall::LoadIdtEntry, 6, 0, 0x8500);
}

/// Does a 16-bit gate end the Guest?
pub(crate) fn gate_of_16_bits() {
    hypercall(Hypercall::LoadIdtEntry, 6, 0, 0x8600);
}

/// Does a call gate end the Guest, even for the system call's vector?
pub(crate) fn gate_of_a_call() {
    hypercall(Hypercall::LoadIdtEntry, 0x80, 0, 0x8C00);
}

/// Does a gate of any type that is not present leave its vector without a
/// handler?
pub(crate) fn gate_not_present() {
    trap::set_gate(6, INTERRUPT_GATE & !0x8000);
    hypercall(Hypercall::LoadIdtEntry, 6, 0, 0x0500);
    kernel(code!("ud2"));
}

/// May the kernel's stack have privilege level 0?
pub(crate) fn stack_of_level_0() {
    hypercall(Hypercall::SetStack, 0x68, 0xC000_0000, 1);
}

/// May the kernel's stack have privilege level 3?
pub(crate) fn stack_of_level_3() {
    hypercall(Hypercall::SetStack, 0x7B, 0xC000_0000, 1);
}

/// May the kernel's stack have three pages?
pub(crate) fn stack_of_three_pages() {
    hypercall(Hypercall::SetStack, 0x69, 0xC000_0000, 3);
}

/// May the kernel's stack have no pages, or two?
pub(crate) fn stack_sizes() {
    for pages in 0..=2 {
        hypercall(Hypercall::SetStack, 0x69, 0xC002_0000, pages);
    }
    println!("still here");
}

/// What does a trap from user mode do if the kernel's stack is not mapped?
pub(crate) fn stack_not_mapped() {
    crate::lab::run::put_user(code!("ud2"));
    hypercall(Hypercall::SetStack, 0x69, 0xD000_0000, 1);
    crate::lab::run::User::new().run();
}

/// May the page directory be beyond memory?
pub(crate) fn directory_beyond_memory() {
    hypercall(Hypercall::NewPgtable, END, 0, 0);
}

/// May the page directory be empty? Then the next instruction has no page, and
/// the stack for its fault has none either.
pub(crate) fn directory_empty() {
    assert_eq!(page(), 0x2_9000);
    kernel(code!(
        "mov $0xC0030000, %esp",
        "mov $4, %eax", // NEW_PGTABLE
        "mov $0x29000, %edx",
        "int $0x1f"
    ));
}

/// Do FLUSH_ASYNC with arguments, and FLUSH_TLB with other ones than 0 and 1,
/// still work?
pub(crate) fn arguments_ignored() {
    call(0, u32::MAX, u32::MAX, u32::MAX);
    hypercall(Hypercall::FlushTlb, 2, 3, 4);
    hypercall(Hypercall::FlushTlb, u32::MAX, 3, 4);
    println!("still here");
}

/// Does LOAD_GDT leave the table unchanged?
pub(crate) fn gdt_untouched() {
    let table = flat_gdt();
    let before = peek(table + 12 * 8 + 4);
    hypercall(Hypercall::LoadGdt, table, GDT_ENTRIES, 0);
    println!("{}", peek(table + 12 * 8 + 4) == before);
}

/// A table with the four flat segments of a kernel like us, at level 0.
fn flat_gdt() -> u32 {
    let table = page();
    for (index, high) in [
        (12, 0x00CF_9A00),
        (13, 0x00CF_9200),
        (14, 0x00CF_FA00),
        (15, 0x00CF_F200),
    ] {
        poke(table + index * 8, 0x0000_FFFF);
        poke(table + index * 8 + 4, high);
    }
    table
}

/// Maps the descriptor page, the last one there is. Returns its physical
/// address as the lab's functions take it.
fn map_end() -> u32 {
    use crate::lab::space::{KERNEL_DATA, KERNEL_PAGE, first};
    first().set_pte(KERNEL_DATA, (END - 4096) | KERNEL_PAGE);
    memory::linear(KERNEL_DATA)
}
