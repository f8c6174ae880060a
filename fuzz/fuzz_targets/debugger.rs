//! A debugger that is hostile.
//!
//! Packets of any contents, and bytes that are none.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::debugger::target(data));
