//! Signals that a broken process gets, or that another process sends to it.
//!
//! A bug in the Launcher, a file that became shorter under a mapping, or
//! `kill -ABRT`: the process ends as it would without us, with a core file
//! where the machine writes one, but the terminal is put back first, and a
//! line says which signal it was. This is a signal handler: no memory is
//! allocated, no lock is waited for.

#![expect(unsafe_code, reason = "a handler for signals of broken processes")]

use crate::machine::terminal;
use std::io;
use std::mem::MaybeUninit;

/// The signals, each with what is said about it.
const CRASHES: [(i32, &[u8]); 6] = [
    (libc::SIGILL, b"lguest: ended by SIGILL\n"),
    (libc::SIGTRAP, b"lguest: ended by SIGTRAP\n"),
    (libc::SIGABRT, b"lguest: ended by SIGABRT\n"),
    (
        libc::SIGBUS,
        b"lguest: ended by SIGBUS: a file has become shorter that was in use, \
          as that of a network, or the machine has no memory left\n",
    ),
    (libc::SIGFPE, b"lguest: ended by SIGFPE\n"),
    (libc::SIGSEGV, b"lguest: ended by SIGSEGV\n"),
];

/// Says from now on what ends us, but for signals that are [`ignored`].
///
/// [`ignored`]: crate::machine::signals::ignored
///
/// # Errors
///
/// None that could come: the signals exist.
pub fn listen(ignored: u64) -> io::Result<()> {
    for (signal, _) in CRASHES {
        if ignored & 1 << (signal - 1) != 0 {
            continue;
        }
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        let handler: extern "C" fn(i32) = ended;
        // SAFETY: all of it is plain data, and zero is a value of each field.
        let action = unsafe { action.assume_init_mut() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // The second one, which the handler sends itself, has its usual
        // effect.
        action.sa_flags =
            libc::SA_ONSTACK | libc::SA_RESETHAND | libc::SA_NODEFER;
        // SAFETY: the handler has the signature of one without SA_SIGINFO,
        // and does only what a handler may do.
        let done =
            unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn ended(signal: i32) {
    terminal::leave_at_once();
    let known = CRASHES.iter().find(|(number, _)| *number == signal);
    if let Some((_, words)) = known {
        // Standard error may be closed. Then there is no reader.
        let _ = rustix::io::write(rustix::stdio::stderr(), words);
    }
    // SAFETY: ends the process, without the help of anything in it.
    unsafe { libc::raise(signal) };
}
