//! The test of exercise 3. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson03::exercise::{skip_undefined, skipped, undefined};

lg_guest::tests! {
    fn what_does_not_exist_is_skipped() {
        skip_undefined();
        assert_eq!(skipped(), 0);
        for count in 1..=100 {
            undefined();
            assert_eq!(skipped(), count);
        }
    }
}
