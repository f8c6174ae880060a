//! How many parties hold the Guest, and whether it stands.
//!
//! The first hold tells the Host to stop; the last one that goes lets it go
//! on. That the Guest stands is noted by the thread that runs it, which also
//! takes the note back before the Guest goes on: so a hold that comes while
//! the Guest still stands finds it standing.

use super::core::Core;
use crate::engine::death::Death;
use crate::engine::error::RequestError;
use crate::engine::hold::Holder;
use crate::lock::lock;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a Guest has to come to a clean point before it is told again,
/// this time without asking it which of its processes is to be told ...
const TELL_AGAIN: Duration = Duration::from_millis(250);

/// ... and how often it is told: far longer than an honest Host is busy.
const TELL_MOST: u32 = 40;

/// The holds of a Guest.
#[derive(Default)]
pub(super) struct Holds {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    /// How many holds there are.
    count: u32,
    /// The Guest stands at a clean point.
    still: bool,
}

impl Holds {
    /// One more. `ask` is called for the first one, and tells the Host.
    pub(super) fn add(&self, ask: impl FnOnce()) {
        let mut held = lock(&self.held);
        held.count += 1;
        if held.count == 1 {
            ask();
        }
    }

    /// One less. `go_on` is called for the last one, and tells the Host.
    fn remove(&self, go_on: impl FnOnce()) {
        let mut held = lock(&self.held);
        held.count -= 1;
        if held.count == 0 {
            go_on();
            self.changed.notify_all();
        }
    }

    /// The Guest stands at a clean point: answers whether it has to stay
    /// there.
    pub(super) fn stands(&self) -> bool {
        let mut held = lock(&self.held);
        held.still = held.count > 0;
        if held.still {
            self.changed.notify_all();
        }
        held.still
    }

    /// The Guest has died: whoever waits has to look.
    pub(super) fn changed(&self) {
        let held = lock(&self.held);
        self.changed.notify_all();
        drop(held);
    }
}

impl Core {
    /// Blocks until there is no hold, or the Guest is dead.
    pub(super) fn wait_until_let_go(&self) {
        self.wait_for_holds(None, |held| held.count == 0);
    }

    /// Blocks until `done`, for `patience` at most, or until the Guest is
    /// dead. Answers whether it is done. A Guest that runs all the while,
    /// however often it is told to stop, dies of it.
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
            // A Guest that waits for us, or stands, need not be told again.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hold_stops_and_the_last_lets_go() {
        let holds = Holds::default();
        assert!(!holds.stands(), "nobody holds it");
        let mut told = Vec::new();
        holds.add(|| told.push("stop"));
        holds.add(|| told.push("stop twice"));
        assert!(holds.stands());
        holds.remove(|| told.push("go on too early"));
        assert!(holds.stands());
        holds.remove(|| told.push("go on"));
        assert_eq!(told, ["stop", "go on"]);
        // It has not gone on yet, and a new hold finds it standing.
        holds.add(|| ());
        assert!(lock(&holds.held).still);
        holds.remove(|| ());
        assert!(!holds.stands());
        assert!(!lock(&holds.held).still);
    }
}
