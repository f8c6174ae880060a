//! Attempts: actions that are tried, most of them in a copy of this process.
//!
//! An action that would change this process or end it is done by a copy of it.
//! The copy makes system calls and ends. It allocates nothing.

#![expect(unsafe_code, reason = "fork, and calls that no crate wraps")]

use crate::needs::Lack;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use std::arch::asm;
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Why an attempt did not succeed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The copy could not be made.
    NoCopy(Lack),
    /// The attempt failed with this error.
    Error(i32),
    /// The copy was killed.
    Killed(i32),
}

impl Failure {
    /// What to do: `usual`, unless the reason is that there was no copy.
    pub(super) fn cure(&self, usual: &'static str) -> &'static str {
        match self {
            Self::NoCopy(lack) => lack.cause.cure(),
            Self::Error(_) | Self::Killed(_) => usual,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCopy(lack) => {
                write!(f, "cannot {}: {}", lack.doing, lack.cause)
            }
            Self::Error(error) => io::Error::from_raw_os_error(*error).fmt(f),
            Self::Killed(libc::SIGSYS) => {
                f.write_str("a process is killed for trying it")
            }
            Self::Killed(signal) => {
                write!(f, "it is killed by signal {signal}")
            }
        }
    }
}

/// What fails when there is no copy.
const COPY: &str = "start a process";

/// Makes a copy of this process. The copy does `act`, and ends with the status
/// that `act` returns.
pub(super) fn copy(act: impl FnOnce() -> u8) -> Result<Pid, Lack> {
    // SAFETY: this process has one thread, and the copy does not come back.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = act();
        // SAFETY: ends the copy alone.
        unsafe { libc::_exit(status.into()) };
    }
    let error = io::Error::last_os_error;
    let child = (child > 0).then(|| Pid::from_raw(child)).flatten();
    child.ok_or_else(|| Lack::when(COPY, error()))
}

/// For a copy, which never drops anything: closes the descriptors that it does
/// not need, so that it is as far from a limit as a run.
pub(super) fn close_in_copy<'a, F: AsRawFd + 'a>(
    files: impl Iterator<Item = &'a F>,
) {
    const STANDARD: i32 = 3;
    for file in files.map(AsRawFd::as_raw_fd).filter(|&fd| fd >= STANDARD) {
        // SAFETY: a system call on a number that is not used any more.
        unsafe { libc::close(file) };
    }
}

/// Waits for the end of a copy.
pub(super) fn end_of(child: Pid) -> Result<WaitIdStatus, Lack> {
    loop {
        match waitid(WaitId::Pid(child), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(Lack::when(COPY, error)),
        }
    }
}

/// Does `act` in a copy of this process, and returns its result.
pub(super) fn in_a_copy(
    act: impl FnOnce() -> Result<(), i32>,
) -> Result<(), Failure> {
    // Errors are below 134, so they fit.
    let status = || u8::try_from(act().err().unwrap_or(0)).unwrap_or(u8::MAX);
    let end = copy(status).and_then(end_of).map_err(Failure::NoCopy)?;
    match (end.exit_status(), end.terminating_signal()) {
        (Some(0), _) => Ok(()),
        (Some(error), _) => Err(Failure::Error(error)),
        (None, signal) => Err(Failure::Killed(signal.unwrap_or(0))),
    }
}

fn last_error() -> i32 {
    let error = std::io::Error::last_os_error();
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// A word that copies of this process share.
pub(super) struct SharedWord(*mut libc::c_void);

impl SharedWord {
    const SIZE: usize = 4096;

    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                Self::SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        Ok(Self(at))
    }

    pub(super) fn set(&self, value: usize) {
        // SAFETY: a mapped word of this size, aligned.
        unsafe { self.0.cast::<usize>().write_volatile(value) };
    }

    pub(super) fn get(&self) -> usize {
        // SAFETY: as above.
        unsafe { self.0.cast::<usize>().read_volatile() }
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: there are no references into the mapping.
        let _ = unsafe { rustix::mm::munmap(self.0, Self::SIZE) };
    }
}

/// Maps a page of a file as a Guest's pages are mapped: written and executed.
pub(super) fn write_and_execute(file: impl AsFd) -> rustix::io::Result<()> {
    const SIZE: usize = 4096;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let at = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            SIZE,
            ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC,
            MapFlags::SHARED,
            file,
            0,
        )
    }?;
    // SAFETY: the mapping was made above, and nothing uses it.
    unsafe { rustix::mm::munmap(at, SIZE) }
}

/// Makes a system call. The kernel ignores arguments that the call does not
/// take.
fn call(nr: libc::c_long, a: [usize; 5]) -> Result<usize, i32> {
    // SAFETY: the callers here pass addresses of what they own, of the size
    // that the call wants.
    let result = unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4]) };
    usize::try_from(result).map_err(|_| last_error())
}

/// The release of the kernel and the kind of machine; `None` if the call is
/// refused.
pub(super) fn kernel() -> Option<[String; 2]> {
    let mut name = std::mem::MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the kernel writes `name`.
    let told = unsafe { libc::uname(name.as_mut_ptr()) };
    // SAFETY: all fields are bytes, and any byte is valid.
    let name = unsafe { name.assume_init() };
    let text = |bytes: &[libc::c_char]| {
        let bytes: Vec<u8> = bytes.iter().map(|b| b.cast_unsigned()).collect();
        let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
        text.to_string_lossy().into_owned()
    };
    (told == 0).then(|| [text(&name.release), text(&name.machine)])
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
    // SAFETY: reads a descriptor. If there is none, nothing is written.
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

/// Makes a system call by `int $0x80` as a Guest's programs do, and catches it
/// by a filter as views do.
pub(super) fn make_32_bit_call() -> Result<(), i32> {
    const ERROR: i32 = libc::E2BIG;
    const GETPID: i64 = 20;
    const LOAD_ARCH: [u32; 2] = [0x20, 4];
    // "If it is not AUDIT_ARCH_I386, skip one."
    const UNLESS_I386: [u32; 2] = [0x0100_0015, 0x4000_0003];
    const FAIL: [u32; 2] = [0x06, 0x0005_0000 | ERROR.cast_unsigned()];
    install(0, &[LOAD_ARCH, UNLESS_I386, FAIL, ALLOW])?;
    let mut result = GETPID;
    // SAFETY: the call returns a number, or fails. The kernel changes only the
    // registers named here.
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

/// Installs a filter that allows everything, with these flags.
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

/// The version of Landlock's interface.
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
