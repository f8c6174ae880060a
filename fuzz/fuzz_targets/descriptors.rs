//! Descriptor tables, gates, and the traps that use them.
//!
//! The Guest loads any tables, traps, and is interrupted.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::descriptors::target(data));
