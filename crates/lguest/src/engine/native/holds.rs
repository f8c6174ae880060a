//! The number of holds on the Guest, and whether it stands.
//!
//! The first hold tells the Host to stop; dropping the last one lets it go on.
//! The thread that runs the Guest notes that the Guest stands, and takes the
//! note back before the Guest goes on. So a hold that is added while the Guest
//! still stands finds it standing.

use crate::lock::lock;
use std::sync::{Condvar, Mutex};

/// The holds of a Guest.
#[derive(Default)]
pub(super) struct Holds {
    pub(super) held: Mutex<Held>,
    pub(super) changed: Condvar,
}

/// The number of holds, and what the running thread has noted.
#[derive(Default)]
pub(super) struct Held {
    /// How many holds there are.
    pub(super) count: u32,
    /// The Guest stands at a clean point.
    pub(super) still: bool,
}

impl Holds {
    /// Adds a hold. For the first one, calls `ask`, which signals the Host.
    pub(super) fn add(&self, ask: impl FnOnce()) {
        let mut held = lock(&self.held);
        held.count += 1;
        if held.count == 1 {
            ask();
        }
    }

    /// Removes a hold. For the last one, calls `go_on`, which signals the Host.
    pub(super) fn remove(&self, go_on: impl FnOnce()) {
        let mut held = lock(&self.held);
        held.count -= 1;
        if held.count == 0 {
            go_on();
            self.changed.notify_all();
        }
    }

    /// Notes that the Guest stands at a clean point. Returns whether it has to
    /// stay there.
    pub(super) fn stands(&self) -> bool {
        let mut held = lock(&self.held);
        held.still = held.count > 0;
        if held.still {
            self.changed.notify_all();
        }
        held.still
    }

    /// The Guest has died: wakes all threads that wait.
    pub(super) fn changed(&self) {
        let held = lock(&self.held);
        self.changed.notify_all();
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hold_stops_and_the_last_lets_go() {
        let holds = Holds::default();
        assert!(!holds.stands(), "there is no hold");
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
