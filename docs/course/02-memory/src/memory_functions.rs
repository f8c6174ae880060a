//! Four functions that the compiler takes for granted.
//!
//! Any code may be compiled into a call of one of them. Elsewhere the C library
//! has them. These are weak: the guest kit, which the tests use, brings its
//! own.

use core::arch::global_asm;

global_asm!(
    ".text",
    ".weak memcpy, memmove, memset, memcmp",
    // Arguments are on the stack, the result is in eax, and esi and edi belong
    // to the caller.
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
    "memmove:",
    "    mov 4(%esp), %eax",
    "    sub 8(%esp), %eax",
    "    cmp 12(%esp), %eax",
    "    jae memcpy", // the target does not begin inside the source
    "    push %esi",
    "    push %edi",
    "    mov 20(%esp), %ecx",
    "    mov 12(%esp), %edi",
    "    mov 16(%esp), %esi",
    "    lea -1(%edi,%ecx), %edi",
    "    lea -1(%esi,%ecx), %esi",
    "    std", // from the last byte to the first
    "    rep movsb",
    "    cld",
    "    mov 12(%esp), %eax",
    "    pop %edi",
    "    pop %esi",
    "    ret",
    "memset:",
    "    push %edi",
    "    mov 8(%esp), %edi",
    "    mov 12(%esp), %eax",
    "    mov 16(%esp), %ecx",
    "    rep stosb",
    "    mov 8(%esp), %eax",
    "    pop %edi",
    "    ret",
    "memcmp:",
    "    push %esi",
    "    push %edi",
    "    mov 12(%esp), %esi",
    "    mov 16(%esp), %edi",
    "    mov 20(%esp), %ecx",
    "    xor %eax, %eax",
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
