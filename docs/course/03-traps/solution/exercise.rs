//! Exercise 3: an instruction that does not exist is skipped.
//!
//! `ud2` is an instruction that no processor has, and never will. It traps with
//! vector 6. The frame's eip is that of the instruction itself, so a handler
//! that only returns would trap again.

#![expect(unsafe_code, reason = "a trap handler")]

use crate::set_gate;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, Ordering};

const UNDEFINED: u32 = 6;

#[unsafe(export_name = "lesson03_skipped")]
static SKIPPED: AtomicU32 = AtomicU32::new(0);

global_asm!(
    ".text",
    ".globl lesson03_undefined",
    "lesson03_undefined:",
    "    incl lesson03_skipped",
    "    addl $2, (%esp)", // eip is the last that was pushed
    "    iret",
    options(att_syntax)
);

unsafe extern "C" {
    fn lesson03_undefined();
}

/// From now on, `ud2` is skipped and counted.
pub fn skip_undefined() {
    // SAFETY: the handler keeps all registers, and returns by `iret`.
    unsafe { set_gate(UNDEFINED, lesson03_undefined) };
}

/// Executes `ud2`.
pub fn undefined() {
    // SAFETY: the handler goes on behind it.
    unsafe { asm!("ud2") };
}

/// How many have been skipped.
pub fn skipped() -> u32 {
    SKIPPED.load(Ordering::Relaxed)
}
