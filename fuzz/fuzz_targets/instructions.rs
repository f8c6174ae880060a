//! What the Host does at an instruction that faulted.
//!
//! Any code bytes, any registers, any descriptors.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::instructions::target(data));
