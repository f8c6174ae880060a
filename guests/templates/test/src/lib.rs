//! What is tested. The tests are in `tests/guest.rs`.
#![no_std]

extern crate alloc;

use alloc::string::String;

/// `text`, last character first.
#[must_use]
pub fn reversed(text: &str) -> String {
    text.chars().rev().collect()
}
