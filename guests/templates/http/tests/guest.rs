//! Tests that run in a guest, each in one of its own: `cargo test`.
#![no_std]
#![no_main]

lg_guest::tests! {
    fn there_is_memory() {
        assert!(lg_guest::boot::boot().memory >= 1 << 20);
    }
}
