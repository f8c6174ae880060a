//! The terminal: raw for the Guest, and as it was on every way out.
//!
//! A pseudo-terminal stands in for a real one, and a session of its own makes
//! the Launcher its foreground job, as a shell would.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Termios, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

#[test]
fn a_clean_end_restores_it() {
    let mut session = Session::start();
    assert!(!session.modes().local_modes.contains(LocalModes::ECHO));
    session.type_in(b"poweroff 4\r");
    assert_eq!(session.end(), 4);
}

#[test]
fn a_crash_restores_it() {
    let mut session = Session::start();
    session.type_in(b"panic now\r");
    assert_eq!(session.end(), 1);
    assert!(
        session.shown.contains("lguest: CRASH: "),
        "{}",
        session.shown
    );
}

/// SIGSYS is what the kernel sends for a system call that a Launcher does not
/// make; who sends it from outside sees the same way out.
#[test]
fn a_launcher_that_is_stopped_restores_it() {
    let mut session = Session::start();
    session.signal(Signal::SYS);
    assert_eq!(session.end(), 123);
    let last = "\r\nlguest: ended by SIGSYS\r\n";
    assert!(session.shown.ends_with(last), "{}", session.shown);
}

#[test]
fn three_interrupts_restore_it() {
    let mut session = Session::start();
    for _ in 0..3 {
        session.type_in(b"\x03");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(session.end(), 130);
    // On a line of its own, behind the Guest's prompt.
    let last = "\r\nlguest: ended by ^C^C^C\r\n";
    assert!(session.shown.ends_with(last), "{}", session.shown);
}

#[test]
fn signals_restore_it() {
    for (signal, code) in [
        (Signal::TERM, 143),
        (Signal::HUP, 129),
        (Signal::INT, 130),
        (Signal::QUIT, 131),
    ] {
        let mut session = Session::start();
        session.signal(signal);
        assert_eq!(session.end(), code);
    }
}

#[test]
fn stopping_restores_it_and_going_on_makes_it_raw_again() {
    let mut session = Session::start();
    session.signal(Signal::TSTP);
    session.wait_until(|s| s.is_as_before());
    // To go on one must have stopped, which comes a moment later.
    session.wait_until(Session::is_stopped);
    session.signal(Signal::CONT);
    session.wait_until(|s| !s.is_as_before());
    session.type_in(b"uptime\r");
    session.wait_for("\nup ");
    session.type_in(b"poweroff\r");
    assert_eq!(session.end(), 0);
}

/// The Launcher on a terminal.
struct Session {
    run: Child,
    keyboard: File,
    terminal: OwnedFd,
    before: Termios,
    shown: String,
}

impl Session {
    /// Waits for the prompt.
    fn start() -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let terminal: OwnedFd = rustix::fs::open(
            name.as_c_str(),
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let before = tcgetattr(&terminal).unwrap();
        let end = || terminal.try_clone().unwrap();
        let run = Command::new("setsid")
            .arg("--ctty")
            .arg(env!("CARGO_BIN_EXE_lguest"))
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let mut session = Self {
            run,
            keyboard: keyboard.into(),
            terminal,
            before,
            shown: String::new(),
        };
        session.wait_for("lguest> ");
        session
    }

    fn type_in(&mut self, bytes: &[u8]) {
        self.keyboard.write_all(bytes).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.run), signal).unwrap();
    }

    fn is_stopped(&self) -> bool {
        let status = format!("/proc/{}/status", self.run.id());
        std::fs::read_to_string(status)
            .is_ok_and(|status| status.contains("State:\tT"))
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    fn is_as_before(&self) -> bool {
        let (now, then) = (self.modes(), &self.before);
        now.local_modes == then.local_modes
            && now.input_modes == then.input_modes
            && now.output_modes == then.output_modes
            && now.control_modes == then.control_modes
            && now.output_modes.contains(OutputModes::OPOST)
    }

    fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{}",
                self.shown
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads what is shown until `text` is.
    fn wait_for(&mut self, text: &str) {
        while !self.shown.contains(text) {
            self.read_more();
        }
    }

    fn read_more(&mut self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let patience = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.keyboard, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&patience)).unwrap();
        assert_eq!(ready, 1, "nothing more than: {}", self.shown);
        let mut bytes = [0; 4096];
        let len = self.keyboard.read(&mut bytes).unwrap();
        self.shown += &String::from_utf8_lossy(&bytes[..len]);
    }

    /// Waits for the end: the terminal is as it was, and this is the code.
    fn end(&mut self) -> i32 {
        let code = self.run.wait().unwrap().code().unwrap();
        assert!(self.is_as_before(), "{:?}", self.modes());
        // We have the terminal open ourselves, so there is no end to read to.
        self.type_in(b"x"); // now cooked: it is echoed
        while !self.shown.ends_with('x') {
            self.read_more();
        }
        self.shown.pop();
        code
    }
}
