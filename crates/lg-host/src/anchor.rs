//! Clocks that are told by the time-stamp counter.
//!
//! A view reads a clock by a system call. Each interrupt tells the Guest the
//! time of day, so a Guest with many interrupts costs as many calls. The Guest
//! itself keeps time by the counter, if the Launcher has found that it runs at
//! one speed, and has told the Guest how fast. There the Host does so, too:
//! each reading of a clock is an *anchor*, and for a millisecond after it, the
//! clock is told by the ticks that have gone by.
//!
//! What is told lies behind the real clock by no more than the reading took
//! ([`MOST_FOR_A_READING`]), and is off by the error of the measured frequency,
//! some ten nanoseconds in a millisecond. A clock that is set is noticed a
//! millisecond late. No clock goes backwards by this: a reading that is a
//! little earlier than what was told ([`MOST_AHEAD`]) is not told.
//!
//! The anchors are part of the state, which the Guest can write once it has
//! taken over a view. Then it tells itself the wrong time, and has its timer go
//! off at another one. It can do both without them.

use crate::fast_path;
use crate::host::Host;
use crate::world::WallClock;
use core::cell::Cell;

/// For how many parts of a second an anchor holds: a millisecond.
const ANCHORED_FOR: u64 = 1000;

/// A reading that took more than this part of a second is no anchor: 5 µs. Its
/// process did not run all the time.
const MOST_FOR_A_READING: u64 = 200_000;

/// By how many nanoseconds what is told may be ahead of the next reading. If it
/// is more, the clock was set.
const MOST_AHEAD: u64 = 10_000;

const NSEC_PER_SEC: u64 = 1_000_000_000;

/// A reading of a clock, and of the counter behind it.
#[derive(Default)]
#[repr(C)]
pub struct Anchor {
    /// The time; 0 = there is no reading that holds.
    at: Cell<u64>,
    /// The counter.
    counter: Cell<u64>,
    /// The latest time that was told.
    told: Cell<u64>,
}

/// The anchors of both clocks.
#[derive(Default)]
#[repr(C)]
pub struct Anchors {
    /// The clock that never jumps.
    monotonic: Anchor,
    /// The time of day.
    wall: Anchor,
}

impl Anchors {
    /// The Guest has stood still, or goes on elsewhere: each clock is read
    /// before it is told again.
    pub(crate) fn forget(&self) {
        for anchor in [&self.monotonic, &self.wall] {
            anchor.at.set(0);
            anchor.told.set(0);
        }
    }
}

/// The counter, as often in a second as this.
#[derive(Clone, Copy)]
struct Speed {
    khz: u64,
}

impl Speed {
    /// Ticks of this part of a second.
    fn part(self, parts: u64) -> u64 {
        self.khz.saturating_mul(1000) / parts
    }
}

impl Anchor {
    /// What the clock says when the counter is at `now`. `None` if it has to be
    /// read: the anchor is older than a millisecond, or the counter has gone
    /// backwards.
    fn tell(&self, now: u64, speed: Speed) -> Option<u64> {
        let ticks = now.wrapping_sub(self.counter.get());
        if self.at.get() == 0 || ticks > speed.part(ANCHORED_FOR) {
            return None;
        }
        // At most a millisecond, whatever the speed is.
        let passed = ticks.saturating_mul(1_000_000) / speed.khz.max(1);
        Some(self.not_before(self.at.get().wrapping_add(passed)))
    }

    /// The clock was read as `at` between these two values of the counter.
    /// Answers what to tell.
    fn read(&self, at: u64, [before, after]: [u64; 2], speed: Speed) -> u64 {
        let took = after.wrapping_sub(before);
        let holds = took <= speed.part(MOST_FOR_A_READING);
        self.at.set(if holds { at } else { 0 });
        self.counter.set(after);
        self.not_before(at)
    }

    /// The later one of `at` and what was told, unless the clock was set.
    fn not_before(&self, at: u64) -> u64 {
        let told = self.told.get();
        let ahead = told.wrapping_sub(at);
        let now = if ahead <= MOST_AHEAD { told } else { at };
        self.told.set(now);
        now
    }
}

impl Host<'_> {
    /// Nanoseconds on a clock that never jumps. What must not be earlier than
    /// an alarm that has gone off asks [`World`](crate::world::World).
    pub(crate) fn monotonic(&mut self) -> u64 {
        self.clock(|anchors| &anchors.monotonic, |host| host.world.monotonic())
    }

    /// The time of day.
    pub(crate) fn wall_clock(&mut self) -> WallClock {
        let now = self.clock(
            |anchors| &anchors.wall,
            |host| {
                let now = host.world.wall_clock();
                u64::from(now.sec) * NSEC_PER_SEC + u64::from(now.nsec)
            },
        );
        // After the year 2106 a Guest of 2007 sees the time wrap.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        WallClock {
            sec: (now / NSEC_PER_SEC) as u32,
            nsec: (now % NSEC_PER_SEC) as u32,
        }
    }

    /// A clock, by its anchor or by `read`.
    fn clock(
        &mut self,
        anchor: impl Fn(&Anchors) -> &Anchor,
        read: impl Fn(&mut Self) -> u64,
    ) -> u64 {
        let vm = self.vm;
        let Some((before, speed)) = self.counter() else {
            return read(self);
        };
        let anchor = anchor(&vm.anchors);
        if let Some(now) = anchor.tell(before, speed) {
            vm.counters.clocks_told.count();
            return now;
        }
        let at = read(self);
        match self.counter() {
            Some((after, _)) => anchor.read(at, [before, after], speed),
            None => at,
        }
    }

    /// The counter and its speed, where clocks may be told by it: the Launcher
    /// has found that it is a clock, and the Guest has that of the processor.
    fn counter(&mut self) -> Option<(u64, Speed)> {
        let vm = self.vm;
        let khz = vm.wire.tsc_khz.load(core::sync::atomic::Ordering::Relaxed);
        if khz == 0
            || vm.moved.get().tsc_khz != 0
            || !self.may_take(fast_path::CLOCK)
        {
            return None;
        }
        let speed = Speed { khz: khz.into() };
        Some((self.world.counter()?, speed))
    }
}

#[cfg(test)]
mod tests;
