//! Waiting until a Guest stands, or goes on.
//!
//! An honest Host stops at once. Any other Host gets a signal in each view,
//! whatever it has written into the shared state. If that does not help, its
//! Guest is killed.

use super::core::Core;
use super::holds::Held;
use crate::engine::death::Death;
use crate::engine::debug::{Ask, Told};
use crate::engine::error::RequestError;
use crate::engine::hold::Holder;
use crate::lock::lock;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a Guest has to reach a clean point before it gets another signal,
/// this time in all of its processes ...
const TELL_AGAIN: Duration = Duration::from_millis(250);

/// ... and how often it gets one. An honest Host stops long before the last.
const TELL_MOST: u32 = 40;

impl Core {
    /// Blocks until there is no hold, the Guest is dead, or an order waits.
    pub(super) fn wait_until_let_go(&self) {
        self.wait_for_holds(None, |held| held.count == 0 || held.ask.is_some());
    }

    /// Gives an order to the Host of a Guest that is held, and waits for the
    /// answer. A Host that does not answer is told to stop, like one that does
    /// not stop, and its Guest is killed.
    pub(super) fn debug(&self, ask: Ask) -> Result<Told, RequestError> {
        self.alive()?;
        self.wait_for_holds(None, |held| held.still);
        {
            let mut held = lock(&self.holds.held);
            held.ask = Some(ask);
            held.told = None;
            self.holds.changed.notify_all();
        }
        self.wait_for_holds(None, |held| held.told.is_some());
        let told = lock(&self.holds.held).told.take();
        told.ok_or(RequestError::Dead)
    }

    /// Blocks until `done`, for `patience` at most, or until the Guest is dead.
    /// Returns whether it is done. A Guest that still runs after [`TELL_MOST`]
    /// signals is killed.
    fn wait_for_holds(
        &self,
        patience: Option<Duration>,
        done: impl Fn(&Held) -> bool,
    ) -> bool {
        let until = patience.map(|patience| Instant::now() + patience);
        let mut told = 0;
        let mut held = lock(&self.holds.held);
        while !done(&held) && self.death().is_none() {
            let left = until
                .map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return false;
            }
            let pause = left.map_or(TELL_AGAIN, |left| left.min(TELL_AGAIN));
            let (guard, result) = self
                .holds
                .changed
                .wait_timeout(held, pause)
                .unwrap_or_else(PoisonError::into_inner);
            held = guard;
            // A Guest that waits for the Launcher, or stands, needs no signal.
            let runs = self.waiting.load(Ordering::SeqCst);
            if !result.timed_out() || !runs || pause < TELL_AGAIN {
                told = 0;
                continue;
            }
            told += 1;
            if told > TELL_MOST {
                drop(held);
                let why = "does not stop, however often it is told";
                self.die(Death::Killed(why.into()));
                return false;
            }
            if let Some(running) = self.running.get() {
                running.kick_every_view();
            }
        }
        done(&held)
    }
}

impl Holder for Core {
    fn wait_until_still(
        &self,
        patience: Option<Duration>,
    ) -> Result<bool, RequestError> {
        let still = self.wait_for_holds(patience, |held| held.still);
        self.alive().map(|_| still)
    }

    fn let_go(&self) {
        self.holds.remove(|| {
            if let Some(running) = self.running.get() {
                running.shared.break_wanted().store(0, Ordering::SeqCst);
            }
        });
    }
}
