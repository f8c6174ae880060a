//! The program that runs a Guest: the Switcher and the Host, alone.
//!
//! There is no C library here, and nothing runs before `_start`. So there is no
//! thread-local storage, which could not be used while the Guest's segments are
//! loaded; nothing is linked at run time; and nothing of the Launcher's is in
//! memory. This file has what a C library would have brought: the first
//! instructions, the memory functions, and a panic handler.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the first instructions are assembly")]

use core::arch::global_asm;
use lg_switcher::die_of;
use lg_switcher::layout::{STACK, STACK_SIZE};
use lg_switcher::vdso;
use lg_switcher::view;
use lg_wire::mailbox::Request;

// The kernel's stack is aligned, and is used until ours is mapped.
global_asm!(
    ".globl _start",
    "_start:",
    "    xor ebp, ebp",
    "    mov rbx, rsp",
    "    call {map_stack}",
    "    movabs rsp, {stack_top}",
    "    mov rdi, rbx",
    "    call {main}",
    "    ud2",
    map_stack = sym map_stack,
    main = sym main,
    stack_top = const STACK + STACK_SIZE,
);

extern "C" fn map_stack() {
    view::map_stack();
}

/// `stack` is the kernel's, as it was at the first instruction.
extern "C" fn main(stack: *const u64) -> ! {
    // SAFETY: nothing has been changed on the kernel's stack yet.
    unsafe { vdso::find(stack) };
    view::main()
}

// The memory functions that the compiler relies on. Byte moves are fast on
// any processor of the last ten years, and use no register that a Guest has
// state in. (rdi, rsi, rdx as a C function has them.)
global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp, rust_eh_personality",
    "memcpy:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    "memmove:",
    "    mov rax, rdi",
    "    mov rcx, rdi",
    "    sub rcx, rsi",
    "    cmp rcx, rdx",
    "    mov rcx, rdx",
    "    jb 2f",
    "    rep movsb",
    "    ret",
    // The target begins inside the source: from the end, downwards.
    "2:  lea rdi, [rdi + rdx - 1]",
    "    lea rsi, [rsi + rdx - 1]",
    "    std",
    "    rep movsb",
    "    cld",
    "    ret",
    "memset:",
    "    mov r8, rdi",
    "    mov eax, esi",
    "    mov rcx, rdx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    "bcmp:",
    "memcmp:",
    "    xor eax, eax",
    "    mov rcx, rdx",
    "    cmp rcx, rcx",
    "    repe cmpsb",
    "    je 2f",
    "    movzx eax, byte ptr [rdi - 1]",
    "    movzx ecx, byte ptr [rsi - 1]",
    "    sub ecx, eax",
    "    mov eax, ecx",
    "2:  ret",
    // The precompiled core refers to it; nothing unwinds.
    "rust_eh_personality:",
    "    ud2",
);

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let place = info.location();
    let mut text = [0; 120];
    let prefix = b"the Host is wrong about something, in ";
    let file = place.map_or("?", |place| place.file()).as_bytes();
    let line = place.map_or(0, |place| place.line());
    let mut digits = [b' ', b'0', b'0', b'0', b'0'];
    let mut rest = line;
    for digit in digits[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10).to_le_bytes()[0];
        rest /= 10;
    }
    let mut len = 0;
    for &byte in prefix.iter().chain(file).chain(&digits) {
        if let Some(free) = text.get_mut(len) {
            *free = byte;
            len += 1;
        }
    }
    die_of(Request::Killed, &text[..len])
}
