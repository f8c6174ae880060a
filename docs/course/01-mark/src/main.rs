//! Lesson 1: a kernel that prints a line.
//!
//! It has a mark, a stack, three hypercalls, and nothing else.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "assembly calls a function by its name")]

mod start;

#[unsafe(no_mangle)]
extern "C" fn kernel() -> ! {
    lesson01::init();
    lesson01::print(b"Hello, I am a kernel.\r\n");
    lesson01::end(c"Power down")
}
