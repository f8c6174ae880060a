//! Which processor a Guest runs on: one, but not for ever.
//!
//! A Guest has one processor, and its views pass the baton to each other
//! thousands of times a second. Left alone, the kernel wakes each of them
//! wherever there is room, and a hand-over between processors costs several
//! times what it costs on one. So all processes of a Guest, and the thread
//! that serves it, are kept on one processor. But a processor that was free
//! when the Guest started need not stay so, and the kernel may not move what
//! was pinned: so from time to time, and only while the Guest works, it is
//! asked how long the Guest had to wait for its processor, and if that was
//! long, it moves to the one that has idled most.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::time::Instant;

/// The share of the time that a Guest may spend waiting for its processor.
const PATIENCE: f64 = 0.2;

/// Where a Guest runs, and how it fared there.
pub(super) struct Affinity {
    /// The processors that we may use.
    allowed: Vec<usize>,
    current: usize,
    last: Option<Sample>,
}

/// How things stood when we last looked.
struct Sample {
    at: Instant,
    /// Nanoseconds for which the Guest has waited, ready to run.
    waited: u64,
    /// Ticks for which each processor has idled.
    idle: Vec<u64>,
}

impl Affinity {
    /// Starts on the processor that we run on now. `None` where there is no
    /// choice.
    pub(super) fn new() -> Option<Self> {
        let set = sched_getaffinity(None).ok()?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect();
        if allowed.len() < 2 {
            return None;
        }
        let current = rustix::thread::sched_getcpu();
        Some(Self {
            allowed,
            current,
            last: None,
        })
    }

    /// The processor to run on.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// Looks whether the Guest had to wait too long; answers the processor to
    /// move to, if there is a better one.
    pub(super) fn reconsider(
        &mut self,
        processes: impl Iterator<Item = Pid>,
    ) -> Option<usize> {
        let now = Sample {
            at: Instant::now(),
            waited: processes.filter_map(waited).sum(),
            idle: idle_ticks()?,
        };
        let last = self.last.replace(now)?;
        let now = self.last.as_ref()?;
        let nanos = (now.at - last.at).as_secs_f64() * 1e9;
        #[allow(clippy::cast_precision_loss)] // a ratio
        let waited = now.waited.saturating_sub(last.waited) as f64;
        if waited < PATIENCE * nanos {
            return None;
        }
        let idled = |cpu: usize| {
            let before = last.idle.get(cpu).copied().unwrap_or(0);
            let after = now.idle.get(cpu).copied().unwrap_or(0);
            after.saturating_sub(before)
        };
        let best = self.allowed.iter().copied().max_by_key(|&c| idled(c))?;
        if idled(best) <= idled(self.current) {
            return None;
        }
        self.current = best;
        self.last = None;
        Some(best)
    }
}

/// Keeps a process, or with `None` this thread, on processor `cpu`. Where that
/// is not allowed, it runs where it may; it is only slower.
pub(super) fn keep_on(process: Option<Pid>, cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(process, &set);
}

/// Nanoseconds for which a process has been ready and was not run: the second
/// field of its schedstat.
fn waited(process: Pid) -> Option<u64> {
    let pid = process.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    stat.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Ticks for which each processor has idled, by its number.
fn idle_ticks() -> Option<Vec<u64>> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let mut ticks = Vec::new();
    for line in stat.lines().skip(1) {
        let Some(rest) = line.strip_prefix("cpu") else {
            break;
        };
        let mut fields = rest.split_ascii_whitespace();
        let cpu: usize = fields.next()?.parse().ok()?;
        let idle = fields.nth(3)?.parse().ok()?;
        if ticks.len() <= cpu {
            ticks.resize(cpu + 1, 0);
        }
        ticks[cpu] = idle;
    }
    Some(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_how_long_its_processors_idled() {
        let cpu = rustix::thread::sched_getcpu();
        let ticks = idle_ticks().unwrap();
        assert!(ticks.len() > cpu);
    }

    #[test]
    fn nothing_moves_without_a_reason() {
        let me = || std::iter::once(rustix::process::getpid());
        let Some(mut affinity) = Affinity::new() else {
            return; // one processor: nothing to choose
        };
        let start = affinity.current();
        assert_eq!(affinity.reconsider(me()), None, "nothing to compare");
        let moved = affinity.reconsider(me());
        assert!(moved.is_none_or(|cpu| cpu != start));
    }
}
