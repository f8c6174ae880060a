//! Shadow paging, against an oracle that walks the tables naively.
//!
//! Page tables change in every way that a Guest may change them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::tables::target(data));
