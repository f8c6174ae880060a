//! The protocol of disks.
//!
//! Requests of every kind, while the page changes under them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::block::target(data));
