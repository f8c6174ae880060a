//! The time of a Guest that goes on elsewhere.
//!
//! In another boot or on another machine, the time-stamp counter and the
//! monotonic clock have other values, and the counter may have another speed.
//! The Guest's counter is made of the monotonic clock there, and its deadlines
//! are moved.

const NANOSECONDS: u64 = 1_000_000_000;

/// How the clocks of a Guest differ from those here. All zero: they do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Moved {
    /// Thousands of ticks a second of the Guest's counter; 0 = it reads that of
    /// the processor.
    pub tsc_khz: u64,
    /// The Guest's counter when the monotonic clock was zero.
    pub tsc_at_zero: u64,
    /// By how many nanoseconds deadlines on the monotonic clock are later.
    pub later: i64,
}

/// A point in time, by all clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The Guest's time-stamp counter.
    pub counter: u64,
    /// Nanoseconds on the monotonic clock.
    pub monotonic: u64,
    /// Nanoseconds since 1970.
    pub wall: u64,
}

impl Moved {
    /// A Guest that stood still at `then` goes on `now`, where the monotonic
    /// clock is the same one, or (`elsewhere`) another one. Its counter has
    /// this frequency.
    #[must_use]
    pub fn between(
        then: Moment,
        now: Moment,
        elsewhere: bool,
        tsc_khz: u64,
    ) -> Self {
        let elapsed = match elsewhere {
            // A clock that was set back does not stop the Guest.
            true => now.wall.saturating_sub(then.wall),
            false => now.monotonic.saturating_sub(then.monotonic),
        };
        let passed = ticks(elapsed, tsc_khz);
        let before = ticks(now.monotonic, tsc_khz);
        let later = now.monotonic.wrapping_sub(then.monotonic);
        Self {
            tsc_khz,
            tsc_at_zero: then.counter.wrapping_add(passed).wrapping_sub(before),
            later: later.wrapping_sub(elapsed).cast_signed(),
        }
    }

    /// The Guest's counter when the monotonic clock is at `now`.
    #[must_use]
    pub fn counter_at(&self, now: u64) -> u64 {
        self.tsc_at_zero.wrapping_add(ticks(now, self.tsc_khz))
    }

    /// A deadline of the Guest, which is not zero.
    #[must_use]
    pub fn deadline(&self, before: u64) -> u64 {
        before.saturating_add_signed(self.later).max(1)
    }
}

/// The ticks of so many nanoseconds. There are numbers that a stranger has made
/// up among them.
fn ticks(nanoseconds: u64, khz: u64) -> u64 {
    let whole = nanoseconds / NANOSECONDS;
    let rest = nanoseconds % NANOSECONDS;
    let whole = whole.wrapping_mul(khz.wrapping_mul(1000));
    whole.wrapping_add(rest.wrapping_mul(khz) / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = NANOSECONDS;

    #[test]
    fn a_guest_that_has_moved_finds_its_time_gone_on() {
        let khz = 2_500_000;
        let then = Moment {
            counter: 1 << 50,
            monotonic: 100 * SECOND,
            wall: 5000 * SECOND,
        };
        // Another machine, ten seconds later, which has just been started.
        let now = Moment {
            counter: 7,
            monotonic: 3 * SECOND,
            wall: 5010 * SECOND,
        };
        let moved = Moved::between(then, now, true, khz);
        let at = |seconds| moved.counter_at(seconds * SECOND);
        assert_eq!(at(3), (1 << 50) + 10 * 2_500_000_000);
        assert_eq!(at(4) - at(3), 2_500_000_000);
        assert_eq!(moved.counter_at(1_000) - at(0), 2_500);
        // What was due twelve seconds after it stood is due in two.
        assert_eq!(moved.deadline(112 * SECOND), 5 * SECOND);
        assert_eq!(moved.deadline(101 * SECOND), 1, "it is due");
        // A machine whose clock is late.
        let late = Moment { wall: 0, ..now };
        let moved = Moved::between(then, late, true, khz);
        assert_eq!(moved.counter_at(3 * SECOND), 1 << 50);
        // The same boot: clocks that are set do not count.
        let now = Moment {
            monotonic: 107 * SECOND,
            ..late
        };
        let moved = Moved::between(then, now, false, khz);
        assert_eq!(
            moved.counter_at(107 * SECOND),
            (1 << 50) + 7 * 2_500_000_000
        );
        assert_eq!(moved.deadline(112 * SECOND), 112 * SECOND);
    }

    #[test]
    fn numbers_of_a_stranger_do_no_harm() {
        for wild in [0, 1, u64::MAX / 2, u64::MAX] {
            for other in [0, u64::MAX] {
                let moment = |counter, monotonic| Moment {
                    counter,
                    monotonic,
                    wall: other,
                };
                let (then, now) = (moment(wild, other), moment(other, wild));
                let moved = Moved::between(then, now, wild & 1 == 0, wild);
                let _ = (moved.counter_at(wild), moved.deadline(wild));
            }
        }
    }
}
