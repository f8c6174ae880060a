//! Descriptor tables and gates, and what comes of them.
//!
//! The Guest loads anything, traps, and is interrupted.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::descriptors::target(data));
