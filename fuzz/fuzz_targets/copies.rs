//! Patched copies of pages, which must be what their pages are.
//!
//! A Guest that writes to its code by every way there is, and executes it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::copies::target(data));
