//! The clock and the alarm as the time driver of embassy: `embassy-time`.
//!
//! With it, the timers of that crate and of all that uses it work in the kit's
//! tasks. The kit has an executor, so embassy's is not needed.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::time;
//!
//! /// A tick of embassy is at least a nanosecond of the clock.
//! fn elapsed() -> (u64, u64) {
//!     (embassy_time_driver::now(), time::now())
//! }
//! ```

use super::SECOND;
use core::task::Waker;
use embassy_time_driver::{Driver, TICK_HZ};

/// The driver.
struct Clock;

impl Driver for Clock {
    fn now(&self) -> u64 {
        // In two parts, so that the products fit.
        let now = super::now();
        let (seconds, rest) = (now / SECOND, now % SECOND);
        seconds * TICK_HZ + rest * TICK_HZ / SECOND
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        let (seconds, rest) = (at / TICK_HZ, at % TICK_HZ);
        // Never before its tick.
        let rest = (rest * SECOND).div_ceil(TICK_HZ);
        let moment = seconds.saturating_mul(SECOND).saturating_add(rest);
        super::wake_at(moment, None, waker);
    }
}

embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock);
