//! Lesson 2: a kernel that says what it has found.
//!
//! Its first instructions are those of lesson 1.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "assembly calls a function by its name")]

#[path = "../../01-mark/src/start.rs"]
mod start;

use core::fmt::Write;
use lesson02::console::Console;
use lesson02::{command_line, map, memory};

#[unsafe(no_mangle)]
extern "C" fn kernel() -> ! {
    lesson01::init();
    let text = command_line();
    // The console takes all that it is given, so this never fails.
    let _ = writeln!(Console, "I have {} MiB of memory.", memory() >> 20);
    for range in map() {
        let _ = writeln!(Console, "{range:x?}");
    }
    let _ = writeln!(Console, "My command line is {text:?}.");
    lesson01::end(c"Power down")
}
