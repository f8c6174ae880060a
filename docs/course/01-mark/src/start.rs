//! The first instructions of a kernel, and its last ones after a panic.
//!
//! The Launcher looks for the mark, and the processor begins at the byte after
//! it. Paging is on, interrupts are off, and there is no stack yet. esi is the
//! physical address of the boot parameters.

use core::arch::global_asm;
use core::panic::PanicInfo;

global_asm!(
    ".section .text.boot, \"ax\"",
    ".ascii \"GenuineLguest\"",
    "    mov $first_stack + {size}, %esp",
    "    xor %ebp, %ebp", // no function has called this one
    "    call kernel",
    ".section .bss.first_stack, \"aw\", @nobits",
    ".balign 16",
    "first_stack:",
    "    .skip {size}",
    size = const 64 << 10,
    options(att_syntax)
);

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    lesson01::end(c"panic")
}
