//! qcow2 images from strangers.
//!
//! Forged in some places, cut off, or good.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::images::target(data));
