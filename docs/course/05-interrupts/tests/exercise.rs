//! The test of exercise 5. It fails until `src/exercise.rs` is done.
#![no_std]
#![no_main]

use lesson01::hypercall;
use lesson05::exercise::without_interrupts;
use lesson05::{SET_CLOCKEVENT, duration};
use lg_guest::irq::{TIMER, count};
use lg_guest::shared::irq_enabled;
use lg_guest::time;

lg_guest::tests! {
    fn no_interrupt_comes_meanwhile() {
        let before = count(TIMER);
        without_interrupts(|| {
            hypercall(SET_CLOCKEVENT, 100_000, 0, 0);
            let start = time::now();
            while time::now() - start < 2_000_000 {}
            assert_eq!(count(TIMER), before);
        });
        // It has waited, and comes now.
        assert!(duration(|| while count(TIMER) == before {}) > 0);
    }

    fn the_state_before_is_restored() {
        assert!(irq_enabled());
        let answer = without_interrupts(|| {
            assert!(!irq_enabled());
            without_interrupts(|| assert!(!irq_enabled()));
            assert!(!irq_enabled());
            42
        });
        assert!(irq_enabled());
        assert_eq!(answer, 42);
    }
}
