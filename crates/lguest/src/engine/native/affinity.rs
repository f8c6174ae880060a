//! Which processor a Guest runs on: one at a time, changed if others use it.
//!
//! A Guest has one processor, and its views pass the run token to each other
//! thousands of times a second. By default, the kernel wakes each view on any
//! idle processor. A hand-over between processors costs several times what it
//! costs on one. So all processes of a Guest, and the thread that serves it,
//! are kept on one processor. That processor may become busy later, and the
//! kernel may not move a pinned process. So from time to time, while the Guest
//! works, the Launcher measures for how long others have used its processor. If
//! that was long, the Guest moves to the processor that has idled most.
//!
//! The others may be another Guest, whose Launcher finds the same at the same
//! time. If both moved, they would meet again. So a Guest moves by chance, and
//! with the probability that is the share of the others: of two, one moves in
//! half of the cases, and in the others it is tried again.
//!
//! The kernel also reports how long each process had to wait, but in a file of
//! each process, and a confined Launcher opens no files ([`crate::confine`]).
//! One file of the whole machine, opened before, and the processes' clocks are
//! enough.

#![expect(unsafe_code, reason = "asks for this processor's number")]

use crate::engine::clock;
use crate::random::random;
use crate::thread;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The share of a Guest's processor that others may use before the Guest moves.
const PATIENCE: f64 = 0.2;

/// A processor is as good as the one that has idled most if it has idled for
/// this part of that time.
const GOOD: f64 = 0.8;

/// A tick of the kernel's statistics. It is the same on every x86-64.
const TICK: Duration = Duration::from_millis(10);

/// The kernel's file with the times of each processor.
pub(crate) const STATISTICS: &str = "/proc/stat";

/// The processor that a Guest runs on, and the last sample of its use.
pub(super) struct Affinity {
    /// The processors that we may use.
    allowed: Vec<usize>,
    current: usize,
    /// [`STATISTICS`], open.
    statistics: File,
    last: Option<Sample>,
}

/// Processor times at one moment.
struct Sample {
    at: Instant,
    /// The processor time of the Guest's processes and of the Launcher.
    used: Duration,
    /// The times of each processor.
    processors: Vec<Ticks>,
}

impl Affinity {
    /// Starts on the processor that we run on now. `None` if there is only one.
    pub(super) fn new(statistics: File) -> Option<Self> {
        let set = sched_getaffinity(None).ok()?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect();
        if allowed.len() < 2 {
            return None;
        }
        let current = this_processor()?;
        Some(Self {
            allowed,
            current,
            statistics,
            last: None,
        })
    }

    /// The processor to run on.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// Takes a sample. If others have used the processor for too long, and
    /// there is a better one, returns the better one.
    pub(super) fn reconsider(
        &mut self,
        processes: impl Iterator<Item = Pid>,
    ) -> Option<usize> {
        let now = Sample {
            at: Instant::now(),
            used: processes.filter_map(clock::used_by).sum::<Duration>()
                + clock::used_by_us(),
            processors: processors(&self.statistics)?,
        };
        let last = self.last.replace(now)?;
        let now = self.last.as_ref()?;
        let since = |cpu: usize| {
            let before = last.processors.get(cpu).copied().unwrap_or_default();
            let after = now.processors.get(cpu).copied().unwrap_or_default();
            after.since(before)
        };
        let time = now.at - last.at;
        let here = since(self.current);
        let ours = now.used.saturating_sub(last.used);
        let others = time.saturating_sub(ours + here.idle + here.stolen);
        let idle = |&cpu: &usize| (cpu, since(cpu).idle);
        let window = Window {
            time,
            others,
            idle_here: here.idle,
            idle: self.allowed.iter().map(idle).collect(),
        };
        let best = window.better([chance()?, chance()?])?;
        self.current = best;
        self.last = None;
        Some(best)
    }
}

/// What has happened between two samples.
struct Window {
    time: Duration,
    /// For how long others have used our processor.
    others: Duration,
    /// For how long that was idle, and each that we may use.
    idle_here: Duration,
    idle: Vec<(usize, Duration)>,
}

impl Window {
    /// The processor to move to, if there is a better one, and `chances`, which
    /// are from 0 to 1, decide for it.
    fn better(&self, [moves, which]: [f64; 2]) -> Option<usize> {
        if self.others < self.time.mul_f64(PATIENCE)
            || self.others <= self.time.mul_f64(moves)
        {
            return None;
        }
        let most = self.idle.iter().map(|&(_, idle)| idle).max()?;
        if most <= self.idle_here {
            return None;
        }
        // Others that move do not all take the same one.
        let good = most.mul_f64(GOOD).max(self.idle_here);
        let good = self.idle.iter().filter(|&&(_, idle)| idle > good);
        let good: Vec<usize> = good.map(|&(cpu, _)| cpu).collect();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a number of processors"
        )]
        let nth = (good.len() as f64 * which) as usize;
        // `which` may be 1.
        good.get(nth).or(good.last()).copied()
    }
}

/// A random number from 0 to 1. `None` if the kernel has none.
fn chance() -> Option<f64> {
    let number = u32::from_ne_bytes(random().ok()?);
    Some(f64::from(number) / f64::from(u32::MAX))
}

/// The processor that we are on. `None` if the call is refused; the wrapper of
/// a safe crate would panic.
fn this_processor() -> Option<usize> {
    // SAFETY: asks for a number, or fails.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Keeps a process, or with `None` this thread, on processor `cpu`. If that is
/// not allowed, it runs on any processor; it is only slower.
pub(super) fn keep_on(process: Option<Pid>, cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(process, &set);
}

/// Where threads run that must not stay on the Guest's processor: they work
/// while the Guest does something else.
#[derive(Clone, Copy)]
pub(crate) struct Anywhere(Option<CpuSet>);

impl Anywhere {
    /// The processors of the calling thread. It must not be kept on one yet.
    pub(crate) fn we_may() -> Self {
        Self(sched_getaffinity(None).ok())
    }

    /// Starts such a thread. If it cannot leave, it takes the Guest's time.
    pub(crate) fn spawn(
        self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        /// These threads need little stack.
        const STACK: usize = 64 << 10;
        thread::start(name, STACK, move || {
            if let Some(processors) = self.0 {
                let _ = sched_setaffinity(None, &processors);
            }
            run();
        })
    }
}

/// Times of a processor since the machine's start.
#[derive(Clone, Copy, Default)]
struct Ticks {
    /// Idle, perhaps because all processes waited for a disk.
    idle: Duration,
    /// Used by other virtual machines, if this machine is one.
    stolen: Duration,
}

impl Ticks {
    fn since(self, before: Self) -> Self {
        Self {
            idle: self.idle.saturating_sub(before.idle),
            stolen: self.stolen.saturating_sub(before.stolen),
        }
    }
}

/// The times of each processor, by its number.
fn processors(statistics: &File) -> Option<Vec<Ticks>> {
    let mut text = vec![0; 4096];
    let mut len = 0;
    loop {
        let more = statistics.read_at(&mut text[len..], len as u64).ok()?;
        len += more;
        // The lines of processors come first. The lines after them can be long.
        let line_of_another = |l: &[u8]| !l.starts_with(b"cpu");
        let whole = text[..len].split(|&byte| byte == b'\n');
        if more == 0 || whole.rev().skip(1).any(line_of_another) {
            break;
        }
        if len == text.len() {
            text.resize(2 * len, 0);
        }
    }
    let text = String::from_utf8_lossy(&text[..len]);
    let mut all = Vec::new();
    // The first line is the sum of the others.
    for line in text.lines().skip(1) {
        let Some(rest) = line.strip_prefix("cpu") else {
            break;
        };
        let mut fields = rest.split_ascii_whitespace();
        let cpu: usize = fields.next()?.parse().ok()?;
        let ticks: Vec<u32> = fields.map_while(|f| f.parse().ok()).collect();
        let time = |n: usize| TICK * ticks.get(n).copied().unwrap_or(0);
        if all.len() <= cpu {
            all.resize(cpu + 1, Ticks::default());
        }
        all[cpu] = Ticks {
            idle: time(3) + time(4),
            stolen: time(7),
        };
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statistics() -> File {
        File::open(STATISTICS).unwrap()
    }

    #[test]
    fn the_machine_says_how_long_its_processors_idled() {
        let cpu = this_processor().unwrap();
        let all = processors(&statistics()).unwrap();
        assert!(all.len() > cpu);
        assert!(all[cpu].idle > Duration::ZERO);
    }

    const WINDOW: Duration = Duration::from_millis(100);

    /// Where Guests are that need a whole processor each.
    struct Guests {
        processors: usize,
        at: Vec<usize>,
        /// Whose last sample was taken before a move.
        moved: Vec<bool>,
        random: u64,
    }

    impl Guests {
        fn new(guests: usize, processors: usize, random: u64) -> Self {
            let at = vec![0; guests];
            let moved = vec![true; guests];
            Self {
                processors,
                at,
                moved,
                random,
            }
        }

        fn chance(&mut self) -> f64 {
            let random = &mut self.random;
            *random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
            f64::from((*random >> 40) as u32) / f64::from(1 << 24)
        }

        /// How many are on each processor.
        fn on(&self) -> Vec<u32> {
            let mut on = vec![0; self.processors];
            self.at.iter().for_each(|&cpu| on[cpu] += 1);
            on
        }

        /// A window passes. Returns how many move.
        fn pass(&mut self, chance: impl Fn(&mut Self) -> f64) -> usize {
            let on = self.on();
            let idle = |&n: &u32| if n == 0 { WINDOW } else { Duration::ZERO };
            let idle: Vec<_> = on.iter().map(idle).enumerate().collect();
            let mut moves = 0;
            for i in 0..self.at.len() {
                let here = on[self.at[i]];
                let window = Window {
                    time: WINDOW,
                    others: WINDOW * (here - 1) / here,
                    idle_here: Duration::ZERO,
                    idle: idle.clone(),
                };
                let chances = [chance(self), self.chance()];
                let better = window.better(chances);
                if !std::mem::take(&mut self.moved[i])
                    && let Some(cpu) = better
                {
                    self.at[i] = cpu;
                    self.moved[i] = true;
                    moves += 1;
                }
            }
            moves
        }
    }

    proptest! {
        #[test]
        fn guests_that_begin_on_one_processor_find_others(
            processors in 2_usize..16,
            guests in 2_usize..24,
            random: u64,
        ) {
            let mut guests = Guests::new(guests, processors, random);
            for _ in 0..300 {
                guests.pass(Guests::chance);
            }
            let on = guests.on();
            let few = guests.at.len() <= processors;
            prop_assert!(
                on.iter().all(|&n| if few { n <= 1 } else { n >= 1 }),
                "{on:?}"
            );
            for _ in 0..50 {
                prop_assert_eq!(guests.pass(Guests::chance), 0);
            }
        }
    }

    #[test]
    fn without_chance_two_guests_meet_again_and_again() {
        let mut guests = Guests::new(2, 2, 7);
        let moves: usize = (0..100).map(|_| guests.pass(|_| 0.0)).sum();
        assert_eq!(guests.at[0], guests.at[1]);
        assert_eq!(moves, 100, "both, in every other window");
    }

    #[test]
    fn a_guest_stays_where_little_is_to_be_gained() {
        let window = |others: u32, here: u32, there: u32| Window {
            time: WINDOW,
            others: WINDOW * others / 100,
            idle_here: WINDOW * here / 100,
            idle: vec![(0, WINDOW * here / 100), (3, WINDOW * there / 100)],
        };
        let now = [0.0, 0.5];
        assert_eq!(window(50, 0, 90).better(now), Some(3));
        assert_eq!(window(10, 0, 90).better(now), None, "patience");
        assert_eq!(window(50, 0, 0).better(now), None, "no better one");
        assert_eq!(window(50, 20, 10).better(now), None, "a worse one");
        assert_eq!(window(50, 0, 90).better([0.6, 0.5]), None, "chance");
        assert_eq!(window(99, 0, 90).better([0.98, 1.0]), Some(3));
    }

    #[test]
    fn nothing_moves_without_a_reason() {
        let me = || std::iter::once(rustix::process::getpid());
        let Some(mut affinity) = Affinity::new(statistics()) else {
            return; // one processor: nothing to choose
        };
        let start = affinity.current();
        assert_eq!(affinity.reconsider(me()), None, "nothing to compare");
        let moved = affinity.reconsider(me());
        assert!(moved.is_none_or(|cpu| cpu != start));
    }
}
