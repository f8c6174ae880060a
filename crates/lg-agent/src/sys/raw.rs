//! The instructions that reach the kernel: system calls, and new processes.
//!
//! A new process of [`clone`] runs a function on a stack of its own, in the
//! memory of this process. So a program is started without a copy of the page
//! tables, and a failure before its start is a store to memory. The program has
//! no C library: on i386 all arguments go through `int $0x80`, which every
//! release of Linux has.
#![expect(unsafe_code, reason = "system calls")]

use core::arch::global_asm;

/// A system call's number and its arguments.
type Words = [usize; 7];

unsafe extern "C" {
    /// Makes a system call. The kernel's answer is an error from -4095 to -1.
    fn lg_agent_syscall(words: *const Words) -> isize;

    /// Makes a process that calls `function(argument)` on a stack that ends at
    /// `stack`. The function does not return.
    fn lg_agent_clone(
        flags: usize,
        stack: *mut u8,
        function: unsafe extern "C" fn(*mut u8) -> !,
        argument: *mut u8,
    ) -> isize;
}

// The pointer to the words is on the stack, above four saved registers.
#[cfg(target_arch = "x86")]
global_asm!(
    ".globl lg_agent_syscall",
    "lg_agent_syscall:",
    "push ebp",
    "push ebx",
    "push esi",
    "push edi",
    "mov eax, [esp + 20]",
    "mov ebx, [eax + 4]",
    "mov ecx, [eax + 8]",
    "mov edx, [eax + 12]",
    "mov esi, [eax + 16]",
    "mov edi, [eax + 20]",
    "mov ebp, [eax + 24]",
    "mov eax, [eax]",
    "int 0x80",
    "pop edi",
    "pop esi",
    "pop ebx",
    "pop ebp",
    "ret",
);

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl lg_agent_syscall",
    "lg_agent_syscall:",
    "mov rax, rdi",
    "mov rdi, [rax + 8]",
    "mov rsi, [rax + 16]",
    "mov rdx, [rax + 24]",
    "mov r10, [rax + 32]",
    "mov r8, [rax + 40]",
    "mov r9, [rax + 48]",
    "mov rax, [rax]",
    "syscall",
    "ret",
);

// The kernel gives both processes the same registers. It does not look at those
// of the third to the fifth argument, for no flag asks for them: esi and edi,
// or r8 and r9, carry the function and its argument to the new process.
#[cfg(target_arch = "x86")]
global_asm!(
    ".globl lg_agent_clone",
    "lg_agent_clone:",
    "push ebx",
    "push esi",
    "push edi",
    "mov ebx, [esp + 16]",
    "mov ecx, [esp + 20]",
    "mov esi, [esp + 24]",
    "mov edi, [esp + 28]",
    "xor edx, edx",
    "mov eax, {clone}",
    "int 0x80",
    "test eax, eax",
    "jnz 2f",
    "xor ebp, ebp",
    "and esp, -16",
    "sub esp, 12",
    "push edi",
    "call esi",
    "ud2",
    "2:",
    "pop edi",
    "pop esi",
    "pop ebx",
    "ret",
    clone = const linux_raw_sys::general::__NR_clone,
);

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl lg_agent_clone",
    "lg_agent_clone:",
    "mov r8, rcx",
    "mov r9, rdx",
    "xor edx, edx",
    "xor r10d, r10d",
    "mov eax, {clone}",
    "syscall",
    "test rax, rax",
    "jnz 2f",
    "xor ebp, ebp",
    "and rsp, -16",
    "mov rdi, r8",
    "call r9",
    "ud2",
    "2:",
    "ret",
    clone = const linux_raw_sys::general::__NR_clone,
);

/// The number of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

/// Makes a system call.
///
/// # Safety
///
/// The call may do nothing to memory but what its caller allows: each argument
/// that is an address points to memory that the kernel may read or write as the
/// call says.
pub(super) unsafe fn call<const N: usize>(
    number: u32,
    arguments: [usize; N],
) -> Result<usize, Errno> {
    let mut words: Words = [0; 7];
    words[0] = number as usize;
    for (word, argument) in words[1..].iter_mut().zip(arguments) {
        *word = argument;
    }
    // SAFETY: the words are there until it returns, and the caller answers for
    // what the call does.
    answer(unsafe { lg_agent_syscall(&raw const words) })
}

/// Makes a process that shares this one's memory.
///
/// # Safety
///
/// The stack is writable, and is not used until the process is gone. The flags
/// contain CLONE_VM, and none that makes the kernel look at its third, fourth
/// or fifth argument. What the function does is right for two processes at
/// once.
pub(super) unsafe fn clone(
    flags: u32,
    stack: *mut u8,
    function: unsafe extern "C" fn(*mut u8) -> !,
    argument: *mut u8,
) -> Result<u32, Errno> {
    // SAFETY: as the caller says.
    let made =
        unsafe { lg_agent_clone(flags as usize, stack, function, argument) };
    answer(made).map(|pid| u32::try_from(pid).unwrap_or(0))
}

fn answer(word: isize) -> Result<usize, Errno> {
    match u32::try_from(word.wrapping_neg()) {
        Ok(error @ 1..=4095) => Err(Errno(error)),
        _ => Ok(word as usize),
    }
}
