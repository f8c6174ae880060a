//! The console, both ways.
//!
//! Sends, bindings and typed input are arbitrary.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::console::target(data));
