//! The beginning of a program, and its end by a panic.
//!
//! The kernel enters a program at its entry point, with the argument in ebx and
//! an empty stack.

use crate::{exit, println};
use core::panic::PanicInfo;

/// The result of a program that has panicked.
const PANICKED: u32 = 101;

/// Names the function that a program starts with: `fn(u32)`. It gets the
/// argument that the kernel has given. When it returns, the program has ended
/// with 0.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[allow(unsafe_code, reason = "the first instructions")]
        mod lg_user_start {
            ::core::arch::global_asm!(
                ".section .text.lg_user_start, \"ax\"",
                ".globl lg_user_start",
                "lg_user_start:",
                "xor %ebp, %ebp", // the outermost frame
                "sub $12, %esp",  // the argument ends up aligned to 16
                "push %ebx",
                "call lg_user_main",
                options(att_syntax)
            );
        }

        #[allow(unsafe_code, reason = "the first instructions call it")]
        const _: () = {
            #[unsafe(no_mangle)]
            extern "C" fn lg_user_main(argument: u32) -> ! {
                let main: fn(u32) = $main;
                main(argument);
                $crate::exit(0)
            }

            #[panic_handler]
            fn panic(info: &::core::panic::PanicInfo<'_>) -> ! {
                $crate::panicked(info)
            }
        };
    };
}

/// Reports a panic, and ends the program.
#[doc(hidden)]
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    exit(PANICKED)
}
