//! The terminal: raw while the Guest has it, otherwise as it was found.
//!
//! A Guest needs every key, also ^C, and echoes keys itself. A shell cannot be
//! used on a terminal in that state. So the old state is kept where every end
//! of the run can restore it: the normal end, an error, a panic, a signal, and
//! a stop by job control. The Launcher's own messages are written here, too,
//! because they must not block on a reader.

use crate::transport::TerminalSize;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The state of the terminal.
static STATE: Mutex<State> = Mutex::new(State {
    wanted: false,
    lent: false,
    over: false,
    before: None,
});

struct State {
    /// It should be raw whenever this process may use it.
    wanted: bool,
    /// Another process has it for a while.
    lent: bool,
    /// It must never be raw again: the process ends.
    over: bool,
    /// It is raw, and this is the state to restore.
    before: Option<Termios>,
}

/// Whether the Guest has begun a line on the terminal and not ended it.
static IN_LINE: AtomicBool = AtomicBool::new(false);

/// Makes the terminal on standard input raw, if there is one and this process
/// is in the foreground. A second call does nothing.
pub fn enter() {
    let mut state = state();
    state.wanted = true;
    state.make_raw();
}

/// Does [`enter`] again if it was not possible before: a shell sends no signal
/// to a job that it puts into the foreground.
pub fn keep() {
    let mut state = state();
    if state.wanted && !state.lent && state.before.is_none() {
        state.make_raw();
    }
}

/// Puts the terminal back until [`resume`]: this process is about to be
/// stopped.
pub fn lend() {
    let mut state = state();
    state.lent = true;
    state.put_back();
}

/// This process goes on after a stop. If the terminal should be raw, it is made
/// raw, because another process may have changed it. After [`leave`] this does
/// nothing: a process is often ended by SIGTERM and then SIGCONT.
pub fn resume() {
    let mut state = state();
    state.lent = false;
    if state.wanted {
        state.make_raw();
    }
}

/// Puts the terminal back as it was found. Does nothing if it was not changed.
pub fn leave() {
    let mut state = state();
    state.wanted = false;
    state.put_back();
}

/// Does [`leave`], and forbids [`enter`] from now on. For a thread that ends
/// the process while another thread may be about to call [`enter`].
pub fn leave_for_good() {
    state().over = true;
    leave();
}

/// Does [`leave`] from a signal handler: it does not wait, and does nothing if
/// another thread is in one of these functions.
pub(crate) fn leave_at_once() {
    if let Ok(state) = STATE.try_lock()
        && let Some(before) = &state.before
    {
        let input = rustix::stdio::stdin();
        if is_ours(input) {
            let now = OptionalActions::Now;
            let _ = rustix::termios::tcsetattr(input, now, before);
        }
    }
    if IN_LINE.swap(false, Ordering::Relaxed) {
        let _ = rustix::io::write(rustix::stdio::stderr(), b"\n");
    }
}

impl State {
    fn put_back(&mut self) {
        let Some(before) = self.before.take() else {
            return;
        };
        let input = rustix::stdio::stdin();
        // In the background the terminal belongs to another process, which
        // restores it. This does not wait for pending output, because output
        // without a reader would never be written.
        if is_ours(input) {
            let now = OptionalActions::Now;
            let _ = rustix::termios::tcsetattr(input, now, &before);
        }
    }

    fn make_raw(&mut self) {
        if self.over {
            return;
        }
        let input = rustix::stdio::stdin();
        if !is_ours(input) {
            return;
        }
        let Ok(now) = rustix::termios::tcgetattr(input) else {
            return;
        };
        let before = self.before.take().unwrap_or(now);
        // Output is raw as well: a Guest's terminal driver ends its lines with
        // CR and LF already.
        let mut raw = before.clone();
        raw.make_raw();
        let changed =
            rustix::termios::tcsetattr(input, OptionalActions::Now, &raw);
        if changed.is_ok() {
            self.before = Some(before);
        }
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The Guest has written `bytes` to the terminal.
pub fn written(bytes: &[u8]) {
    if let Some(last) = bytes.last() {
        IN_LINE.store(*last != b'\n', Ordering::Relaxed);
    }
}

/// Ends the line that the Guest has begun on the terminal, if there is one. The
/// next text is not the Guest's.
pub fn end_line() {
    if IN_LINE.swap(false, Ordering::Relaxed) {
        let _ = write_all(rustix::stdio::stderr(), b"\n");
    }
}

/// Writes a message to standard error. If standard error is full, closed or
/// broken, the message is lost, and nothing else changes.
pub fn tell(text: &str) {
    let line = format!("lguest: {text}\n");
    let _ = write_all(rustix::stdio::stderr(), line.as_bytes());
}

/// Does [`tell`], unless that would block: then the message is lost. Returns
/// whether it was written. For threads that serve a Guest.
pub fn tell_or_lose(text: &str) -> bool {
    let may = may_tell();
    if may {
        tell(text);
    }
    may
}

/// Whether [`tell`] would return without blocking.
pub fn may_tell() -> bool {
    let stderr = rustix::stdio::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut fds, Some(&now)), Ok(1))
}

/// Writes all of `bytes`. Blocks as long as the reader needs, even if another
/// process has made the file non-blocking.
///
/// # Errors
///
/// The error of the kernel.
pub fn write_all(to: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&to, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(&to, PollFlags::OUT)];
                // If this fails, the next write returns the error.
                let _ = poll(&mut fds, None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The size of the terminal on standard input; zeroes if there is none.
pub fn size() -> TerminalSize {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin());
    size.map_or(TerminalSize::default(), |size| TerminalSize {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}

/// Whether `input` is a terminal that this process may read and change: it is
/// in its foreground, or the terminal is not that of its session, so that there
/// is no foreground for it (a program that runs this one on a pseudo-terminal).
/// A background process that changes its terminal is stopped.
pub fn is_ours(input: impl AsFd) -> bool {
    match rustix::termios::tcgetpgrp(&input) {
        Ok(group) => group == rustix::process::getpgrp(),
        Err(Errno::NOTTY) => rustix::termios::isatty(input),
        Err(_) => false,
    }
}
