//! Frames from one Guest to another, by way of a port.
//!
//! The receiving Launcher shows false bindings.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::net::target(data));
