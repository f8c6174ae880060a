//! `memcpy` and the like, which the compiler may call anywhere.
//!
//! On Linux they come from the C library, and the ready-made `core` for that
//! target relies on it. Here they use the string instructions of the CPU, which
//! are fast for all but the shortest blocks and take four lines each.

#![expect(unsafe_code, reason = "functions that the compiler knows by name")]

use core::arch::global_asm;

global_asm!(
    ".text",
    // All with the C calling convention: arguments on the stack, result in
    // eax; esi, edi and ebx belong to the caller.
    ".globl memcpy, memmove, memset, memcmp, bcmp",
    // esp: [edi] [esi] [return] to from count
    "memmove:",
    "    mov 4(%esp), %eax",
    "    sub 8(%esp), %eax", // how far the target lies behind the source
    "    cmp 12(%esp), %eax",
    "    jae memcpy", // not inside it: forwards is right
    "    push %esi",
    "    push %edi",
    "    mov 12(%esp), %edi",
    "    mov 16(%esp), %esi",
    "    mov 20(%esp), %ecx",
    "    lea -1(%edi,%ecx), %edi",
    "    lea -1(%esi,%ecx), %esi",
    "    std",
    "    rep movsb",
    "    cld",
    "    mov 12(%esp), %eax",
    "    pop %edi",
    "    pop %esi",
    "    ret",
    "memcpy:",
    "    push %esi",
    "    push %edi",
    "    mov 12(%esp), %edi",
    "    mov 16(%esp), %esi",
    "    mov 20(%esp), %ecx",
    "    mov %edi, %eax",
    "    rep movsb",
    "    pop %edi",
    "    pop %esi",
    "    ret",
    // esp: [edi] [return] to value count
    "memset:",
    "    push %edi",
    "    mov 8(%esp), %edi",
    "    mov 12(%esp), %eax",
    "    mov 16(%esp), %ecx",
    "    rep stosb",
    "    mov 8(%esp), %eax",
    "    pop %edi",
    "    ret",
    // esp: [edi] [esi] [return] one other count
    "bcmp:",
    "memcmp:",
    "    push %esi",
    "    push %edi",
    "    mov 12(%esp), %esi",
    "    mov 16(%esp), %edi",
    "    mov 20(%esp), %ecx",
    "    xor %eax, %eax", // equal, and so are the flags: count may be 0
    "    repe cmpsb",
    "    je 1f",
    "    movzbl -1(%esi), %eax",
    "    movzbl -1(%edi), %ecx",
    "    sub %ecx, %eax",
    "1:  pop %edi",
    "    pop %esi",
    "    ret",
    options(att_syntax)
);
