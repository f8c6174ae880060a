//! The end of a Launcher that makes a forbidden system call.
//!
//! The Launcher has been taken over, or a call is missing on the list. In both
//! cases its state cannot be trusted. Or the filter is not ours, but that of a
//! container. The handler restores the terminal, prints a sentence, and ends
//! the process; the Guest's processes end with it. It is a signal handler: it
//! allocates no memory and waits for no lock.

#![expect(unsafe_code, reason = "a handler for SIGSYS")]

use crate::cli::exit::Outcome;
use crate::machine::terminal;
use crate::needs;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

/// The beginning of `siginfo_t`, for a SIGSYS.
#[repr(C)]
struct Info {
    signal: i32,
    error: i32,
    code: i32,
    padding: i32,
    call_address: u64,
    call: i32,
    arch: u32,
}

const _: () = assert!(size_of::<Info>() <= size_of::<libc::siginfo_t>());

/// `SYS_SECCOMP`: a filter has sent the signal.
const BY_FILTER: i32 = 1;

/// The filter that stops us may be our own.
static OURS: AtomicBool = AtomicBool::new(false);

/// From now on a filter that stops us is taken for our own.
pub(super) fn is_ours_now() {
    OURS.store(true, Ordering::Relaxed);
}

/// Handles SIGSYS from now on.
pub(super) fn listen() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    let handler: extern "C" fn(i32, *const Info, *const ()) = stopped;
    // SAFETY: all fields are plain data, and zero is valid for each.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // A second one in the handler ends the process without a sentence.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: the handler has the signature that SA_SIGINFO promises, and
    // does only what a handler may do.
    let done =
        unsafe { libc::sigaction(libc::SIGSYS, action, std::ptr::null_mut()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn stopped(_signal: i32, info: *const Info, _context: *const ()) {
    // SAFETY: the kernel hands us a siginfo_t, which is longer.
    let info = unsafe { &*info };
    terminal::leave_at_once();
    let mut code = Outcome::Failed;
    if info.code != BY_FILTER {
        say(b"lguest: ended by SIGSYS\n");
    } else if OURS.load(Ordering::Relaxed) {
        say(b"lguest: stopped at system call ");
        say_call(info.call);
        say(
            b", which a launcher does not make: it has been taken over, or \
              this is a bug in lguest ('--no-confine=seccomp' tells which)\n",
        );
    } else {
        code = Outcome::BadMachine;
        say(b"lguest: cannot run: this system stops a process for the call ");
        match needs::name_of(info.call.into()) {
            Some(name) => say(name.as_bytes()),
            None => say_call(info.call),
        }
        say(b"; let the filter of the container or service allow it\n");
    }
    // SAFETY: ends the process, and runs no code of it.
    unsafe { libc::_exit(code.code().into()) };
}

fn say_call(number: i32) {
    let mut digits = [0; 10];
    say(decimal(number.unsigned_abs(), &mut digits));
}

fn say(text: &[u8]) {
    // If standard error is closed, the text is lost.
    let _ = rustix::io::write(rustix::stdio::stderr(), text);
}

/// `number` in decimal digits.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 435, u32::MAX] {
            let mut digits = [0; 10];
            let text = decimal(number, &mut digits);
            assert_eq!(text, number.to_string().as_bytes());
        }
    }
}
