//! Tests of lesson 6. Each runs in a guest of its own.
#![no_std]
#![no_main]

use lesson06::{Bump, nth_prime, primes};
use lg_guest::heap;

lg_guest::tests! {
    fn a_bump_heap_hands_out_until_it_is_empty() {
        let mut bump = Bump::new(100, 132);
        assert_eq!(bump.take(1, 1), Some(100));
        assert_eq!(bump.take(8, 8), Some(104));
        assert_eq!(bump.take(21, 1), None);
        assert_eq!(bump.take(20, 1), Some(112));
        assert_eq!(bump.take(1, 1), None);
        assert_eq!(bump.take(u32::MAX, 1), None);
    }

    fn primes_are_primes() {
        assert_eq!(primes(20), [2, 3, 5, 7, 11, 13, 17, 19]);
        assert_eq!(nth_prime(9), 29);
    }

    fn what_is_dropped_can_be_used_again() {
        let (before, _) = heap::usage();
        // Altogether this is much more than the heap has.
        for _ in 0..50 {
            assert_eq!(primes(1_000_000).len(), 78_498);
        }
        assert_eq!(heap::usage().0, before);
    }

    #[should_panic]
    fn there_are_not_so_many() {
        nth_prime(1000);
    }
}
