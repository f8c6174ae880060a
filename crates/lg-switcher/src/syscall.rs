//! System calls: the instruction by which almost all of them are made.
//!
//! A view has no C library. Its system calls are made by the `syscall` of
//! `lg_syscall`, and the filter ([`crate::confine`]) allows them from no other
//! address. There are four exceptions, each a `syscall` of its own that the
//! filter knows: the return from a signal (`lg_restorer`, below), the wait of a
//! view for its user process (`lg_wait`), the wait of a user process
//! (`lg_stand`), and the calls of a mapper (`lg_mapper`).

#![expect(unsafe_code, reason = "system calls are assembly")]

use core::arch::global_asm;

// In:  rdi = number, rsi, rdx, rcx, r8, r9, [rsp+8] = arguments 1 to 6.
// Out: rax = result, or minus an errno.
global_asm!(
    ".globl lg_syscall, lg_syscall_site, lg_restorer, lg_restorer_site",
    "lg_syscall:",
    "    mov rax, rdi",
    "    mov rdi, rsi",
    "    mov rsi, rdx",
    "    mov rdx, rcx",
    "    mov r10, r8",
    "    mov r8, r9",
    "    mov r9, [rsp + 8]",
    "    syscall",
    "lg_syscall_site:",
    "    ret",
    // Signal handlers return here; the frame is at rsp.
    "lg_restorer:",
    "    mov eax, {rt_sigreturn}",
    "    syscall",
    "lg_restorer_site:",
    "    ud2",
    rt_sigreturn = const nr::RT_SIGRETURN,
);

unsafe extern "C" {
    fn lg_syscall(
        nr: usize,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> isize;
    static lg_syscall_site: u8;
    static lg_restorer_site: u8;
    /// Where a signal handler returns to.
    pub(crate) fn lg_restorer();
}

/// Numbers of system calls on x86-64.
#[allow(missing_docs)] // section 2 of the manual has them all
pub(crate) mod nr {
    pub(crate) const READ: usize = 0;
    pub(crate) const WRITE: usize = 1;
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const MMAP: usize = 9;
    pub(crate) const MPROTECT: usize = 10;
    pub(crate) const MUNMAP: usize = 11;
    pub(crate) const RT_SIGACTION: usize = 13;
    pub(crate) const RT_SIGPROCMASK: usize = 14;
    pub(crate) const RT_SIGRETURN: usize = 15;
    pub(crate) const IOCTL: usize = 16;
    pub(crate) const SCHED_YIELD: usize = 24;
    pub(crate) const MREMAP: usize = 25;
    pub(crate) const CLONE: usize = 56;
    pub(crate) const GETPPID: usize = 110;
    pub(crate) const SIGALTSTACK: usize = 131;
    pub(crate) const MODIFY_LDT: usize = 154;
    pub(crate) const PRCTL: usize = 157;
    pub(crate) const ARCH_PRCTL: usize = 158;
    pub(crate) const FUTEX: usize = 202;
    pub(crate) const TIMER_CREATE: usize = 222;
    pub(crate) const TIMER_SETTIME: usize = 223;
    pub(crate) const CLOCK_GETTIME: usize = 228;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const TGKILL: usize = 234;
    pub(crate) const SECCOMP: usize = 317;
    pub(crate) const PREADV2: usize = 327;
    pub(crate) const CLOSE_RANGE: usize = 436;
}

/// Numbers of errors.
#[allow(missing_docs)]
pub(crate) mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EINTR: i32 = 4;
    pub(crate) const EBADF: i32 = 9;
    pub(crate) const EAGAIN: i32 = 11;
    pub(crate) const ENOMEM: i32 = 12;
    pub(crate) const EFAULT: i32 = 14;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const ETIMEDOUT: i32 = 110;
}

// Numbers of signals.
pub(crate) const SIGILL: i32 = 4;
pub(crate) const SIGTRAP: i32 = 5;
pub(crate) const SIGBUS: i32 = 7;
pub(crate) const SIGFPE: i32 = 8;
pub(crate) const SIGSEGV: i32 = 11;
pub(crate) const SIGSYS: i32 = 31;

/// The timer's signal.
pub(crate) const SIGALRM: i32 = 14;

/// The driver's signal to a user process that does not answer its kicks. The
/// handler reports where the user process is.
pub(crate) const FORCE_SIGNAL: i32 = 12;

/// The address behind the one `syscall` instruction: what the kernel reports
/// as the caller.
#[must_use]
pub(crate) fn call_site() -> u64 {
    &raw const lg_syscall_site as u64
}

/// The address behind the `syscall` of a signal's return.
#[must_use]
pub(crate) fn return_site() -> u64 {
    &raw const lg_restorer_site as u64
}

/// Makes system call `nr`. Arguments that it does not take are ignored.
///
/// # Errors
///
/// The number of the error.
///
/// # Safety
///
/// No memory that the call changes is used in another way.
pub(crate) unsafe fn call(nr: usize, a: [usize; 6]) -> Result<usize, i32> {
    // SAFETY: the caller's.
    let result = unsafe { lg_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) };
    usize::try_from(result).map_err(|_| {
        // Errors are minus one to minus 4095.
        i32::try_from(-result).unwrap_or(i32::MAX)
    })
}

/// `futex(FUTEX_WAIT)`: sleeps while `word` is `value`. May return early.
pub(crate) fn futex_wait(word: &core::sync::atomic::AtomicU32, value: u32) {
    const FUTEX_WAIT: usize = 0;
    let at = word.as_ptr() as usize;
    // SAFETY: only reads the word.
    let _ =
        unsafe { call(nr::FUTEX, [at, FUTEX_WAIT, value as usize, 0, 0, 0]) };
}

/// `futex(FUTEX_WAKE)`: wakes one task that sleeps on `word`.
pub(crate) fn futex_wake(word: &core::sync::atomic::AtomicU32) {
    futex_wake_at(word.as_ptr() as usize);
}

/// The same, by the word's address.
pub(crate) fn futex_wake_at(at: usize) {
    const FUTEX_WAKE: usize = 1;
    // SAFETY: touches no memory.
    let _ = unsafe { call(nr::FUTEX, [at, FUTEX_WAKE, 1, 0, 0, 0]) };
}

/// A piece of memory as the kernel takes it (`struct iovec`): address and
/// bytes.
pub(crate) type Vector = [usize; 2];

/// The flag of `preadv2` that reads only what is in memory (`RWF_NOWAIT`).
pub(crate) const NO_WAIT: usize = 8;

/// `preadv2` from `offset` on, of what the kernel has in memory. Returns the
/// bytes that were read.
///
/// # Safety
///
/// The pieces are memory to which there are no references.
pub(crate) unsafe fn read_now(
    fd: i32,
    pieces: &[Vector],
    offset: u64,
) -> Result<usize, i32> {
    let fd = fd.cast_unsigned() as usize;
    let at = pieces.as_ptr() as usize;
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let arguments = [fd, at, pieces.len(), offset, 0, NO_WAIT];
    // SAFETY: the kernel reads `pieces`, and the caller vouches for what it
    // writes.
    unsafe { call(nr::PREADV2, arguments) }
}

/// Ends the process.
pub(crate) fn exit(status: i32) -> ! {
    loop {
        // SAFETY: the process ends, and uses no memory afterwards.
        let _ = unsafe {
            call(
                nr::EXIT_GROUP,
                [status.cast_unsigned() as usize, 0, 0, 0, 0, 0],
            )
        };
    }
}
