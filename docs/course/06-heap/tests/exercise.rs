//! The test of exercise 6. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use core::ops::Range;
use lesson06::exercise::Holes;

/// The hole of a heap, if it is the only one.
fn only(heap: &Holes) -> Option<Range<u32>> {
    match heap.all() {
        [hole] => Some(hole.clone()),
        _ => None,
    }
}

lg_guest::tests! {
    fn memory_is_taken_from_the_first_hole() {
        let mut heap = Holes::new(1000, 1100);
        assert_eq!(heap.take(60), Some(1000));
        assert_eq!(heap.take(60), None);
        assert_eq!(heap.take(40), Some(1060));
        assert_eq!(heap.all(), []);
        assert_eq!(heap.take(1), None);
    }

    fn holes_that_meet_become_one() {
        let mut heap = Holes::new(0, 40);
        for start in [0, 10, 20, 30] {
            assert_eq!(heap.take(10), Some(start));
        }
        heap.give(0, 10);
        heap.give(20, 10);
        assert_eq!(heap.all(), [0..10, 20..30]);
        assert_eq!(heap.take(20), None);
        heap.give(10, 10);
        assert_eq!(only(&heap), Some(0..30));
        heap.give(30, 10);
        assert_eq!(only(&heap), Some(0..40));
        assert_eq!(heap.take(40), Some(0));
    }
}
