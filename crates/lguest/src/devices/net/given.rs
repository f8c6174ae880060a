//! Descriptors that the program which starts the Launcher has opened for it.
//!
//! A user names such a descriptor by its number. The Launcher's own ones are
//! all closed at exec, and inherited ones are not, so a number cannot mean one
//! of ours, nor a descriptor that was taken before. Programs that the Launcher
//! starts get none of them.

#![expect(unsafe_code, reason = "a descriptor is a number here")]

use rustix::io::FdFlags;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Standard input, output and error.
const STANDARD: std::ops::RangeInclusive<RawFd> = 0..=2;

/// A descriptor that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    /// It is the terminal's.
    #[error(
        "descriptor {0} is standard input or output, which the console uses: \
         give one from 3 on"
    )]
    Standard(RawFd),
    /// There is none, or it was given twice.
    #[error(
        "descriptor {0} is not open, or is given twice: the program that \
         starts lguest has to open it, without close-on-exec"
    )]
    NotOpen(RawFd),
}

/// Takes descriptor `number`. Processes that are started from now on do not
/// get it.
///
/// # Errors
///
/// [`GivenError`].
pub(crate) fn take(number: RawFd) -> Result<OwnedFd, GivenError> {
    if STANDARD.contains(&number) {
        return Err(GivenError::Standard(number));
    }
    if number < 0 {
        return Err(GivenError::NotOpen(number));
    }
    // SAFETY: it is used for two calls only, which fail if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed);
    if flags.is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
        && rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC).is_ok()
    {
        // SAFETY: it is open, and ours: it was inherited, and this function
        // gives none away twice, because it is closed at exec now.
        return Ok(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Err(GivenError::NotOpen(number))
}

/// Lets `command` inherit the descriptor `kept`, and no other one but its
/// standard streams. `kept` stays closed at exec in this process.
pub(super) fn inherit_only(command: &mut Command, kept: RawFd) {
    let child = move || {
        let from = libc::c_uint::try_from(*STANDARD.end() + 1).unwrap_or(3);
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        // SAFETY: a system call on numbers. The descriptor by which std reports
        // an error is closed at exec anyway.
        let all = unsafe {
            libc::syscall(libc::SYS_close_range, from, u32::MAX, flags)
        };
        if all < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a system call on a number.
        let one = unsafe { libc::fcntl(kept, libc::F_SETFD, 0) };
        if one < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it allocates nothing.
    unsafe {
        command.pre_exec(child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn only_an_inherited_descriptor_is_taken_and_only_once() {
        let (ours, other) = std::io::pipe().unwrap();
        let number = ours.as_raw_fd();
        assert!(take(number).is_err(), "it is the Launcher's own");
        // As after an exec.
        rustix::io::fcntl_setfd(&ours, FdFlags::empty()).unwrap();
        let number = ours.into_raw_fd();
        let taken = take(number).unwrap();
        let flags = rustix::io::fcntl_getfd(&taken).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC));
        let twice = take(number).unwrap_err().to_string();
        assert!(twice.contains("given twice"), "{twice}");
        drop(other);
        for number in [-1, 0, 2, 1_000_000] {
            assert!(take(number).is_err(), "{number}");
        }
    }
}
