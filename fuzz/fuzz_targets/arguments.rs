//! The command line.
//!
//! Words of every kind, old form and new.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::arguments::target(data));
