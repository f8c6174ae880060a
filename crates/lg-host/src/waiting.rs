//! Time: deadlines that have come, and a Guest that sleeps.
//!
//! A timer, the Launcher or another view kicks the Host. Deadlines become
//! interrupts then. A Guest that halted sleeps until an interrupt comes.

use crate::host::Host;
use crate::kill::Kill;
use crate::turns;
use core::sync::atomic::Ordering;
use lg_wire::state::input;
use lg_wire::trace::{Kind, group, wait};

/// How long to wait before an interrupt that the Guest would not take is
/// offered again, in nanoseconds. Guests before Linux 2.6.31 do not look for
/// pending interrupts when they switch them on, and those up to 4.0 not always.
///
/// MASTERY: with the page of `irq_enabled` write-protected while something is
/// pending, a fault would tell us the moment, as the original's author wished.
const RETRY_AFTER: u64 = 200_000;

/// The same for an interrupt that the Guest has blocked, perhaps for long: a
/// tick of the clock of a kernel of 2007. A Guest that sleeps cannot unblock
/// anything, and is not woken for this.
const RETRY_BLOCKED_AFTER: u64 = 4_000_000;

/// How often a Guest that works asks the Launcher whether it is still on the
/// best processor, in nanoseconds. One that sleeps does not ask.
const BALANCE_EVERY: u64 = 100_000_000;

impl Host<'_> {
    /// Turns deadlines that have come into interrupts. Looks at the clock only
    /// after a kick.
    pub(crate) fn look_around(&mut self) {
        let kick = self.vm.wire.kick.load(Ordering::SeqCst);
        if !self.shadow.notice_kick(kick) {
            return;
        }
        self.vm.counters.kicks.count();
        let deadline = self.vm.deadline.get();
        let retry_at = self.vm.retry_at.get();
        let samples = self.traces(group::SAMPLES);
        if deadline == 0 && retry_at == 0 && !samples {
            return;
        }
        // An alarm has gone off by the real clock.
        let now = self.world.monotonic();
        if samples {
            self.maybe_sample(now);
        }
        if deadline != 0 && now >= deadline {
            self.vm.deadline.set(0);
            self.vm.counters.timer_ticks.count();
            self.vm.raise(0);
            self.trace(Kind::Raised, 0, [0; 3]);
        }
        if retry_at != 0 && now >= retry_at {
            self.vm.retry_at.set(0);
        }
        if now >= self.vm.balance_at.get() {
            self.vm.balance_at.set(now + BALANCE_EVERY);
            self.world.balance();
        }
    }

    /// Sleeps until something comes from outside.
    pub(crate) fn halt(&mut self) -> Result<(), Kill> {
        self.vm.counters.halts.count();
        self.arm_timer(false);
        let vm = self.vm;
        let mut result = Ok(());
        turns::sleep_until_kick(&vm.wire.kick, &vm.wire.asleep, |seen| {
            // This comes first: the Launcher sends no kick while it is asked.
            self.tell_of_buffers(input::WHEN_IDLE);
            let nothing_came = !self.has_interrupt()
                && vm.wire.break_wanted.load(Ordering::SeqCst) == 0;
            if nothing_came && !self.shadow.is_news(seen) {
                result = self.let_fetch();
                if vm.wire.irqs.load(Ordering::SeqCst) != 0 {
                    self.trace_wait(wait::BLOCKED);
                }
                self.trace_during(Kind::Sleep, |host| host.world.sleep(seen));
            }
        });
        self.put_off_sample();
        self.tell_of_buffers(input::WHEN_WOKEN);
        result
    }

    /// Tells the Launcher that the Guest may have freed a buffer, if input
    /// waits for one. A driver frees a buffer by a store to its own memory,
    /// which does not trap. It has done so before the Guest has nothing more to
    /// do.
    fn tell_of_buffers(&mut self, when: u32) {
        let waits = &self.vm.wire.input_waits;
        if waits.load(Ordering::SeqCst) & when != 0 {
            waits.store(0, Ordering::SeqCst);
            self.vm.counters.input_calls.count();
            self.world.buffers_may_be_free();
        }
    }

    /// An interrupt waits that the Guest does not take now: tries again soon.
    pub(crate) fn retry_soon(&mut self) {
        self.retry_after(RETRY_AFTER);
    }

    /// An interrupt waits that the Guest has blocked: tries again later.
    pub(crate) fn retry_later(&mut self) {
        self.retry_after(RETRY_BLOCKED_AFTER);
    }

    fn retry_after(&mut self, nanoseconds: u64) {
        if self.vm.retry_at.get() == 0 {
            self.vm.counters.retries.count();
            let now = self.monotonic();
            self.vm.retry_at.set(now.saturating_add(nanoseconds));
        }
    }

    /// Has this view kicked at the next deadline. `earlier`: a kick before that
    /// will do.
    pub(crate) fn arm_timer(&mut self, earlier: bool) {
        let (a, b) = (self.vm.deadline.get(), self.vm.retry_at.get());
        let next = earlier_of(earlier_of(a, b), self.sample_at());
        self.world.arm(next, earlier);
    }
}

/// The earlier of two deadlines, each of which is 0 if there is none.
fn earlier_of(a: u64, b: u64) -> u64 {
    if a != 0 && b != 0 { a.min(b) } else { a | b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

    /// Each row: what input waits for, and how often the Launcher is told in a
    /// sleep.
    #[test]
    fn input_that_waits_is_told_of_once() {
        for (waits, told) in [
            (0, 0),
            (input::WHEN_IDLE, 1),
            (input::WHEN_WOKEN, 1),
            (input::WHEN_IDLE | input::WHEN_WOKEN, 1),
        ] {
            let mut m = Machine::new();
            m.vm.wire.input_waits.store(waits, Ordering::SeqCst);
            for _ in 0..2 {
                m.host().halt().unwrap();
                assert_eq!(m.world.buffer_calls, told, "{waits}");
            }
            assert_eq!(m.vm.wire.input_waits.load(Ordering::SeqCst), 0);
        }
    }
}
