//! Things that are tried instead of asked about.
//!
//! What would leave a trace in this process, or end it, is done by a copy of
//! it. The copy makes system calls and ends; it allocates nothing.

#![expect(unsafe_code, reason = "fork, and calls that no crate wraps")]

use std::arch::asm;
use std::ffi::CStr;
use std::os::fd::AsRawFd;

/// Whether `act` succeeds in a copy of this process; else its error. A copy
/// that was killed has the error EINTR.
pub(super) fn in_a_copy(
    act: impl FnOnce() -> Result<(), i32>,
) -> Result<(), i32> {
    // SAFETY: the copy does what the caller wants, and does not come back.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let error = act().err().unwrap_or(0);
        // SAFETY: ends the copy alone. Errors are below 134, so they fit.
        unsafe { libc::_exit(error) };
    }
    if child < 0 {
        return Err(last_error());
    }
    let mut status = 0;
    // SAFETY: the kernel writes `status`.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        if last_error() != libc::EINTR {
            return Err(last_error());
        }
    }
    match libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)) {
        Some(0) => Ok(()),
        Some(error) => Err(error),
        None => Err(libc::EINTR),
    }
}

fn last_error() -> i32 {
    let error = std::io::Error::last_os_error();
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Makes a system call; arguments that it does not take are ignored.
fn call(nr: libc::c_long, a: [usize; 5]) -> Result<usize, i32> {
    // SAFETY: the callers here pass addresses of what they own, of the size
    // that the call wants.
    let result = unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4]) };
    usize::try_from(result).map_err(|_| last_error())
}

/// Makes a segment in the local descriptor table.
pub(super) fn make_segment() -> Result<(), i32> {
    const WRITE: usize = 0x11;
    // Entry, base, limit, flags: 32 bits, limit in pages, useable.
    let entry = [0_u32, 0, 0xF_FFFF, 0x51];
    let (at, size) = (&raw const entry as usize, size_of_val(&entry));
    // The result of this one call is 32 bits wide.
    match call(libc::SYS_modify_ldt, [WRITE, at, size, 0, 0])? {
        0 => Ok(()),
        error => {
            Err(i32::try_from(error.wrapping_neg() & 0xFFF)
                .unwrap_or(libc::EIO))
        }
    }
}

/// The access rights of segment `selector`, if it may be loaded.
pub(super) fn rights_of(selector: u32) -> Option<u32> {
    let mut rights = 0_u32;
    let there: u8;
    // SAFETY: reads a descriptor; where there is none, nothing is written.
    unsafe {
        asm!(
            "lar {rights:e}, {selector:e}",
            "setz {there}",
            rights = inout(reg) rights,
            selector = in(reg) selector,
            there = out(reg_byte) there,
            options(nomem, nostack),
        );
    };
    (there != 0).then_some(rights)
}

/// Makes a system call as a Guest's programs do, and catches it by a filter
/// as views do.
pub(super) fn call_by_the_32_bit_door() -> Result<(), i32> {
    const ERROR: i32 = libc::E2BIG;
    const GETPID: i64 = 20;
    const LOAD_ARCH: [u32; 2] = [0x20, 4];
    // "If it is not AUDIT_ARCH_I386, skip one."
    const UNLESS_I386: [u32; 2] = [0x0100_0015, 0x4000_0003];
    const FAIL: [u32; 2] = [0x06, 0x0005_0000 | ERROR.cast_unsigned()];
    install(0, &[LOAD_ARCH, UNLESS_I386, FAIL, ALLOW])?;
    let mut result = GETPID;
    // SAFETY: asks for a number, or fails. The kernel keeps the registers of
    // 64-bit code, but not the upper ones.
    unsafe {
        asm!(
            "int 0x80",
            inout("rax") result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    };
    if result == -i64::from(ERROR) {
        Ok(())
    } else {
        Err(libc::EPROTO)
    }
}

/// Installs a filter that allows everything, in all threads, or one that asks
/// somebody else.
pub(super) fn install_filter(flags: usize) -> Result<(), i32> {
    install(flags, &[ALLOW])
}

/// "Return SECCOMP_RET_ALLOW".
const ALLOW: [u32; 2] = [0x06, 0x7FFF_0000];

fn install(flags: usize, code: &[[u32; 2]]) -> Result<(), i32> {
    const SET_MODE_FILTER: usize = 1;
    #[repr(C)]
    struct Program {
        len: u16,
        code: *const [u32; 2],
    }
    let program = Program {
        len: u16::try_from(code.len()).map_err(|_| libc::EINVAL)?,
        code: code.as_ptr(),
    };
    let at = &raw const program as usize;
    rustix::thread::set_no_new_privs(true)
        .map_err(rustix::io::Errno::raw_os_error)?;
    call(libc::SYS_seccomp, [SET_MODE_FILTER, flags, at, 0, 0]).map(drop)
}

/// The version of landlock's interface.
pub(super) fn landlock_interface() -> Result<usize, i32> {
    const VERSION: usize = 1;
    call(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0])
}

/// Makes a ring of io_uring.
pub(super) fn make_ring() -> Result<(), i32> {
    let parameters = [0_u64; 15];
    let at = &raw const parameters as usize;
    call(libc::SYS_io_uring_setup, [1, at, 0, 0, 0]).map(drop)
}

/// Takes a protection key.
pub(super) fn take_key() -> Result<(), i32> {
    call(libc::SYS_pkey_alloc, [0; 5]).map(drop)
}

/// Leaves the namespaces of `flags`.
pub(super) fn leave(flags: libc::c_int) -> Result<(), i32> {
    // SAFETY: changes this copy of the process alone.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// Runs the program in `file`, an open memory file.
pub(super) fn run_program(file: &impl AsRawFd) -> Result<(), i32> {
    let none = [std::ptr::null::<libc::c_char>()];
    let empty: &CStr = c"";
    let flags = usize::try_from(libc::AT_EMPTY_PATH).unwrap_or(0);
    let fd = usize::try_from(file.as_raw_fd()).unwrap_or(usize::MAX);
    call(
        libc::SYS_execveat,
        [
            fd,
            empty.as_ptr() as usize,
            none.as_ptr() as usize,
            none.as_ptr() as usize,
            flags,
        ],
    )
    .map(drop)
}
