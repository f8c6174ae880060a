//! Waits on several futex words at once.
//!
//! Other Launchers ring the thread that fetches frames by a word in its port,
//! and each Guest that posts to it by a word in that Guest's outbox. Linux has
//! had a call that waits for several words (futex_waitv) since 5.16. On an
//! older kernel nothing is posted.

use rustix::io::Errno;
use rustix::thread::futex::{self, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// The most words that one call takes, less one for the port.
pub(super) const MOST: usize = 127;

/// Whether this kernel has the call.
pub(super) fn is_known() -> bool {
    let none = futex::waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic);
    // The call needs one word at least.
    none == Err(Errno::INVAL)
}

/// Sleeps while all these words have these values, and for `time` at most.
/// Returns which of them has ended the sleep, if one has.
pub(super) fn wait(
    words: &[(&AtomicU32, u32)],
    time: Option<Duration>,
) -> Option<usize> {
    if let &[(word, value)] = words {
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let flags = futex::Flags::empty();
        let _ = futex::wait(word, flags, value, time.as_ref());
        return None;
    }
    let waits: Vec<Wait> = words
        .iter()
        .map(|(word, value)| {
            let mut wait = Wait::new();
            wait.val = u64::from(*value);
            wait.uaddr = WaitPtr::new(word.as_ptr().cast());
            wait.flags = WaitFlags::SIZE_U32;
            wait
        })
        .collect();
    // This call takes a point in time.
    let clock = ClockId::Monotonic;
    let deadline = time.and_then(|time| {
        let now = Duration::try_from(clock_gettime(clock)).ok()?;
        Timespec::try_from(now + time).ok()
    });
    let flags = WaitvFlags::empty();
    futex::waitv(&waits, flags, deadline.as_ref(), clock).ok()
}
