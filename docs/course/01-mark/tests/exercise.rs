//! The test of exercise 1. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson01::exercise::decimal;

lg_guest::tests! {
    fn numbers_are_written_in_decimal() {
        let mut room = [0; 10];
        assert_eq!(decimal(7, &mut room), b"7");
        assert_eq!(decimal(0, &mut room), b"0");
        assert_eq!(decimal(2007, &mut room), b"2007");
        assert_eq!(decimal(u32::MAX, &mut room), b"4294967295");
    }
}
