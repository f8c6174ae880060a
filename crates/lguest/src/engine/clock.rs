//! How fast the time-stamp counter runs.
//!
//! A Guest keeps time by the processor's own counter and has to know its
//! frequency. The kernel does not tell it to an ordinary process. So we
//! measure: two readings of the counter and of the monotonic clock, some
//! milliseconds apart. The first is taken when the Launcher starts, so that
//! nothing waits for the second.

#![expect(unsafe_code, reason = "rdtsc, cpuid, and clocks of processes")]

use lg_wire::moved::Moment;
use rustix::process::Pid;
use std::arch::x86_64::{__cpuid, __cpuid_count, _rdtsc};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// One reading of both clocks.
#[derive(Clone, Copy)]
struct Reading {
    tsc: u64,
    at: Instant,
}

static START: OnceLock<Reading> = OnceLock::new();

/// The shortest time over which we measure. A reading is off by some tens of
/// nanoseconds; over this time that is a few parts in a hundred thousand.
const MEASURE_FOR: Duration = Duration::from_millis(2);

/// Takes the first reading, if it has not been taken. Returns the counter.
pub fn start() -> u64 {
    START.get_or_init(read).tsc
}

/// Nanoseconds on the monotonic clock.
pub(super) fn monotonic() -> u64 {
    nanoseconds(libc::CLOCK_MONOTONIC)
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let now = read_clock(clock).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The counter.
pub(super) fn ticks() -> u64 {
    // SAFETY: every x86-64 has it, and Linux lets processes use it.
    unsafe { _rdtsc() }
}

/// Thousands of ticks a second; 0 if the counter of this machine cannot be
/// used as a clock. May sleep for [`MEASURE_FOR`] after the first [`start`].
pub(super) fn tsc_khz() -> u32 {
    if !is_invariant() {
        return 0;
    }
    start();
    let first = *START.get_or_init(read);
    if let Some(rest) = MEASURE_FOR.checked_sub(first.at.elapsed()) {
        std::thread::sleep(rest);
    }
    let last = read();
    let nanos = (last.at - first.at).as_nanos();
    let ticks = u128::from(last.tsc.wrapping_sub(first.tsc));
    u32::try_from(ticks * 1_000_000 / nanos).unwrap_or(0)
}

/// This point in time, by all clocks at nearly the same time.
#[must_use]
pub fn moment() -> Moment {
    let (counter, monotonic) = with_counter(monotonic);
    Moment {
        counter,
        monotonic,
        wall: nanoseconds(libc::CLOCK_REALTIME),
    }
}

/// What a Guest can see of the processor and may rely on, as text.
#[must_use]
pub fn processor() -> String {
    const STEPPING: u32 = 0xF;
    /// Bits that the kernel sets while it runs: `OSXSAVE` and `OSPKE`.
    const OSXSAVE: u32 = 1 << 27;
    const OSPKE: u32 = 1 << 4;
    let leaf = __cpuid_count;
    let (vendor, first, seventh) = (leaf(0, 0), leaf(1, 0), leaf(7, 0));
    let (more, state, compact) =
        (leaf(0x8000_0001, 0), leaf(0xD, 0), leaf(0xD, 1));
    let words = [
        vendor.ebx,
        vendor.edx,
        vendor.ecx,
        first.eax & !STEPPING,
        first.ecx & !OSXSAVE,
        first.edx,
        seventh.ebx,
        seventh.ecx & !OSPKE,
        seventh.edx,
        more.ecx,
        more.edx,
        state.ecx,
        compact.eax,
    ];
    words.map(|word| format!("{word:08x}")).join(" ")
}

/// Whether the counter runs at one speed at all times (Intel SDM volume 3,
/// "Invariant TSC": CPUID 80000007H, EDX bit 8).
pub(crate) fn is_invariant() -> bool {
    const EXTENDED: u32 = 0x8000_0000;
    const POWER: u32 = 0x8000_0007;
    __cpuid(EXTENDED).eax >= POWER && __cpuid(POWER).edx & 1 << 8 != 0
}

/// The processor time of a process. `None` if there is no such process.
pub(super) fn used_by(process: Pid) -> Option<Duration> {
    read_clock(lg_wire::clock::clock_of(process.as_raw_pid()))
}

/// The processor time of all our threads.
pub(super) fn used_by_us() -> Duration {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default()
}

fn read_clock(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec where there is one.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    Some(Duration::new(seconds, nanos))
}

/// Both clocks at nearly the same time.
fn read() -> Reading {
    let (tsc, at) = with_counter(Instant::now);
    Reading { tsc, at }
}

/// The counter, and what `clock` says at nearly the same time: the closest of a
/// few tries.
fn with_counter<T>(clock: impl Fn() -> T) -> (u64, T) {
    let tries = (0..8).map(|_| {
        let before = ticks();
        let at = clock();
        let took = ticks().wrapping_sub(before);
        (took, (before.wrapping_add(took / 2), at))
    });
    tries.min_by_key(|&(took, _)| took).expect("eight tries").1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_process_runs_while_it_does() {
        let me = rustix::process::getpid();
        let before = used_by(me).unwrap();
        while used_by(me).unwrap() <= before {}
        assert!(used_by_us() > before);
        let no_process = Pid::from_raw(i32::MAX >> 3).unwrap();
        assert_eq!(used_by(no_process), None);
    }
}
