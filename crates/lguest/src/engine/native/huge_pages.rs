//! Huge pages: they replace memory of which the Guest has used every page.
//!
//! The kernel gives a Guest its memory page by page, at the first access, from
//! any place that is free. Programs that go through much memory then wait for
//! page walks, which take twice as long in a virtual machine. So each piece of
//! 2 MiB that has no untouched page becomes one huge page, made by the kernel
//! while the Guest runs on. That takes no additional memory, and a millisecond
//! or two of another processor's time for each piece. Single pages that a view
//! maps out of such a piece gain, too: neighbours in the Guest are neighbours
//! in the machine.
//!
//! The Launcher looks for such pieces only when the Guest has worked for a
//! while, and less often each time it finds nothing. The thread exists only
//! while there is something to do.

use super::affinity::Anywhere;
use crate::lock::lock;
use crate::memory::{GuestMemory, HUGE_PAGE};
use rustix::io::Errno;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The shortest time between two searches ...
const SHORTEST: Duration = Duration::from_millis(500);

/// ... and the longest, when nothing was found for long.
const LONGEST: Duration = Duration::from_secs(60);

/// How often the kernel is asked to collapse a piece that it has refused: the
/// pages may just have been on their way to a disk.
const TRIES: u8 = 8;

/// Which pieces of a Guest's memory are huge pages.
pub(super) struct HugePages {
    /// Where the thread may run: not only on the Guest's processor.
    anywhere: Anywhere,
    made: AtomicU64,
    plan: Mutex<Plan>,
}

struct Plan {
    /// The attempts left for each piece: at most [`TRIES`], 0 = nothing to do.
    tries: Vec<u8>,
    /// A thread is searching.
    busy: bool,
    next: Instant,
    pause: Duration,
}

impl HugePages {
    /// No huge pages yet. The calling thread must not be kept on one processor
    /// yet.
    pub(super) fn new(memory: &GuestMemory) -> Self {
        let pieces = (memory.ram() / HUGE_PAGE) as usize;
        Self {
            anywhere: Anywhere::we_may(),
            made: AtomicU64::new(0),
            plan: Mutex::new(Plan {
                tries: vec![TRIES; pieces],
                busy: false,
                next: Instant::now(),
                pause: SHORTEST,
            }),
        }
    }

    /// How many there are.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Starts a search for memory that can become huge pages, if it is time for
    /// one. Called when the Guest has worked for a while. Does not wait for it.
    pub(super) fn consider(this: &Arc<Self>, memory: &GuestMemory) {
        let mut plan = lock(&this.plan);
        if plan.busy || Instant::now() < plan.next {
            return;
        }
        let (huge, memory) = (Arc::clone(this), memory.clone());
        let thread = this
            .anywhere
            .spawn("huge-pages", move || huge.work(&memory));
        // A machine without room for a thread has none for huge pages.
        plan.busy = thread.is_ok();
    }

    /// Goes through all pieces once.
    fn work(&self, memory: &GuestMemory) {
        let mut tries = lock(&self.plan).tries.clone();
        let made = collapse_what_is_full(memory, &mut tries);
        self.made.fetch_add(made, Ordering::Relaxed);
        let mut plan = lock(&self.plan);
        plan.pause = if made == 0 {
            (2 * plan.pause).min(LONGEST)
        } else {
            SHORTEST
        };
        plan.tries = tries;
        plan.next = Instant::now() + plan.pause;
        plan.busy = false;
    }
}

/// Makes huge pages of all pieces without a gap. Returns how many.
fn collapse_what_is_full(memory: &GuestMemory, tries: &mut [u8]) -> u64 {
    let (mut made, mut used) = (0, 0);
    for (i, tries) in tries.iter_mut().enumerate() {
        let Ok(i) = u32::try_from(i) else { break };
        let start = i * HUGE_PAGE;
        let end = start + HUGE_PAGE;
        if *tries == 0 {
            continue;
        }
        if used < end {
            match memory.used_up_to(start) {
                Ok(up_to) => used = up_to,
                Err(_) => break,
            }
        }
        if used < end {
            continue;
        }
        match memory.collapse(start) {
            Ok(()) => {
                *tries = 0;
                made += 1;
            }
            // This kernel cannot do it, or a setting forbids it.
            Err(error) if error.raw_os_error() == Some(EINVAL) => *tries = 0,
            Err(_) => *tries -= 1,
        }
    }
    made
}

const EINVAL: i32 = Errno::INVAL.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory with something in each page but those of `gaps`.
    fn memory(pieces: u32, gaps: &[u32]) -> GuestMemory {
        let memory = GuestMemory::new(pieces * HUGE_PAGE + 0x1000, 1).unwrap();
        for page in (0..pieces * HUGE_PAGE).step_by(0x1000) {
            if !gaps.contains(&page) {
                memory.write(page + 8, &page.to_le_bytes()).unwrap();
            }
        }
        memory
    }

    #[test]
    fn only_what_is_full_becomes_large_and_nothing_changes() {
        let gap = HUGE_PAGE + 0x5000;
        let memory = memory(3, &[gap]);
        let mut tries = [TRIES; 3];
        let made = collapse_what_is_full(&memory, &mut tries);
        if made == 0 {
            println!(
                "SKIPPED only_what_is_full_becomes_large_and_nothing_changes: \
                 this kernel collapses no memory files"
            );
            return;
        }
        assert_eq!((made, tries), (2, [0, TRIES, 0]));
        assert_eq!(memory.used_up_to(HUGE_PAGE).unwrap(), gap);
        for page in (0..3 * HUGE_PAGE).step_by(0x1000) {
            let wanted = if page == gap { 0 } else { page };
            assert_eq!(memory.read_object::<u32>(page + 8), Ok(wanted));
        }
        // The gap is filled, and then there is one more.
        memory.write(gap, &[1]).unwrap();
        assert_eq!(collapse_what_is_full(&memory, &mut tries), 1);
        assert_eq!(tries, [0; 3]);
    }

    #[test]
    fn who_finds_nothing_looks_less_often() {
        let memory = memory(1, &[0x3000]);
        let huge = HugePages::new(&memory);
        huge.work(&memory);
        huge.work(&memory);
        assert_eq!(lock(&huge.plan).pause, 4 * SHORTEST);
        assert!(lock(&huge.plan).next > Instant::now() + 2 * SHORTEST);
        memory.write(0x3000, &[1]).unwrap();
        huge.work(&memory);
        if huge.made() == 1 {
            assert_eq!(lock(&huge.plan).pause, SHORTEST);
        }
    }
}
