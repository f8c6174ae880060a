//! Lesson 5: interrupts, the timer, and sleep.
//!
//! The guest kit has the gates of all interrupts, and counts those that come.
//! The rest is done here by hand.

#![no_std]

pub mod exercise;

use lesson01::hypercall;
use lg_guest::irq::{self, TIMER};
use lg_guest::time;

/// Nanoseconds until interrupt 0.
pub const SET_CLOCKEVENT: u32 = 9;
/// Stops until an interrupt is pending, and switches interrupts on.
const HALT: u32 = 10;

/// Sleeps until the timer interrupts, in so many nanoseconds.
pub fn sleep(nanoseconds: u32) {
    let seen = irq::count(TIMER);
    hypercall(SET_CLOCKEVENT, nanoseconds, 0, 0);
    loop {
        // Without this, the interrupt could come after the check and before
        // HALT, which would then wait for another one.
        irq::disable();
        if irq::count(TIMER) != seen {
            break;
        }
        hypercall(HALT, 0, 0, 0);
    }
    irq::enable();
}

/// Waits for the timer without sleeping. Returns how often it has looked.
pub fn spin(nanoseconds: u32) -> u64 {
    let seen = irq::count(TIMER);
    hypercall(SET_CLOCKEVENT, nanoseconds, 0, 0);
    let mut looks = 0;
    while irq::count(TIMER) == seen {
        looks += 1;
    }
    looks
}

/// How many nanoseconds an action takes.
pub fn duration(action: impl FnOnce()) -> u64 {
    let before = time::now();
    action();
    time::now() - before
}
