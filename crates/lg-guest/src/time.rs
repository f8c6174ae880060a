//! Time: reading it, and waiting for it.
//!
//! If the Host reports a steady time-stamp counter, the clock is that counter.
//! Otherwise it is the wall-clock time that the Host writes into the shared
//! page at each interrupt, and it moves in steps. There is one alarm, and no
//! tick: the alarm is set for the earliest moment that a task waits for. When
//! no task waits, it is off.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::executor::{Either, first};
//! use lg_guest::time::{self, MILLISECOND};
//!
//! /// What `work` gives, if it ends within `milliseconds`.
//! async fn within<T>(
//!     milliseconds: u64,
//!     work: impl Future<Output = T>,
//! ) -> Option<T> {
//!     match first(work, time::sleep(milliseconds * MILLISECOND)).await {
//!         Either::Left(done) => Some(done),
//!         Either::Right(()) => None,
//!     }
//! }
//! ```

#[cfg(feature = "embassy-time")]
mod embassy;

use crate::one_cpu::OneCpu;
use crate::waiting::{Number, Waiting};
use crate::{hcall, shared};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Poll, Waker};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// The alarm takes 32 bits of nanoseconds. Later moments are reached in steps.
const FARTHEST: u64 = 2 * SECOND;
/// The Host promises nothing for alarms nearer than this.
const NEAREST: u64 = 100;

struct Clock {
    /// The counter when the Guest was entered.
    entered: u64,
    /// Nanoseconds of one count, times 2^32; 0 = no counter.
    scale: u64,
    /// Wall-clock time when the clock was set up.
    wall: u64,
    /// And this clock's time at that moment.
    wall_at: u64,
}

static CLOCK: OneCpu<Clock> = OneCpu::new(Clock {
    entered: 0,
    scale: 0,
    wall: 0,
    wall_at: 0,
});

struct Alarm {
    /// The moments that tasks wait for.
    waiting: Waiting<u64>,
    /// The moment that the alarm is set for.
    set: Option<u64>,
}

static ALARM: OneCpu<Alarm> = OneCpu::new(Alarm {
    waiting: Waiting::new(),
    set: None,
});

/// The alarm has gone off, and the tasks were not woken yet.
static FIRED: AtomicBool = AtomicBool::new(false);

/// The time-stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    #[expect(unsafe_code, reason = "reads a register of the CPU")]
    // SAFETY: every CPU that runs i686 code has it.
    unsafe {
        core::arch::x86::_rdtsc()
    }
}

/// Starts the clock; `entered` is the counter at the Guest's first moment.
pub(crate) fn init(entered: u64) {
    let scale = (MILLISECOND << 32)
        .checked_div(u64::from(shared::tsc_khz()))
        .unwrap_or(0);
    CLOCK.with(|clock| {
        *clock = Clock {
            entered,
            scale,
            wall: wall_of_host(),
            wall_at: counted(tsc() - entered, scale),
        }
    });
}

fn wall_of_host() -> u64 {
    let (seconds, nanoseconds) = shared::time();
    u64::from(seconds) * SECOND + u64::from(nanoseconds)
}

/// `counts` of the counter in nanoseconds.
fn counted(counts: u64, scale: u64) -> u64 {
    // In two halves, so that the product fits: 128-bit arithmetic is too slow
    // on this machine.
    let (high, low) = (counts >> 32, counts & u64::from(u32::MAX));
    high * scale
        + ((low * (scale & u64::from(u32::MAX))) >> 32)
        + low * (scale >> 32)
}

/// Nanoseconds since the Guest was entered.
#[must_use]
pub fn now() -> u64 {
    CLOCK.with(|clock| match clock.scale {
        0 => wall_of_host().saturating_sub(clock.wall),
        scale => counted(tsc().saturating_sub(clock.entered), scale),
    })
}

/// Nanoseconds since 1970.
#[must_use]
pub fn wall() -> u64 {
    CLOCK.with(|clock| match clock.scale {
        0 => wall_of_host(),
        scale => {
            let now = counted(tsc().saturating_sub(clock.entered), scale);
            clock.wall + now - clock.wall_at
        }
    })
}

/// Nanoseconds since the counter was at `start`, on the same machine; `None` if
/// there is no counter, or if `start` is later than now.
#[must_use]
pub fn since_tsc(start: u64) -> Option<u64> {
    let scale = CLOCK.with(|clock| clock.scale);
    let counts = tsc().checked_sub(start)?;
    (scale != 0).then(|| counted(counts, scale))
}

/// The timer's interrupt, interrupts off.
pub(crate) fn timer_fired() {
    FIRED.store(true, Ordering::Release);
}

/// Whether the alarm has gone off, and [`expire`] is needed.
pub(crate) fn fired() -> bool {
    FIRED.load(Ordering::Acquire)
}

/// Wakes the tasks whose moment has come, and sets the alarm for the next.
pub(crate) fn expire() {
    if !fired() {
        return;
    }
    FIRED.store(false, Ordering::Relaxed);
    let now = now();
    ALARM.with(|alarm| alarm.set = None);
    let is_due = |moment| moment <= now;
    while let Some(waker) = ALARM.with(|alarm| alarm.waiting.take(is_due)) {
        waker.wake();
    }
    ALARM.with(|alarm| arm(alarm, now));
}

/// Sets the alarm for the earliest moment, unless it is already.
fn arm(alarm: &mut Alarm, now: u64) {
    let Some(earliest) = alarm.waiting.iter().min() else {
        return;
    };
    if alarm.set.is_none_or(|set| earliest < set) {
        set_alarm(alarm, now, earliest);
    }
}

fn set_alarm(alarm: &mut Alarm, now: u64, moment: u64) {
    let delay = moment.saturating_sub(now).clamp(NEAREST, FARTHEST);
    alarm.set = Some(now + delay);
    hcall::set_clockevent(u32::try_from(delay).unwrap_or(u32::MAX));
}

/// Called when no task is ready: stops the alarm if no task waits for it.
pub(crate) fn prepare_sleep() {
    ALARM.with(|alarm| {
        if alarm.set.is_some() && alarm.waiting.iter().next().is_none() {
            alarm.set = None;
            hcall::set_clockevent(0);
        }
    });
}

/// Called before a user program runs, interrupts off: has the alarm go off at
/// `moment` at the latest, so that others get their turn.
pub(crate) fn alarm_by(moment: u64) {
    expire();
    ALARM.with(|alarm| {
        if alarm.set.is_none_or(|set| set > moment) {
            set_alarm(alarm, now(), moment);
        }
    });
}

/// Has `waker` woken at `moment`.
fn wake_at(moment: u64, number: Option<Number>, waker: &Waker) {
    let replaced = ALARM.with(|alarm| {
        let replaced = alarm.waiting.put(number, moment, waker);
        arm(alarm, now());
        replaced
    });
    drop(replaced);
}

/// Waits until the clock says `moment`.
pub async fn until(moment: u64) {
    let wait = Wait(ALARM.with(|alarm| alarm.waiting.number()));
    core::future::poll_fn(|context| {
        if now() >= moment {
            return Poll::Ready(());
        }
        wake_at(moment, Some(wait.0), context.waker());
        Poll::Pending
    })
    .await;
}

/// Removes a wait when it is dropped. A wait may be dropped before its moment,
/// and must not wake its task after that.
struct Wait(Number);

impl Drop for Wait {
    fn drop(&mut self) {
        drop(ALARM.with(|alarm| alarm.waiting.remove(self.0)));
    }
}

/// Waits for `nanoseconds`.
pub async fn sleep(nanoseconds: u64) {
    until(now() + nanoseconds).await;
}
