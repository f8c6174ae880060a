//! `--cpu-share`: a thread that bounds the processor time of a Guest.
//!
//! It looks at the clocks of the Guest's processes and of the Launcher. When
//! they have used their share, the Guest stands still for a while. A Guest that
//! is idle is hardly looked at.

use crate::devices::bucket::Bucket;
use crate::engine::Engine;
use crate::thread;
use std::collections::HashMap;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time over which the share is kept.
const PERIOD: Duration = Duration::from_millis(100);

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(2);

/// Starts the thread for a share of `percent` of a processor.
pub(super) fn start(percent: u8, guest: Arc<dyn Engine>) -> io::Result<()> {
    // Nanoseconds of a processor in a second.
    let rate = NonZeroU64::new(u64::from(percent) * 10_000_000);
    let Some(rate) = rate else {
        return Ok(());
    };
    let mut used = Used::default();
    used.since_last(guest.processor_times());
    let bucket = Bucket::new(rate, PERIOD, Instant::now());
    thread::start("throttle", 64 << 10, move || {
        bound(percent, bucket, used, &*guest);
    })?;
    Ok(())
}

/// Bounds the Guest until it is dead.
fn bound(percent: u8, mut bucket: Bucket, mut used: Used, guest: &dyn Engine) {
    loop {
        let now = Instant::now();
        let spent = used.since_last(guest.processor_times());
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        bucket.take(nanos, now);
        let Some(opens) = bucket.opens(now) else {
            std::thread::sleep(lasts(bucket.left(now), percent));
            if guest.death().is_some() {
                return;
            }
            continue;
        };
        // A Guest that does not stand is killed.
        let held = guest.hold().and_then(|hold| hold.wait().map(|()| hold));
        let Ok(hold) = held else {
            return;
        };
        // Half of the bucket: else it would stand and go on all the time.
        let opens = opens + PERIOD / 2;
        std::thread::sleep(opens.saturating_duration_since(Instant::now()));
        drop(hold);
    }
}

/// How long a bucket lasts at least from which one processor takes, when `left`
/// is in it.
fn lasts(left: Duration, percent: u8) -> Duration {
    let others = u32::from(100_u8.saturating_sub(percent)).max(1);
    let time = left * u32::from(percent) / others;
    time.clamp(SHORTEST, PERIOD)
}

/// What each process had used at the last look.
#[derive(Default)]
pub(super) struct Used(HashMap<i32, Duration>);

impl Used {
    /// What all `times` have grown by since the last look. A process that has
    /// ended meanwhile does not count.
    pub(super) fn since_last(
        &mut self,
        times: Vec<(i32, Duration)>,
    ) -> Duration {
        let times: HashMap<_, _> = times.into_iter().collect();
        let before = std::mem::replace(&mut self.0, times);
        let grown = self.0.iter().map(|(process, time)| {
            let before = before.get(process).copied().unwrap_or_default();
            time.saturating_sub(before)
        });
        grown.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_processes_use_is_added_up() {
        let mut used = Used::default();
        let ms = Duration::from_millis;
        used.since_last(vec![(1, ms(100)), (2, ms(200))]);
        let times = vec![(1, ms(101)), (3, ms(5))];
        assert_eq!(used.since_last(times), ms(6));
        // The number of another process now, with less time.
        assert_eq!(used.since_last(vec![(1, ms(3))]), ms(0));
    }

    #[test]
    fn the_next_look_comes_before_the_bucket_can_be_empty() {
        let ms = Duration::from_millis;
        assert_eq!(lasts(ms(50), 50), ms(50));
        assert_eq!(lasts(ms(100), 20), ms(25));
        assert_eq!(lasts(ms(0), 50), SHORTEST);
        assert_eq!(lasts(ms(100), 100), PERIOD);
    }
}
