//! Exercise 10: a program of your own.
//!
//! It adds the numbers from 1 to its argument, and ends with the sum.

use core::arch::global_asm;
use lg_guest::user::call;

global_asm!(
    ".section .rodata.lesson10_sum, \"a\"",
    ".globl lesson10_sum, lesson10_sum_end",
    "lesson10_sum:",
    "    mov %ebx, %ecx",
    "    xor %ebx, %ebx",
    "    jecxz 2f", // there is nothing to add
    "1:  add %ecx, %ebx",
    "    loop 1b", // one less in ecx, until it is 0
    "2:",
    "    mov ${exit}, %eax",
    "    int $0x80",
    "lesson10_sum_end:",
    exit = const call::EXIT,
    options(att_syntax)
);

crate::program! {
    /// Adds the numbers from 1 to its argument.
    sum: lesson10_sum, lesson10_sum_end
}
