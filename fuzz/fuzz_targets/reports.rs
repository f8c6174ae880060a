//! The client of an agent that is hostile.
//!
//! Any bytes, in any pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::reports::target(data));
