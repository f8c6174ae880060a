//! Lesson 10: programs, which may touch nothing but their own memory.
//!
//! A program here is less than a page of machine code. The kernel has it in its
//! own image, and copies it into an address space of its own, where it runs at
//! [`CODE`].

#![no_std]
#![expect(unsafe_code, reason = "bytes between two labels")]

pub mod exercise;

use core::arch::global_asm;
use lg_guest::user::{CODE, Counts, End, Process, call};

global_asm!(
    ".section .rodata.lesson10, \"a\"",
    // Prints as often as ebx says, and sleeps in between.
    ".globl lesson10_talk, lesson10_talk_end",
    "lesson10_talk:",
    "    mov %ebx, %edi",
    "1:  mov ${write}, %eax",
    "    mov ${code} + (2f - lesson10_talk), %ebx",
    "    mov $(3f - 2f), %ecx",
    "    int $0x80",
    "    mov ${sleep}, %eax",
    "    mov $2000, %ebx", // microseconds
    "    int $0x80",
    "    dec %edi",
    "    jnz 1b",
    "    mov ${exit}, %eax",
    "    xor %ebx, %ebx",
    "    int $0x80",
    "2:  .ascii \"talk: I have slept.\\n\"",
    "3:",
    "lesson10_talk_end:",
    // Counts down from ebx millions, and asks for nothing.
    ".globl lesson10_work, lesson10_work_end",
    "lesson10_work:",
    "    imul $1000000, %ebx, %ecx",
    "1:  dec %ecx",
    "    jnz 1b",
    "    mov ${exit}, %eax",
    "    int $0x80",
    "lesson10_work_end:",
    // Reads memory of the kernel.
    ".globl lesson10_spy, lesson10_spy_end",
    "lesson10_spy:",
    "    mov 0xC0100000, %eax",
    "    mov ${exit}, %eax",
    "    int $0x80",
    "lesson10_spy_end:",
    code = const CODE,
    exit = const call::EXIT,
    write = const call::WRITE,
    sleep = const call::SLEEP,
    options(att_syntax)
);

/// The code between two labels of the assembly.
macro_rules! program {
    ($(#[$doc:meta])* $name:ident: $start:ident, $end:ident) => {
        $(#[$doc])*
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                static $start: u8;
                static $end: u8;
            }
            let (start, end) = (&raw const $start, &raw const $end);
            let bytes = end as usize - start as usize;
            // SAFETY: these are the bytes between two labels of one section.
            unsafe { core::slice::from_raw_parts(start, bytes) }
        }
    };
}
pub(crate) use program;

program! {
    /// Prints, and sleeps in between, as often as its argument says.
    talk: lesson10_talk, lesson10_talk_end
}

program! {
    /// Counts so many millions, and ends with its argument as the result.
    work: lesson10_work, lesson10_work_end
}

program! {
    /// Reads memory of the kernel.
    spy: lesson10_spy, lesson10_spy_end
}

/// Runs a program to its end. Other tasks run meanwhile.
pub async fn run(code: &[u8], argument: u32) -> (End, Counts) {
    let process = Process::new(code, argument).expect("there is memory");
    process.run().await
}
