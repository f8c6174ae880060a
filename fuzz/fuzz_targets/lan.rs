//! A Launcher on a LAN whose other members are hostile.
//!
//! They knock, answer, forge and leave.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::lan::target(data));
