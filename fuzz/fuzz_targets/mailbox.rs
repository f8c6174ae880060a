//! The Launcher's side of the mailbox, with a hostile Host.
//!
//! Requests, arguments and texts are arbitrary.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::mailbox::target(data));
