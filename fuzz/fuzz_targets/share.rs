//! A share, whose requests a hostile Guest writes.
//!
//! Names, fids, flags and sizes are arbitrary.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::share::target(data));
