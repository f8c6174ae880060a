//! The PCI bus, as a hostile driver uses it.
//!
//! Ports, configuration spaces and pages of devices are accessed in any way.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::pci::target(data));
