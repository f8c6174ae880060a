//! The terminal: raw while the Guest has it, as before when it does not.
//!
//! A Guest wants every key, ^C included, and draws its own echo; a shell that
//! gets its terminal back in that state is useless. So the old state is kept
//! where every way out can find it: the end of the run, an error, a panic, a
//! signal, and being stopped with the promise to come back. What the Launcher
//! itself has to say is said here, too, because it must not depend on a reader.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What has been done to the terminal.
static STATE: Mutex<State> = Mutex::new(State {
    wanted: false,
    lent: false,
    over: false,
    before: None,
});

struct State {
    /// It should be raw whenever it is ours.
    wanted: bool,
    /// Another process has it for a while.
    lent: bool,
    /// It must never be raw again: the process ends.
    over: bool,
    /// It is raw, and this is the state to go back to.
    before: Option<Termios>,
}

/// Whether the Guest has begun a line on the terminal and not ended it.
static IN_LINE: AtomicBool = AtomicBool::new(false);

/// Makes the terminal on standard input raw, if there is one and it is ours
/// to change. Doing so twice is doing it once.
pub fn enter() {
    let mut state = state();
    state.wanted = true;
    state.make_raw();
}

/// [`enter`], where that was wanted and could not be done yet: a shell need
/// not tell a job that it has come to the foreground.
pub fn keep() {
    let mut state = state();
    if state.wanted && !state.lent && state.before.is_none() {
        state.make_raw();
    }
}

/// Puts the terminal back until [`resume`]: we are about to be stopped.
pub fn lend() {
    let mut state = state();
    state.lent = true;
    state.put_back();
}

/// We go on after a stop, or may do so: if the terminal should be raw, it is
/// made so, whatever another process has made of it meanwhile. After [`leave`]
/// this does nothing: a process is often ended by SIGTERM and then SIGCONT.
pub fn resume() {
    let mut state = state();
    state.lent = false;
    if state.wanted {
        state.make_raw();
    }
}

/// Puts the terminal back as it was found. Harmless when it never changed.
pub fn leave() {
    let mut state = state();
    state.wanted = false;
    state.put_back();
}

/// [`leave`], by a thread that ends the process: another one may just be on
/// its way to [`enter`], and must not come through any more.
pub fn leave_for_good() {
    state().over = true;
    leave();
}

/// [`leave`], from a signal handler: it does not wait, and does nothing
/// if another thread is just about to.
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
        // In the background it belongs to another process, which restores it.
        // At once, because output without a reader would never be drained.
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
        // Output is raw as well: a Guest's terminal layer ends its lines with
        // both characters already.
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

/// Ends the line that the Guest has begun on the terminal, if it has: what
/// comes next is not the Guest's.
pub fn end_line() {
    if IN_LINE.swap(false, Ordering::Relaxed) {
        let _ = write_all(rustix::stdio::stderr(), b"\n");
    }
}

/// Tells the user something. A standard error that is full, closed or broken
/// is no reason to end in another way than without it.
pub fn tell(text: &str) {
    let line = format!("lguest: {text}\n");
    let _ = write_all(rustix::stdio::stderr(), line.as_bytes());
}

/// Whether [`tell`] would come back soon.
pub fn may_tell() -> bool {
    let stderr = rustix::stdio::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut fds, Some(&now)), Ok(1))
}

/// Writes all of `bytes`. Blocks as long as the reader needs, also where
/// another process has made the file one that does not wait.
///
/// # Errors
///
/// What the kernel says.
pub fn write_all(to: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&to, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(&to, PollFlags::OUT)];
                // If this fails, the next write tells why.
                let _ = poll(&mut fds, None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether `input` is a terminal on which we stand in the foreground.
/// Touching it otherwise would stop us.
pub fn is_ours(input: impl AsFd) -> bool {
    let foreground = rustix::termios::tcgetpgrp(input);
    foreground.is_ok_and(|group| group == rustix::process::getpgrp())
}
