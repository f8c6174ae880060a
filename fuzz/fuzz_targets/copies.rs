//! Patched copies of pages, which must have the meaning of their pages.
//!
//! A Guest writes to its code in every way, and executes it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::copies::target(data));
