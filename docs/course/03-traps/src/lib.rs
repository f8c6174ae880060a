//! Lesson 3: traps, and hypercalls without them.
//!
//! A trap is how the processor leaves the code that it runs: at a mistake, at
//! an `int`, at an interrupt. It goes on in the kernel, where a gate says.

#![no_std]
#![expect(unsafe_code, reason = "trap handlers, and the time-stamp counter")]

pub mod exercise;
pub mod quick;

use core::arch::{asm, global_asm, x86::_rdtsc};
use core::sync::atomic::{AtomicU32, Ordering};
use lesson01::hypercall;

/// Sets the gate of a vector.
pub const LOAD_IDT_ENTRY: u32 = 6;

/// The selector of the kernel's code segment.
const KERNEL_CS: u32 = 0x61;

/// The vector of the instruction `int3`.
pub const BREAKPOINT: u32 = 3;

/// How often the handler below has run.
#[unsafe(export_name = "lesson03_breakpoints")]
pub static BREAKPOINTS: AtomicU32 = AtomicU32::new(0);

global_asm!(
    ".text",
    // On the stack are eip, cs and eflags. `iret` takes them back.
    ".globl lesson03_breakpoint",
    "lesson03_breakpoint:",
    "    incl lesson03_breakpoints",
    "    iret",
    // What is called from a handler that is not written yet.
    ".globl lesson03_not_done",
    "lesson03_not_done:",
    "    and $-16, %esp",
    "    call lesson03_panic",
    options(att_syntax)
);

unsafe extern "C" {
    fn lesson03_breakpoint();
}

#[unsafe(no_mangle)]
extern "C" fn lesson03_panic() -> ! {
    panic!("this handler is not done yet");
}

/// Lets the processor go on at `handler` when `vector` traps.
///
/// # Safety
///
/// `handler` is assembly that keeps all registers and ends with `iret`.
pub unsafe fn set_gate(vector: u32, handler: unsafe extern "C" fn()) {
    /// A trap gate that is present, for the kernel's privilege level, 1.
    const KIND: u32 = 0xAF00;
    let at = handler as usize as u32;
    let low = (KERNEL_CS << 16) | (at & 0xFFFF);
    let high = (at & 0xFFFF_0000) | KIND;
    hypercall(LOAD_IDT_ENTRY, vector, low, high);
}

/// From now on, breakpoints are counted.
pub fn count_breakpoints() {
    // SAFETY: it is such a handler: `incl` changes flags only, which `iret`
    // takes back.
    unsafe { set_gate(BREAKPOINT, lesson03_breakpoint) };
}

/// Traps.
pub fn breakpoint() {
    // SAFETY: the handler comes back.
    unsafe { asm!("int3") };
}

/// How many breakpoints have been counted.
pub fn breakpoints() -> u32 {
    BREAKPOINTS.load(Ordering::Relaxed)
}

/// How many counts of the processor's clock the shortest of many `call`s takes.
pub fn shortest(call: impl Fn()) -> u64 {
    // SAFETY: every processor that this kernel runs on has that counter.
    let counter = || unsafe { _rdtsc() };
    let times = (0..1000).map(|_| {
        let before = counter();
        call();
        counter() - before
    });
    times.min().unwrap_or_default()
}
