//! Clocks and the timer of a process.
//!
//! Each view has one timer, whose signal is a kick. Clocks are read by system
//! calls: a view has no vDSO.

#![expect(unsafe_code, reason = "system calls")]

use crate::own::own;
use crate::shared::setup;
use crate::syscall::{SIGALRM, call, nr};
use core::sync::atomic::Ordering;
use lg_host::world::WallClock;

const CLOCK_REALTIME: usize = 0;
pub(crate) const CLOCK_MONOTONIC: usize = 1;
const TIMER_ABSTIME: usize = 1;
const NSEC_PER_SEC: u64 = 1_000_000_000;

/// `struct timespec`.
#[derive(Default)]
#[repr(C)]
struct TimeSpec {
    sec: u64,
    nsec: u64,
}

/// `struct itimerspec`.
#[repr(C)]
struct TimerSpec {
    interval: TimeSpec,
    value: TimeSpec,
}

/// The clock that tells how long a process has worked.
pub(crate) const fn clock_of(process: u32) -> u32 {
    lg_wire::clock::clock_of(process.cast_signed()).cast_unsigned()
}

/// `struct sigevent`, up to what we fill in.
#[repr(C)]
struct SignalEvent {
    value: u64,
    signal: i32,
    notify: i32,
    padding: [u64; 6],
}

/// Makes a timer, which sends SIGALRM to this process.
pub(crate) fn make_timer() -> Result<u32, i32> {
    const SIGEV_SIGNAL: i32 = 0;
    let event = SignalEvent {
        value: 0,
        signal: SIGALRM,
        notify: SIGEV_SIGNAL,
        padding: [0; 6],
    };
    let mut timer = 0_u32;
    let (event, at) = (&raw const event as usize, &raw mut timer as usize);
    // SAFETY: the kernel reads `event` and writes `timer`.
    unsafe { call(nr::TIMER_CREATE, [CLOCK_MONOTONIC, event, at, 0, 0, 0]) }?;
    Ok(timer)
}

fn clock(which: usize) -> TimeSpec {
    let mut now = TimeSpec::default();
    let at = &raw mut now as usize;
    // SAFETY: the kernel writes `now`.
    let _ = unsafe { call(nr::CLOCK_GETTIME, [which, at, 0, 0, 0, 0]) };
    now
}

/// What a clock says, in one number.
pub(crate) fn nanoseconds(which: usize) -> u64 {
    let now = clock(which);
    now.sec * NSEC_PER_SEC + now.nsec
}

/// The time of a trace: the time-stamp counter. Where the Guest has another
/// one, `rdtsc` faults here, and it is the monotonic clock.
pub(crate) fn ticks() -> u64 {
    counter().unwrap_or_else(|| nanoseconds(CLOCK_MONOTONIC))
}

/// The time-stamp counter. `None` where the Guest has another one: `rdtsc`
/// faults here.
pub(crate) fn counter() -> Option<u64> {
    if setup().moved.tsc_khz != 0 {
        return None;
    }
    // SAFETY: every x86-64 has it, and the Guest itself keeps time by it.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

/// Has `timer` go off at `deadline`.
pub(crate) fn arm(timer: u32, deadline: u64) {
    own().armed.store(deadline, Ordering::Relaxed);
    let spec = TimerSpec {
        interval: TimeSpec::default(),
        value: TimeSpec {
            sec: deadline / NSEC_PER_SEC,
            nsec: deadline % NSEC_PER_SEC,
        },
    };
    let at = &raw const spec as usize;
    let arguments = [timer as usize, TIMER_ABSTIME, at, 0, 0, 0];
    // SAFETY: the kernel reads `spec`.
    let _ = unsafe { call(nr::TIMER_SETTIME, arguments) };
}

/// The time of day.
pub(crate) fn wall_clock() -> WallClock {
    let now = clock(CLOCK_REALTIME);
    // After the year 2106 a Guest of 2007 sees the time wrap.
    #[expect(clippy::cast_possible_truncation, reason = "see above")]
    WallClock {
        sec: now.sec as u32,
        nsec: now.nsec as u32,
    }
}
