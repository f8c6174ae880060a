//! Handlers of signals: of a broken process, and of no meaning.
//!
//! Those of a broken process put the terminal back, and then end it.
//! The reason may be a bug in the Launcher, a mapped file that became shorter,
//! or `kill -ABRT`. The process ends as without this handler, with a core file
//! if the machine writes one. But before that the terminal is put back, and a
//! line names the signal. As in any signal handler, no memory is allocated, and
//! no lock is waited for.

#![expect(unsafe_code, reason = "handlers of signals")]

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
        // A second signal, which the handler itself sends, has its usual
        // effect.
        let flags = libc::SA_ONSTACK | libc::SA_RESETHAND | libc::SA_NODEFER;
        install(signal, ended, flags, Others::MayCome)?;
    }
    Ok(())
}

/// Gives `signal`, which would end the process, no effect. A program that is
/// started has it as usual.
///
/// # Errors
///
/// There is none, if the signal exists.
pub fn give_no_effect(signal: i32) -> io::Result<()> {
    extern "C" fn nothing(_: i32) {}
    // Signals that come at once go to one thread, whose stack has no room for
    // forty frames.
    install(signal, nothing, libc::SA_RESTART, Others::Wait)
}

/// What happens to other signals while a handler runs.
enum Others {
    MayCome,
    Wait,
}

fn install(
    signal: i32,
    handler: extern "C" fn(i32),
    flags: i32,
    others: Others,
) -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all fields are plain data, and zero is valid for each.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = flags;
    if let Others::Wait = others {
        // SAFETY: fills the set that it gets.
        unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    }
    // SAFETY: the handler has the signature of one without SA_SIGINFO, and does
    // only what a handler may do.
    let done = unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
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
