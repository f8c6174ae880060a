//! Questions about powering off, and the Launcher's exit code.
//!
//! A Guest ends by CRASH. The message says whether it powers off.

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

/// Is the code in a power down the Launcher's exit code?
pub(crate) fn power_down_with_7() {
    power::off(7);
}

/// Is the greatest code of a Guest the Launcher's exit code?
pub(crate) fn power_down_with_119() {
    power::off(119);
}

/// Is the first code that only the Launcher may use replaced?
pub(crate) fn power_down_with_120() {
    power::off(120);
}

/// Is the greatest exit code replaced?
pub(crate) fn power_down_with_255() {
    power::off(255);
}

/// Is a power down with a number above 255 a CRASH?
pub(crate) fn power_down_with_256() {
    end(b"Power down with code 256\0");
}

/// Is a message that only begins like "Power down" a CRASH?
pub(crate) fn power_down_with_another_word() {
    end(b"Power down?\0");
}

/// Is all output shown that was sent before the end?
pub(crate) fn output_before_the_end() {
    for n in 0..300 {
        lg_guest::print!("{n},");
    }
    power::off(0);
}
