//! The terminal: raw while the Guest has it, as before when it does not.
//!
//! A Guest wants every key, ^C included, and draws its own echo; a shell that
//! gets its terminal back in that state is useless. So the old state is kept
//! where every way out can find it: the end of the run, an error, a panic, a
//! signal, and being stopped with the promise to come back.

use rustix::termios::{OptionalActions, Termios};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What has been done to the terminal.
static STATE: Mutex<State> = Mutex::new(State {
    wanted: false,
    before: None,
});

struct State {
    /// It should be raw whenever it is ours.
    wanted: bool,
    /// It is raw, and this is the state to go back to.
    before: Option<Termios>,
}

/// Whether the Guest has begun a line on the terminal and not ended it.
static IN_LINE: AtomicBool = AtomicBool::new(false);

/// Makes the terminal on standard input raw, if there is one and it is ours
/// to change. Doing so twice is doing it once, or again if somebody else has
/// changed it meanwhile.
pub fn enter() {
    let mut state = state();
    state.wanted = true;
    state.make_raw();
}

/// [`enter`], where that was wanted and could not be done yet: a shell need
/// not tell a job that it has come to the foreground.
pub fn keep() {
    let mut state = state();
    if state.wanted && state.before.is_none() {
        state.make_raw();
    }
}

/// Puts the terminal back as it was found. Harmless when it never changed.
pub fn leave() {
    let mut state = state();
    state.wanted = false;
    let Some(before) = state.before.take() else {
        return;
    };
    let input = rustix::stdio::stdin();
    // In the background it belongs to somebody else, who has seen to it.
    if is_ours(input) {
        let _ =
            rustix::termios::tcsetattr(input, OptionalActions::Drain, &before);
    }
}

/// [`leave`], from a signal handler: it waits for nobody, and does not do it
/// if somebody is just about to.
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
    fn make_raw(&mut self) {
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
        eprintln!();
    }
}

/// Whether `input` is a terminal on which we stand in the foreground.
/// Touching it otherwise would stop us.
pub fn is_ours(input: impl AsFd) -> bool {
    let foreground = rustix::termios::tcgetpgrp(input);
    foreground.is_ok_and(|group| group == rustix::process::getpgrp())
}
