//! Virtio devices, whose rings a hostile driver writes.
//!
//! Rings, descriptors and notifications are arbitrary.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::virtio::target(data));
