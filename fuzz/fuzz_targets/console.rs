//! The console, both ways.
//!
//! What the Guest sends and binds is arbitrary, and so is what is typed.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::console::target(data));
