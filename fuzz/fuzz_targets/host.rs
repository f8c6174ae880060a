//! The Host, with any sequence of events, hypercalls and interrupts.
//!
//! A Guest that does what it likes, for as long as the input lasts.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::host::target(data));
