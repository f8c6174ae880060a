//! The Launcher, as a Host sees it that the Guest has taken over.
//!
//! Requests, arguments and texts are arbitrary.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lg_fuzz::mailbox::target(data));
