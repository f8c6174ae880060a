//! Lesson 4: page tables, and a page fault that is answered.
//!
//! A window of 4 MiB has no memory at first. Each page of it gets some when it
//! is touched. From this lesson on, the guest kit starts the kernel.

#![no_std]
#![expect(unsafe_code, reason = "page tables, and a trap handler")]

pub mod exercise;

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};
use lesson01::hypercall;
use lg_guest::frame::{self, Phys};
use lg_guest::paging::AddressSpace;
use lg_guest::shared;

/// The window: what one page table covers.
pub const WINDOW: u32 = 0x0800_0000;
/// Its bytes.
pub const WINDOW_SIZE: u32 = 4 << 20;

/// In an entry: there is a page.
pub const PRESENT: u32 = 1;
/// In an entry: it may be written to.
pub const WRITE: u32 = 2;

/// The hypercalls that report changed entries.
const SET_PTE: u32 = 14;
const SET_PMD: u32 = 15;

/// The vector of a page fault.
const PAGE_FAULT: u32 = 14;

/// Where our directory is, and the window's table: physical addresses.
static DIRECTORY: AtomicU32 = AtomicU32::new(0);
static TABLE: AtomicU32 = AtomicU32::new(0);

/// How many page faults have been answered.
static FAULTS: AtomicU32 = AtomicU32::new(0);

global_asm!(
    ".text",
    // On the stack: the error code, then eip, cs and eflags.
    ".globl lesson04_page_fault",
    "lesson04_page_fault:",
    "    pusha",
    "    mov 32(%esp), %eax",
    // Rust may use the SSE registers, so they are saved, too. The place for
    // them, and the stack at the call, begin at a multiple of 16.
    "    mov %esp, %ebp",
    "    sub $512, %esp",
    "    and $-16, %esp",
    "    fxsave (%esp)",
    "    sub $16, %esp",
    "    mov %eax, (%esp)",
    "    call lesson04_answer",
    "    add $16, %esp",
    "    fxrstor (%esp)",
    "    mov %ebp, %esp",
    "    popa",
    "    add $4, %esp", // the error code
    "    iret",
    options(att_syntax)
);

unsafe extern "C" {
    fn lesson04_page_fault();
}

/// Makes the window.
pub fn init() {
    // A directory of our own. Its upper part is the kernel's.
    let space = AddressSpace::new().expect("there is memory");
    let directory = space.directory().0;
    let table = frame::alloc_zeroed().expect("there is memory");
    let table = table.phys().0;
    DIRECTORY.store(directory, Ordering::Relaxed);
    TABLE.store(table, Ordering::Relaxed);

    let index = WINDOW >> 22;
    write(directory + index * 4, table | PRESENT | WRITE);
    hypercall(SET_PMD, directory, index, 0);
    space.activate();
    core::mem::forget(space); // it stays
    // SAFETY: the handler keeps all registers, and returns by `iret`.
    unsafe { lesson03::set_gate(PAGE_FAULT, lesson04_page_fault) };
}

/// A page fault. Gives the page at the faulting address some memory.
#[unsafe(no_mangle)]
extern "C" fn lesson04_answer(error: u32) {
    let address = shared::cr2();
    let is_ours = (WINDOW..WINDOW + WINDOW_SIZE).contains(&address);
    if !is_ours || error & PRESENT != 0 {
        panic!("page fault at {address:#x}, error {error}");
    }
    let frame = frame::alloc_zeroed().expect("there is memory");
    let entry = frame.phys().0 | PRESENT | WRITE;
    let index = (address >> 12) & 1023;
    write(TABLE.load(Ordering::Relaxed) + index * 4, entry);
    hypercall(SET_PTE, directory(), address, entry);
    FAULTS.fetch_add(1, Ordering::Relaxed);
}

/// The physical address of the directory.
pub fn directory() -> u32 {
    DIRECTORY.load(Ordering::Relaxed)
}

/// How many page faults have been answered.
pub fn faults() -> u32 {
    FAULTS.load(Ordering::Relaxed)
}

/// The word at a physical address.
pub fn read(physical: u32) -> u32 {
    assert!(physical < lg_guest::boot::boot().memory);
    // SAFETY: all memory is mapped, and any word may be read.
    unsafe { Phys(physical).ptr::<u32>().read_volatile() }
}

/// Writes an entry of a table.
fn write(physical: u32, entry: u32) {
    // SAFETY: it is in a frame of ours, and all memory is mapped. The Host
    // reads it, too, so the write must not be left out.
    unsafe { Phys(physical).ptr::<u32>().write_volatile(entry) };
}

/// The address of the window's word at `offset`.
fn at(offset: u32) -> *mut u32 {
    assert!(offset % 4 == 0 && offset < WINDOW_SIZE);
    (WINDOW + offset) as *mut u32
}

/// Reads a word of the window.
pub fn load(offset: u32) -> u32 {
    // SAFETY: the window has a page there, or gets one.
    unsafe { at(offset).read_volatile() }
}

/// Writes a word of the window.
pub fn store(offset: u32, value: u32) {
    // SAFETY: the window has a page there, or gets one.
    unsafe { at(offset).write_volatile(value) };
}
