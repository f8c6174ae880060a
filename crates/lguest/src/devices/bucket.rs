//! A token bucket: a rate that short bursts may exceed.
//!
//! It fills at a constant rate, up to what comes in within the time of a burst.
//! As long as something is in it, a piece of any size may be taken, and the
//! bucket is in debt afterwards. So the rate is kept for pieces that are larger
//! than a burst, too.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// The bucket. It is kept as a time: when all that was taken has come in again.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Units a second.
    rate: NonZeroU64,
    burst: Duration,
    paid: Instant,
}

impl Bucket {
    /// A full bucket for `rate` units a second.
    #[must_use]
    pub fn new(rate: NonZeroU64, burst: Duration, now: Instant) -> Self {
        Self {
            rate,
            burst,
            paid: now,
        }
    }

    /// When something is in it again; `None` if there is something now.
    #[must_use]
    pub fn opens(&self, now: Instant) -> Option<Instant> {
        let debt = self.paid.checked_duration_since(now + self.burst)?;
        (debt > Duration::ZERO).then(|| now + debt)
    }

    /// How long the bucket lasts if nothing comes in meanwhile, in the time in
    /// which as much comes in.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        let left = (now + self.burst).saturating_duration_since(self.paid);
        left.min(self.burst)
    }

    /// Takes `units` out.
    pub fn take(&mut self, units: u64, now: Instant) {
        /// Longer than anything runs. A clock would overflow with much more.
        const MOST: u64 = 100 * 365 * 24 * 60 * 60;
        let nanos = u128::from(units) * 1_000_000_000;
        let nanos = nanos / u128::from(self.rate.get());
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let time = Duration::from_nanos(nanos).min(Duration::from_secs(MOST));
        self.paid = self.paid.max(now) + time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BURST: Duration = Duration::from_millis(100);

    fn rate(units: u64) -> NonZeroU64 {
        NonZeroU64::new(units).unwrap()
    }

    #[test]
    fn a_full_bucket_holds_a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(1000), BURST, start);
        // 100 units are in it.
        for _ in 0..100 {
            assert_eq!(bucket.opens(start), None);
            bucket.take(1, start);
        }
        assert_eq!(bucket.left(start), Duration::ZERO);
        bucket.take(1, start);
        let next = bucket.opens(start).unwrap();
        assert_eq!(next - start, Duration::from_millis(1));
        assert_eq!(bucket.opens(next), None);
        // It does not hold more after a long time.
        let later = start + Duration::from_secs(9);
        assert_eq!(bucket.left(later), BURST);
    }

    #[test]
    fn the_largest_piece_does_not_overflow_a_clock() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(1), BURST, start);
        bucket.take(u64::MAX, start);
        assert!(bucket.opens(start).is_some());
    }

    proptest! {
        /// Pieces of any size, taken as soon as it may be.
        #[test]
        fn no_more_than_rate_and_burst_is_taken(
            pieces in prop::collection::vec(1..5000_u64, 1..100),
            per_second in 1..10_000_u64,
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate(per_second), BURST, start);
            let (mut now, mut before) = (start, 0);
            for piece in pieces {
                now = bucket.opens(now).unwrap_or(now);
                let time = (now - start + BURST).as_secs_f64();
                // Each piece may begin when what was taken has come in.
                let came = time * per_second as f64;
                prop_assert!(before as f64 <= came + 1.0);
                bucket.take(piece, now);
                before += piece;
            }
        }
    }
}
