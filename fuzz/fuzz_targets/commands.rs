//! Frames that come to an agent.
//!
//! Any bytes, in any pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::commands::target(data));
