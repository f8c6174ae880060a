//! The mapper's task: it makes the system calls that the view orders.
//!
//! The mapper shares the memory of a user process and nothing else with it. It
//! keeps everything in registers and runs from memory that cannot be written.
//! It reads its orders from pages that the user process cannot write, and waits
//! for more of them as a user process waits for its view.

#![expect(unsafe_code, reason = "starts a task, and assembly")]

use crate::confine::{self, Facts, install};
use crate::layout::{COMMANDS, Command, STACK};
use crate::notify::WAIT;
use crate::process::{CLONE_FILES, CLONE_PARENT, die_with_parent};
use crate::shared::user_pages;
use crate::syscall::{call, nr};
use core::arch::global_asm;
use core::sync::atomic::Ordering;
use lg_host::address::as_word;

/// Starts the mapper of this user process.
pub(super) fn start_mapper(shared_pages: u32) -> Result<u32, i32> {
    /// Its stack until it is ready: the lower end of ours, which is not in use.
    const STACK_TOP: usize = STACK + 0x8000;
    const CLONE_VM: usize = 0x100;
    let flags = CLONE_PARENT | CLONE_FILES | CLONE_VM;
    // SAFETY: the new task uses a stack of its own, and nothing else of ours.
    let pid = unsafe { lg_start_mapper(flags, STACK_TOP, shared_pages) };
    match usize::try_from(pid) {
        Ok(pid) => Ok(as_word(pid)),
        Err(_) => Err(i32::try_from(-pid).unwrap_or(i32::MAX)),
    }
}

/// Confines the mapper, in its own task.
extern "C" fn mapper(shared_pages: u32) {
    const SIG_BLOCK: usize = 0;
    let all = u64::MAX;
    let at = &raw const all as usize;
    let page = &user_pages().page;
    let ready = || {
        die_with_parent()?;
        // SAFETY: the kernel reads `all`.
        unsafe { call(nr::RT_SIGPROCMASK, [SIG_BLOCK, at, 0, 8, 0, 0]) }?;
        let facts = Facts {
            call_site: &raw const lg_mapper_site as u64,
            shared_pages,
            ..Facts::default()
        };
        install(&confine::mapper(&facts), confine::WITH_LISTENER)
    };
    match ready() {
        Ok(fd) => page.listeners[1].store(as_word(fd) + 1, Ordering::SeqCst),
        Err(error) => {
            page.failed.store(error.unsigned_abs(), Ordering::SeqCst);
        }
    }
}

// lg_start_mapper: rdi = flags, rsi = stack, rdx = shared pages.
// lg_mapper: no stack. Live: r12 = the first order, r13 = how many there are,
// rbx = how many are done, rbp = the error of the last one if it failed,
// r14 = 0 while it asks for orders.
global_asm!(
    ".globl lg_start_mapper, lg_mapper_site",
    "lg_start_mapper:",
    "    mov r12d, edx",
    "    mov eax, {clone}",
    "    xor edx, edx",
    "    xor r10d, r10d",
    "    xor r8d, r8d",
    "    syscall",
    "    test rax, rax",
    "    jz 2f",
    "    ret",
    "2:  mov edi, r12d",
    "    call {mapper}",
    "lg_mapper:",
    "    movabs r12, {orders}",
    "    xor ebx, ebx",
    "    xor ebp, ebp",
    "2:  xor r14d, r14d",
    "    mov eax, {wait}",
    "    mov rdi, rbx",
    "    mov rsi, rbp",
    "    jmp 4f",
    "3:  mov r14d, 1",
    "    imul r15, rbx, {order_size}",
    "    add r15, r12",
    "    mov rax, [r15]",
    "    mov rdi, [r15 + 8]",
    "    mov rsi, [r15 + 16]",
    "    mov rdx, [r15 + 24]",
    "    mov r10, [r15 + 32]",
    "    mov r8, [r15 + 40]",
    "    mov r9, [r15 + 48]",
    "4:  syscall",
    "lg_mapper_site:",
    "    test r14d, r14d",
    "    jnz 5f",
    "    test rax, rax",
    "    jle 2b",
    "    mov r13, rax",
    "    xor ebx, ebx",
    "    xor ebp, ebp",
    "    jmp 3b",
    "5:  test rax, rax",
    "    js 6f",
    "    inc rbx",
    "    cmp rbx, r13",
    "    jb 3b",
    "    jmp 2b",
    "6:  mov rbp, rax",
    "    jmp 2b",
    clone = const nr::CLONE,
    wait = const WAIT,
    mapper = sym mapper,
    orders = const COMMANDS,
    order_size = const size_of::<Command>(),
);

unsafe extern "C" {
    fn lg_start_mapper(flags: usize, stack: usize, pages: u32) -> isize;
    static lg_mapper_site: u8;
}
