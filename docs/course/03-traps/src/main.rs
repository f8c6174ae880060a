//! Lesson 3: a kernel that traps, and measures what that costs.
//!
//! Its first instructions are those of lesson 1.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "assembly calls a function by its name")]

#[path = "../../01-mark/src/start.rs"]
mod start;

use core::fmt::Write;
use lesson02::console::Console;
use lesson03::{breakpoint, breakpoints, quick, shortest};

/// A hypercall that does nothing.
const FLUSH_ASYNC: u32 = 0;

#[unsafe(no_mangle)]
extern "C" fn kernel() -> ! {
    lesson01::init();
    lesson03::count_breakpoints();
    for _ in 0..3 {
        breakpoint();
    }
    let _ = writeln!(Console, "I have answered {} traps.", breakpoints());

    let trap = shortest(|| {
        lesson01::hypercall(FLUSH_ASYNC, 0, 0, 0);
    });
    let jump = shortest(|| {
        quick::hypercall(FLUSH_ASYNC, 0, 0, 0);
    });
    let _ = writeln!(Console, "A hypercall by a trap: {trap} counts.");
    let _ = writeln!(Console, "By a jump: {jump} counts.");
    lesson01::end(c"Power down")
}
