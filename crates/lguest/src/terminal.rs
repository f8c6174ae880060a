//! The terminal: raw while the Guest has it, as before when it does not.
//!
//! A Guest wants every key, ^C included, and draws its own echo; a shell that
//! gets its terminal back in that state is useless. So the old state is kept
//! where every way out can find it: the end of the run, an error, a panic, a
//! signal, and being stopped with the promise to come back.

use rustix::termios::{OptionalActions, Termios};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

/// The state to go back to, while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Makes the terminal on standard input raw, if there is one and it is ours
/// to change. Doing so twice is doing it once.
pub fn enter() {
    let input = rustix::stdio::stdin();
    if !is_ours(input) {
        return;
    }
    let Ok(before) = rustix::termios::tcgetattr(input) else {
        return;
    };
    let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
    // Output is raw as well: a Guest's terminal layer ends its lines with
    // both characters already.
    let mut raw = saved.clone().unwrap_or_else(|| before.clone());
    raw.make_raw();
    let changed = rustix::termios::tcsetattr(input, OptionalActions::Now, &raw);
    if changed.is_ok() && saved.is_none() {
        *saved = Some(before);
    }
}

/// Puts the terminal back as it was found. Harmless when it never changed.
pub fn leave() {
    let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(before) = saved.take() else {
        return;
    };
    let input = rustix::stdio::stdin();
    // In the background it belongs to somebody else, who has seen to it.
    if is_ours(input) {
        let _ =
            rustix::termios::tcsetattr(input, OptionalActions::Drain, &before);
    }
}

/// Whether `input` is a terminal on which we stand in the foreground.
/// Touching it otherwise would stop us.
pub fn is_ours(input: impl AsFd) -> bool {
    let foreground = rustix::termios::tcgetpgrp(input);
    foreground.is_ok_and(|group| group == rustix::process::getpgrp())
}
