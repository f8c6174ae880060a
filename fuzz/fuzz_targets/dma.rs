//! Lists of sections, and copies between Guests and files.
//!
//! Sections that wrap, overlap, cross pages and lie past the end.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::dma::target(data));
