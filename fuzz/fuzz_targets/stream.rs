//! A stream of frames, whose other end is hostile.
//!
//! Any bytes, in any pieces.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::stream::target(data));
