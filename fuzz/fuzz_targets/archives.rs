//! Archives that images are built of.
//!
//! Archives of files, layers, and archives of images.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::archives::target(data));
