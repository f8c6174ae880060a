//! The Host, with any sequence of events, hypercalls and interrupts.
//!
//! The Guest makes any calls until the input ends.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::host::target(data));
