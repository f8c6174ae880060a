//! Snapshots of strangers.
//!
//! A manifest that is changed in some places, and what goes on from it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::snapshot::target(data));
