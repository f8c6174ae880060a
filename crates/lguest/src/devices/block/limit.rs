//! `--io-limit`: how much the disks of a Guest may do in a second.
//!
//! All disks of a Guest have one limit. A request for which there is no room
//! waits in the thread of its disk, and the Guest runs on.

use crate::devices::bucket::Bucket;
use crate::lock::lock;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time in which as much comes in as a burst may have.
const BURST: Duration = Duration::from_millis(100);

/// What disks may do in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskRate {
    /// Bytes that are read or written.
    pub bytes: Option<NonZeroU64>,
    /// Requests.
    pub requests: Option<NonZeroU64>,
}

/// The limit of all disks of a Guest.
#[derive(Debug)]
pub struct Limit {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    bytes: Option<Bucket>,
    requests: Option<Bucket>,
    /// Requests that wait.
    waiting: u32,
    /// Disks that are ending their requests.
    lifted: u32,
}

impl State {
    fn opens(&self, now: Instant) -> Option<Instant> {
        let buckets = [&self.bytes, &self.requests].into_iter().flatten();
        buckets.filter_map(|bucket| bucket.opens(now)).max()
    }

    fn take(&mut self, bytes: u32, now: Instant) {
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes.into(), now);
        }
        if let Some(bucket) = &mut self.requests {
            bucket.take(1, now);
        }
    }
}

impl Limit {
    /// A limit of which nothing is used yet.
    #[must_use]
    pub fn new(rate: DiskRate) -> Arc<Self> {
        let now = Instant::now();
        let bucket = |rate| Bucket::new(rate, BURST, now);
        Arc::new(Self {
            state: Mutex::new(State {
                bytes: rate.bytes.map(bucket),
                requests: rate.requests.map(bucket),
                waiting: 0,
                lifted: 0,
            }),
            changed: Condvar::new(),
        })
    }

    /// Counts a request if it need not wait. Requests that wait come first.
    pub(super) fn may_pass(&self, bytes: u32) -> bool {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let may = state.waiting == 0 && state.opens(now).is_none();
        if may {
            state.take(bytes, now);
        }
        may
    }

    /// Counts a request when there is room for it. Blocks until then, or until
    /// it is cancelled ([`Self::look_again`]). Returns whether it was counted.
    pub(super) fn pass(&self, bytes: u32, cancelled: &AtomicBool) -> bool {
        let mut state = lock(&self.state);
        state.waiting += 1;
        let is_cancelled = || cancelled.load(Ordering::SeqCst);
        while state.lifted == 0
            && !is_cancelled()
            && let Some(at) = state.opens(Instant::now())
        {
            let left = at.saturating_duration_since(Instant::now());
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting -= 1;
        let passes = !is_cancelled();
        if passes {
            state.take(bytes, Instant::now());
        }
        passes
    }

    /// Requests that wait may have been cancelled.
    pub(super) fn look_again(&self) {
        // One that is about to wait has the lock.
        drop(lock(&self.state));
        self.changed.notify_all();
    }

    /// Lets requests pass as long as the value that is returned lives: somebody
    /// waits for the last of them.
    pub(super) fn lift(self: &Arc<Self>) -> Lifted {
        lock(&self.state).lifted += 1;
        self.changed.notify_all();
        Lifted(Arc::clone(self))
    }
}

/// The limit does not count.
pub(super) struct Lifted(Arc<Limit>);

impl Drop for Lifted {
    fn drop(&mut self) {
        lock(&self.0.state).lifted -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(bytes: u64, requests: u64) -> Arc<Limit> {
        Limit::new(DiskRate {
            bytes: NonZeroU64::new(bytes),
            requests: NonZeroU64::new(requests),
        })
    }

    #[test]
    fn bytes_and_requests_are_limited() {
        let limit = limit(1, 0);
        assert!(limit.may_pass(1 << 20), "the first one finds a full bucket");
        assert!(!limit.may_pass(1));
        let limit = self::limit(0, 20);
        assert!(limit.may_pass(1 << 20) && limit.may_pass(1 << 20));
        assert!(limit.may_pass(0));
        assert!(!limit.may_pass(0));
    }

    #[test]
    fn a_request_waits_and_passes_before_later_ones() {
        let limit = limit(1, 0);
        assert!(limit.may_pass(1000));
        let waits = {
            let limit = limit.clone();
            let never = AtomicBool::new(false);
            std::thread::spawn(move || limit.pass(1, &never))
        };
        while lock(&limit.state).waiting == 0 {
            std::thread::yield_now();
        }
        lock(&limit.state).bytes = None;
        assert!(!limit.may_pass(1), "another one waits");
        // It would wait for a quarter of an hour.
        let lifted = limit.lift();
        assert!(waits.join().unwrap());
        drop(lifted);
        assert!(limit.may_pass(1));
    }

    #[test]
    fn waiting_takes_the_time_that_it_should() {
        let limit = limit(100_000, 0);
        let start = Instant::now();
        for _ in 0..6 {
            limit.pass(10_000, &AtomicBool::new(false));
        }
        // A burst of 10 000 bytes, one piece of debt, and 40 000 bytes.
        assert!(start.elapsed() >= Duration::from_millis(390));
    }
}
