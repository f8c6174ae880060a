//! The control socket, whose clients are hostile.
//!
//! Any bytes, in any pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::control::target(data));
