//! Told clocks against the real one.

use super::{Anchor, Speed};
use crate::fast_path;
use crate::testing::Machine;
use core::sync::atomic::Ordering;
use lg_wire::moved::Moved;

/// 2.6 GHz.
const SPEED: Speed = Speed { khz: 2_600_000 };

/// Ticks of a microsecond.
const US: u64 = 2600;
const MS: u64 = 1000 * US;

/// A real clock, and a counter that is a little faster than it was measured to
/// be.
struct Real {
    ticks: u64,
    /// Millionths.
    faster: u64,
    set: i64,
}

impl Real {
    fn now(&self) -> u64 {
        let nanoseconds = self.ticks * 10 / 26;
        let error = nanoseconds / 1_000_000 * self.faster;
        (5_000_000_000 + nanoseconds - error).wrapping_add_signed(self.set)
    }

    /// What the Guest is told, and whether the clock was read for it.
    fn ask(&mut self, anchor: &Anchor, reading: u64) -> (u64, bool) {
        let before = self.ticks;
        if let Some(told) = anchor.tell(before, SPEED) {
            return (told, false);
        }
        self.ticks += reading / 2;
        let at = self.now();
        self.ticks += reading - reading / 2;
        (anchor.read(at, [before, self.ticks], SPEED), true)
    }
}

/// Numbers that are random enough.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn a_told_clock_is_never_far_from_the_real_one_and_never_goes_back() {
    let mut seed = 0x1234_5678_9ABC_DEF1;
    for faster in [0, 30, 60] {
        let mut real = Real {
            ticks: 1 << 40,
            faster,
            set: 0,
        };
        let anchor = Anchor::default();
        let (mut last, mut read) = (0, 0_u64);
        let began = real.ticks;
        for _ in 0..200_000 {
            let r = random(&mut seed);
            real.ticks += match r % 64 {
                0 => 3 * MS,
                1..8 => r % MS,
                _ => r % (20 * US),
            };
            let took = match r >> 8 & 63 {
                // It lost the processor.
                0 => 10 * MS,
                _ => US / 10 + (r >> 16) % US,
            };
            let (told, is_read) = real.ask(&anchor, took);
            assert!(told >= last, "back from {last} to {told}");
            let now = real.now();
            if is_read {
                read += 1;
            } else {
                let (behind, ahead) =
                    (now - told.min(now), told - now.min(told));
                assert!(behind <= 5_000, "{behind} ns behind");
                assert!(ahead <= 100, "{ahead} ns ahead");
            }
            last = told;
        }
        let milliseconds = (real.ticks - began) / MS;
        assert!(read <= milliseconds + 10_000, "{read}");
        assert!(read < 100_000, "{read} of 200 000");
    }
}

#[test]
fn a_millisecond_later_the_clock_is_read() {
    for (later, is_read) in [(0, false), (MS, false), (MS + 1, true)] {
        let mut real = Real {
            ticks: 1 << 40,
            faster: 0,
            set: 0,
        };
        let anchor = Anchor::default();
        assert!(real.ask(&anchor, US).1);
        real.ticks += later;
        assert_eq!(real.ask(&anchor, US).1, is_read, "{later}");
    }
}

#[test]
fn an_odd_step_of_the_counter_has_the_clock_read() {
    let anchor = Anchor::default();
    let at = |now, counter: u64| {
        let told = anchor.tell(counter, SPEED);
        told.unwrap_or_else(|| anchor.read(now, [counter; 2], SPEED))
    };
    assert_eq!(at(1_000_000, 50 * MS), 1_000_000);
    assert_eq!(at(7_000_000, 50 * MS + US), 1_001_000);
    // Back by one tick.
    assert_eq!(at(7_000_000, 50 * MS - 1), 7_000_000);
    // Another processor's.
    assert_eq!(at(8_000_000, 90 * MS), 8_000_000);
    assert_eq!(at(9_000_000, 0), 9_000_000);
    // And around.
    assert_eq!(at(9_500_000, 0_u64.wrapping_sub(US)), 9_500_000);
    assert_eq!(at(9_999_999, US), 9_502_000);
}

#[test]
fn a_reading_that_took_long_is_no_anchor() {
    for (took, holds) in [(0, true), (5 * US, true), (5 * US + 1, false)] {
        let anchor = Anchor::default();
        assert_eq!(anchor.read(77_000, [MS, MS + took], SPEED), 77_000);
        assert_eq!(anchor.tell(MS + took, SPEED).is_some(), holds, "{took}");
    }
}

#[test]
fn a_clock_that_is_set_is_told_and_one_that_is_late_is_not() {
    let anchor = Anchor::default();
    assert_eq!(anchor.read(9_000_000, [0, 0], SPEED), 9_000_000);
    assert_eq!(anchor.read(8_995_000, [0, 0], SPEED), 9_000_000);
    assert_eq!(anchor.read(8_000_000, [0, 0], SPEED), 8_000_000);
    assert_eq!(anchor.read(9_000_000, [0, 0], SPEED), 9_000_000);
}

/// Whatever a Guest that has taken over its view has written.
#[test]
fn numbers_of_a_stranger_do_no_harm() {
    for wild in [0, 1, u64::MAX / 2, u64::MAX] {
        for other in [0, 3, u64::MAX] {
            for khz in [0, 1, u64::from(u32::MAX)] {
                let speed = Speed { khz };
                let anchor = Anchor::default();
                anchor.at.set(wild);
                anchor.told.set(other);
                let _ = anchor.tell(other, speed);
                let _ = anchor.read(wild, [other, wild], speed);
                let _ = anchor.tell(wild, speed);
            }
        }
    }
}

/// What a test changes of a machine.
type Change = fn(&mut Machine);

/// How often the clocks are read for ten looks at both of them, and how often
/// they are told.
fn looks(change: impl Fn(&mut Machine)) -> (u32, u64) {
    let mut m = Machine::new();
    m.vm.wire.tsc_khz.store(2_600_000, Ordering::SeqCst);
    m.world.now = 1_000_000;
    m.world.counter = Some(1 << 40);
    m.world.reading = US / 5;
    change(&mut m);
    for _ in 0..10 {
        m.host().write_time().unwrap();
        m.host().monotonic();
    }
    (m.world.clocks_read, m.vm.counters.clocks_told.get())
}

#[test]
fn clocks_are_told_only_where_the_counter_is_one() {
    assert_eq!(looks(|_| {}), (2, 18));
    let never: [(&str, Change); 4] = [
        ("a slow path", |m| m.vm.slow_paths.set(fast_path::CLOCK)),
        ("not invariant", |m| {
            m.vm.wire.tsc_khz.store(0, Ordering::SeqCst);
        }),
        ("another counter", |m| {
            m.vm.moved.set(Moved {
                tsc_khz: 1,
                ..Moved::default()
            });
        }),
        ("none", |m| m.world.counter = None),
    ];
    for (why, change) in never {
        assert_eq!(looks(change), (20, 0), "{why}");
    }
    // A process that loses its processor each time.
    assert_eq!(looks(|m| m.world.reading = MS), (20, 0));
}

#[test]
fn a_guest_that_stood_or_moved_has_its_clocks_read() {
    let mut m = Machine::new();
    m.vm.wire.tsc_khz.store(2_600_000, Ordering::SeqCst);
    m.world.now = 1_000_000;
    m.world.counter = Some(1 << 40);
    m.world.orders.push_back(0);
    let mut read = 0;
    let mut look = |m: &mut Machine, is_read: bool| {
        m.host().monotonic();
        read += u32::from(is_read);
        assert_eq!(m.world.clocks_read, read);
    };
    look(&mut m, true);
    look(&mut m, false);
    m.host().stand().unwrap();
    look(&mut m, true);
    look(&mut m, false);
    m.vm.resume(&crate::pci::tests::setup());
    m.vm.wire.tsc_khz.store(2_600_000, Ordering::SeqCst);
    look(&mut m, true);
    look(&mut m, false);
}
