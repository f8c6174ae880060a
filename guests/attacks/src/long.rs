//! Jumps to 64-bit mode, with any registers, to any address.
//!
//! The kernel of the real machine has a 64-bit code segment for all processes,
//! and nothing stops a far jump to it. After that jump code can access the
//! whole process: the Host, its stack, the state that all views share, and the
//! one `syscall` that the filter allows.

#![expect(unsafe_code, reason = "64-bit code, and a jump to it")]

use crate::lab::memory::{self, Page};
use crate::lab::run::{User, put_user};
use core::arch::global_asm;
use core::mem::offset_of;

/// The real selectors: 64-bit code, and flat 32-bit code.
const LONG_CS: u32 = 0x33;
const FLAT_CS: u32 = 0x23;

/// The registers that are loaded before the jump. The results are in `rax` and
/// `rdx`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Long {
    pub(crate) rip: u64,
    pub(crate) rax: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rdx: u64,
    pub(crate) r10: u64,
    pub(crate) r8: u64,
    pub(crate) r9: u64,
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rbp: u64,
    pub(crate) r12: u64,
    pub(crate) flags: u64,
    /// In user mode, returns by `int $0x80`, which the kernel handles.
    pub(crate) user: u64,
}

global_asm!(
    r#"
.text
// `fn(&mut Long)`: returns if the code there returns.
.globl long_call, long_entry
long_call:
    push %ebp
    push %ebx
    push %esi
    push %edi
    mov 20(%esp), %ecx
    .byte 0xEA // ljmp
    .long 1f
    .word {long_cs}
.code64
long_entry: // ecx = the block, esp = some stack
1:  mov %esp, %esp
    mov %ecx, %r15d
    push %r15
    lea 2f(%rip), %rax
    push %rax
    push {rip}(%r15)
    push {flags}(%r15)
    mov {rax}(%r15), %rax
    mov {rdi}(%r15), %rdi
    mov {rsi}(%r15), %rsi
    mov {rdx}(%r15), %rdx
    mov {r10}(%r15), %r10
    mov {r8}(%r15), %r8
    mov {r9}(%r15), %r9
    mov {rbx}(%r15), %rbx
    mov {rcx}(%r15), %rcx
    mov {rbp}(%r15), %rbp
    mov {r12}(%r15), %r12
    popfq
    ret
2:  push $2
    popfq
    pop %r15
    mov %rax, {rax}(%r15)
    mov %rdx, {rdx}(%r15)
    mov {user}(%r15), %rcx
    push ${flat_cs}
    lea 3f(%rip), %rax
    push %rax
    lretq
.code32
3:  test %ecx, %ecx
    jnz 4f
    pop %edi
    pop %esi
    pop %ebx
    pop %ebp
    ret
4:  int $0x80
    jmp 4b

// Small 64-bit routines to jump to: see `Routine`.
.globl long_routines
.balign 16
long_routines:
.code64
    syscall                     // SYSCALL
    ret
.balign 16
    mov (%rdi), %rax            // PEEK
    ret
.balign 16
    mov %esi, (%rdi)            // POKE
    ret
.balign 16
    rep movsb                   // COPY
    ret
.balign 16
    mov %rdi, %rsp              // STACK
    jmp *%rsi
.balign 16
    int $0x80                   // INT80
    ret
.balign 16
    sysenter                    // SYSENTER
    ret
.balign 16
    jmp .                       // SPIN
.balign 16
    mov %esi, (%rdi)            // POKE_AND_SPIN
    jmp .
.balign 16
    mov %rsi, %rcx              // FILL: rsi words of eax from rdi on
    rep stosl
    ret
.balign 16
    int $0x1f                   // INT1F
    ret
.balign 16
    mov (%rdi), %eax            // FLIP
    xor %esi, %eax
    mov %eax, (%rdi)
    ret
.balign 16
    // SCRIBBLE: for ever, random words at random addresses of rdi .. rdi + rsi
    // (a power of two), rdx of them; rbx = seed. Only bits of r8 are set.
5:  mov %rbx, %rax
    shl $13, %rax
    xor %rax, %rbx
    mov %rbx, %rax
    shr $7, %rax
    xor %rax, %rbx
    mov %rbx, %rax
    shl $17, %rax
    xor %rax, %rbx
    mov %rbx, %rcx
    shr $32, %rcx
    and $-4, %rcx
    dec %rsi
    and %rsi, %rcx
    inc %rsi
    mov %ebx, %eax
    and %r8d, %eax
    mov %eax, (%rdi,%rcx)
    dec %rdx
    jnz 5b
    ret
.code32
"#,
    long_cs = const LONG_CS,
    flat_cs = const FLAT_CS,
    rip = const offset_of!(Long, rip),
    rax = const offset_of!(Long, rax),
    rdi = const offset_of!(Long, rdi),
    rsi = const offset_of!(Long, rsi),
    rdx = const offset_of!(Long, rdx),
    r10 = const offset_of!(Long, r10),
    r8 = const offset_of!(Long, r8),
    r9 = const offset_of!(Long, r9),
    rbx = const offset_of!(Long, rbx),
    rcx = const offset_of!(Long, rcx),
    rbp = const offset_of!(Long, rbp),
    r12 = const offset_of!(Long, r12),
    flags = const offset_of!(Long, flags),
    user = const offset_of!(Long, user),
    options(att_syntax)
);

unsafe extern "C" {
    fn long_call(block: &mut Long);
    static long_entry: u8;
    static long_routines: u8;
}

/// The numbers of two routines.
pub(crate) const POKE: u64 = 2;
pub(crate) const SCRIBBLE: u64 = 12;

/// Bytes from one small routine to the next.
const ROUTINE_SIZE: u64 = 16;

/// Addresses below this are numbers of routines, because nothing is mapped
/// there.
const ROUTINES: u64 = 0x100;

impl Long {
    /// Replaces numbers of routines by addresses.
    fn resolved(mut self) -> Self {
        let base = &raw const long_routines as usize as u64;
        if self.rip < ROUTINES {
            self.rip = base + self.rip * ROUTINE_SIZE;
        }
        self
    }

    /// Jumps, in kernel mode. Returns rax and rdx when the code returns.
    pub(crate) fn call(self) -> (u64, u64) {
        let mut block = self.resolved();
        block.user = 0;
        // SAFETY: the attack is the purpose. It can only affect this Guest.
        unsafe { long_call(&mut block) };
        (block.rax, block.rdx)
    }

    /// Jumps, in user mode. The block is in `at`, a page that user mode has at
    /// `va`. Returns the vector of the trap that ended it: 0x80 if the code
    /// returned.
    pub(crate) fn call_as_user(self, at: Page, va: u32) -> u32 {
        let mut block = self.resolved();
        block.user = 1;
        // SAFETY: the bytes of plain numbers.
        let bytes = unsafe {
            core::slice::from_raw_parts(
                (&raw const block).cast::<u8>(),
                size_of::<Self>(),
            )
        };
        memory::write(at, bytes);
        // The far jump itself is at a low address: the kernel's text is beyond
        // the limit of user segments, but 64-bit segments have none.
        let entry = &raw const long_entry as usize as u32;
        let [a, b, c, d] = entry.to_le_bytes();
        put_user(&[
            0x83,
            0x09,
            0, // orl $0, (%ecx): 64-bit code gets no page on demand
            0x50,
            0x58, // push %eax; pop %eax: nor does its stack
            0xEA,
            a,
            b,
            c,
            d,
            LONG_CS as u8,
            0,
        ]);
        let seen = User {
            ecx: va,
            ..User::new()
        }
        .run();
        seen.trapped.vector
    }
}
