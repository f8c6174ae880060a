//! Tests of lesson 5. Each runs in a guest of its own.
#![no_std]
#![no_main]

use lesson05::{duration, sleep, spin};
use lg_guest::irq::{TIMER, count};
use lg_guest::shared::irq_enabled;

lg_guest::tests! {
    fn sleep_lasts_until_the_timer_comes() {
        let before = count(TIMER);
        assert!(duration(|| sleep(3_000_000)) >= 3_000_000);
        assert_eq!(count(TIMER), before + 1);
        assert!(irq_enabled());
    }

    fn the_shortest_sleep_ends() {
        let before = count(TIMER);
        for _ in 0..1000 {
            sleep(1);
        }
        assert_eq!(count(TIMER), before + 1000);
    }

    fn the_interrupt_also_comes_while_the_kernel_is_awake() {
        let before = count(TIMER);
        assert!(spin(3_000_000) > 0);
        assert_eq!(count(TIMER), before + 1);
    }
}
