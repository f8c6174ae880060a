//! The end: powering off, and what the Launcher makes of it.
//!
//! There is one way out, CRASH, and the message makes the difference.

use crate::lab::memory;
use crate::lab::{hypercall, page};
use lg_abi::hypercall::Hypercall;
use lg_guest::power;

fn end(message: &[u8]) {
    let at = page();
    memory::write(at, message);
    hypercall(Hypercall::Crash, at, 0, 0);
}

/// Is "Power down" a clean end?
pub(crate) fn power_down() {
    end(b"Power down\0");
}

/// Does a code become the Launcher's own?
pub(crate) fn power_down_with_7() {
    power::off(7);
}

/// Does the greatest code that a Guest may have?
pub(crate) fn power_down_with_119() {
    power::off(119);
}

/// Is the first one that is the Launcher's own told from it?
pub(crate) fn power_down_with_120() {
    power::off(120);
}

/// Is the greatest that a code can be?
pub(crate) fn power_down_with_255() {
    power::off(255);
}

/// Is one that is no code a CRASH?
pub(crate) fn power_down_with_256() {
    end(b"Power down with code 256\0");
}

/// Is a word too many?
pub(crate) fn power_down_or_not() {
    end(b"Power down?\0");
}

/// Is output that was sent before the end all there?
pub(crate) fn last_words() {
    for n in 0..300 {
        lg_guest::print!("{n},");
    }
    power::off(0);
}
