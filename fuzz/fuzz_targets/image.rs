//! The loader, with bad kernels.
//!
//! ELF files and bzImages, whole, cut short and made up.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::image::target(data));
