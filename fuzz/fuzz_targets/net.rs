//! Frames from one Guest to another, by way of a port.
//!
//! The receiving Launcher lies about its bindings.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::net::target(data));
