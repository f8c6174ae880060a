//! System calls.
//!
//! All arguments are words. A kernel of the kit reads memory of its programs,
//! and writes to none of it, so no call can change what a program owns.

#![expect(unsafe_code, reason = "the instruction of system calls")]

use crate::call;
use core::arch::asm;

/// Makes a system call: one of [`call`], or one that the kernel has beside
/// them.
#[must_use]
pub fn system_call(number: u32, arguments: [u32; 3]) -> u32 {
    let [first, second, third] = arguments;
    let result;
    // SAFETY: the kernel returns with all registers but eax as they were, and
    // writes to no memory of this program (see above).
    unsafe {
        asm!(
            "int $0x80",
            inlateout("eax") number => result,
            in("ebx") first,
            in("ecx") second,
            in("edx") third,
            options(att_syntax)
        );
    }
    result
}

/// Ends the program.
pub fn exit(result: u32) -> ! {
    loop {
        // It does not return.
        let _ = system_call(call::EXIT, [result, 0, 0]);
    }
}

/// Prints all of `bytes`, in as many calls as that takes. Returns whether the
/// kernel could.
pub fn write(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        let address = word(rest.as_ptr() as usize);
        let printed = system_call(call::WRITE, [address, word(rest.len()), 0]);
        if printed == 0 || printed as usize > rest.len() {
            return false;
        }
        rest = &rest[printed as usize..];
    }
    true
}

/// Lets other programs run.
pub fn yield_now() {
    let _ = system_call(call::YIELD, [0; 3]);
}

/// Sleeps.
pub fn sleep(microseconds: u32) {
    let _ = system_call(call::SLEEP, [microseconds, 0, 0]);
}

/// Makes the system call that does nothing: used to measure the cost.
pub fn nothing() {
    let _ = system_call(call::NOTHING, [0; 3]);
}

#[expect(clippy::cast_possible_truncation, reason = "usize has 32 bits here")]
const fn word(number: usize) -> u32 {
    number as u32
}
