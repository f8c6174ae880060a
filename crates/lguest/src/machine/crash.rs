//! Signals of a broken process: put the terminal back, then end.
//!
//! The reason may be a bug in the Launcher, a mapped file that became shorter,
//! or `kill -ABRT`. The process ends as without this handler, with a core file
//! if the machine writes one. But before that the terminal is put back, and a
//! line names the signal. As in any signal handler, no memory is allocated, and
//! no lock is waited for.

#![expect(unsafe_code, reason = "a handler for signals of broken processes")]

use crate::machine::terminal;
use std::io;
use std::mem::MaybeUninit;

/// The signals, each with its message.
const CRASHES: [(i32, &[u8]); 6] = [
    (libc::SIGILL, b"lguest: ended by SIGILL\n"),
    (libc::SIGTRAP, b"lguest: ended by SIGTRAP\n"),
    (libc::SIGABRT, b"lguest: ended by SIGABRT\n"),
    (
        libc::SIGBUS,
        b"lguest: ended by SIGBUS: a file in use has become shorter, \
          as that of a network, or the machine has no memory left\n",
    ),
    (libc::SIGFPE, b"lguest: ended by SIGFPE\n"),
    (libc::SIGSEGV, b"lguest: ended by SIGSEGV\n"),
];

/// Installs the handler for all of these signals that are not [`ignored`].
///
/// [`ignored`]: crate::machine::signals::ignored
///
/// # Errors
///
/// There is none, because the signals exist.
pub fn listen(ignored: u64) -> io::Result<()> {
    for (signal, _) in CRASHES {
        if ignored & 1 << (signal - 1) != 0 {
            continue;
        }
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        let handler: extern "C" fn(i32) = ended;
        // SAFETY: all fields are plain data, and zero is valid for each.
        let action = unsafe { action.assume_init_mut() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // A second signal, which the handler itself sends, has its usual
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
    // SAFETY: ends the process, and runs no code of it.
    unsafe { libc::raise(signal) };
}
