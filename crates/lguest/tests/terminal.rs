//! The terminal is raw for the Guest, and as before after every end.
//!
//! Each end of a session checks that the terminal is as before.

mod support;

use rustix::termios::LocalModes;
use support::lguest;
use support::pty::Session;

/// A session at its prompt.
fn start() -> Session {
    let session = Session::start(&lguest());
    session.wait_for("lguest> ");
    session
}

#[test]
fn a_clean_end_restores_it() {
    let mut session = start();
    let modes = session.terminal.modes();
    assert!(!modes.local_modes.contains(LocalModes::ECHO));
    session.type_in(b"poweroff 4\r");
    session.ends(4);
}

/// A program that makes a terminal and starts lguest on it needs no session.
#[test]
fn a_terminal_of_no_session_is_used_and_restored() {
    let mut session = Session::start_beside(lguest());
    session.wait_for("lguest> ");
    session.terminal.wait_until_raw();
    session.type_in(b"poweroff 4\r");
    session.ends(4);
}

#[test]
fn a_crash_restores_it() {
    let mut session = start();
    session.type_in(b"panic now\r");
    let end = session.ends(1);
    assert!(end.stdout.contains("lguest: CRASH: "), "{end:?}");
}

/// The kernel sends SIGSYS for a system call that a Launcher does not make.
/// Sent from outside, it has the same effect.
#[test]
fn a_launcher_that_is_stopped_restores_it() {
    let session = start();
    session.signal(libc::SIGSYS);
    let end = session.ends(123);
    let last = "\r\nlguest: ended by SIGSYS\r\n";
    assert!(end.stdout.ends_with(last), "{end:?}");
}

#[test]
fn three_interrupts_restore_it() {
    let mut session = start();
    session.type_three_interrupts();
    let end = session.ends(130);
    // On a line of its own, after the Guest's prompt.
    let last = "\r\nlguest: ended by ^C^C^C\r\n";
    assert!(end.stdout.ends_with(last), "{end:?}");
}

#[test]
fn signals_restore_it() {
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        let session = start();
        session.signal(signal);
        session.ends(128 + signal);
    }
}

#[test]
fn a_stop_restores_it_and_sigcont_makes_it_raw_again() {
    let mut session = start();
    session.signal(libc::SIGTSTP);
    session.wait_until(|s| s.terminal.is_as_before());
    // It stops a moment later, and only then SIGCONT has an effect.
    session.wait_until(Session::is_stopped);
    session.signal(libc::SIGCONT);
    session.wait_until(|s| !s.terminal.is_as_before());
    session.type_in(b"uptime\r");
    session.wait_for("\nup ");
    session.type_in(b"poweroff\r");
    session.ends(0);
}
