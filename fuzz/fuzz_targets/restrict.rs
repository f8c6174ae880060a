//! A restricted Guest, whose frames would like to get elsewhere.
//!
//! Any frames, in both directions.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::restrict::target(data));
