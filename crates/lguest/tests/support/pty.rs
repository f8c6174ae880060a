//! The command on a terminal.
//!
//! The terminal is a pseudo-terminal. In a session of its own, the Launcher is
//! its foreground job, as under a shell.

use super::{Finished, Gathered, PATIENCE, end_of, program};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OutputModes, Termios, tcgetattr};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A terminal, from the side of the keyboard.
pub(crate) struct Terminal {
    keyboard: File,
    terminal: OwnedFd,
    before: Termios,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let keyboard = openpt(flags | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        use rustix::fs::OFlags;
        let terminal = rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let before = tcgetattr(&terminal).unwrap();
        Self {
            keyboard: keyboard.into(),
            terminal,
            before,
        }
    }

    /// An end of it for a program.
    pub(crate) fn end(&self) -> Stdio {
        self.terminal.try_clone().unwrap().into()
    }

    /// Its output, read by a thread.
    fn gather(&self) -> Gathered {
        Gathered::from(Some(self.keyboard.try_clone().unwrap()))
    }

    pub(crate) fn type_in(&mut self, bytes: &[u8]) {
        self.keyboard.write_all(bytes).unwrap();
    }

    /// Its other end, from which the output can be read.
    pub(crate) fn keyboard(&self) -> &File {
        &self.keyboard
    }

    /// Gives it another size, of which a program in it is told.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.keyboard, size).unwrap();
    }

    /// Waits until a Launcher has made it raw.
    #[track_caller]
    pub(crate) fn wait_until_raw(&self) {
        let start = Instant::now();
        while self.is_as_before() {
            assert!(start.elapsed() < PATIENCE, "it is never raw");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn modes(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    /// Whether it is in the state in which it was made.
    pub(crate) fn is_as_before(&self) -> bool {
        let (now, then) = (self.modes(), &self.before);
        now.local_modes == then.local_modes
            && now.input_modes == then.input_modes
            && now.output_modes == then.output_modes
            && now.control_modes == then.control_modes
            && now.output_modes.contains(OutputModes::OPOST)
    }
}

/// `command`, as the first of a session on the terminal of its standard input.
pub(crate) fn in_session(command: &Command) -> Command {
    let mut session = program("setsid");
    session.arg("--ctty").arg(command.get_program());
    session.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => session.env(name, value),
            None => session.env_remove(name),
        };
    }
    session
}

/// The Launcher on a terminal. Killed if it is dropped before its end.
pub(crate) struct Session {
    pub(crate) run: Child,
    pub(crate) terminal: Terminal,
    shown: Gathered,
}

impl Session {
    /// Starts `command` with all its streams on a terminal.
    pub(crate) fn start(command: &Command) -> Self {
        Self::start_as(in_session(command))
    }

    /// As [`Self::start`], but the terminal is not that of its session, as
    /// where another program makes one and starts this command on it.
    pub(crate) fn start_beside(command: Command) -> Self {
        Self::start_as(command)
    }

    fn start_as(mut command: Command) -> Self {
        let terminal = Terminal::new();
        let run = command
            .stdin(terminal.end())
            .stdout(terminal.end())
            .stderr(terminal.end())
            .spawn()
            .unwrap();
        let shown = terminal.gather();
        Self {
            run,
            terminal,
            shown,
        }
    }

    pub(crate) fn type_in(&mut self, bytes: &[u8]) {
        self.terminal.type_in(bytes);
    }

    /// Types ^C three times, in one write: on a busy machine there could be
    /// more than a second between them, and then they would not count.
    pub(crate) fn type_three_interrupts(&mut self) {
        self.type_in(b"\x03\x03\x03");
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_child(&self.run);
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        let _ = rustix::process::kill_process(pid, signal);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        let status = format!("/proc/{}/status", self.run.id());
        std::fs::read_to_string(status)
            .is_ok_and(|status| status.contains("State:\tT"))
    }

    #[track_caller]
    pub(crate) fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < PATIENCE, "{}", self.shown.text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `text` has been shown, and returns all that was shown.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.shown.wait_for(text, 1, String::new)
    }

    /// Waits until `text` has been shown `times` times.
    #[track_caller]
    pub(crate) fn wait_for_nth(&self, text: &str, times: usize) -> String {
        self.shown.wait_for(text, times, String::new)
    }

    pub(crate) fn shown(&self) -> String {
        self.shown.text()
    }

    /// Waits for the end, and checks that the terminal is as before, unless the
    /// Launcher was killed.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let status = end_of(&mut self.run).unwrap_or_else(|| {
            panic!("it hangs; shown: {:?}", self.shown.text())
        });
        let killed = status.code().is_none();
        assert!(
            killed || self.terminal.is_as_before(),
            "{status}: {:?}",
            self.terminal.modes()
        );
        // After the last end is closed, a read finds the end.
        let Self {
            terminal, shown, ..
        } = &mut self;
        let nowhere = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        );
        terminal.terminal = nowhere.unwrap();
        Finished {
            stdout: shown.join(),
            stderr: String::new(),
            status,
        }
    }

    /// [`Self::finish`], with this exit code.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Finished {
        let finished = self.finish();
        assert_eq!(finished.code(), code, "{finished:?}");
        finished
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}
