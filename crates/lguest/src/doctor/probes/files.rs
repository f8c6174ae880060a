//! Settings of the kernel, read from `/proc`.
//!
//! A file that is missing or cannot be read has no value. A probe says so.

use std::fs;

/// The text of a file of the kernel, without the end of its line.
fn setting(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// The number in a file of the kernel.
pub(super) fn number(path: &str) -> Option<u64> {
    setting(path)?.parse().ok()
}
