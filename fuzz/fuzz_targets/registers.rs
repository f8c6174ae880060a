//! Registers of devices on a PCI bus, which a hostile driver writes.
//!
//! Rings are anywhere, and what is in them is arbitrary.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::registers::target(data));
