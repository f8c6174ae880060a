//! The ring of a disk that is lent to the Host.
//!
//! Any descriptors, chains and words about the ring.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::lent::target(data));
