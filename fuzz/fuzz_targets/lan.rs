//! A Launcher on a LAN whose other members are hostile.
//!
//! They connect, answer, forge messages and leave.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::lan::target(data));
