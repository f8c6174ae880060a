//! The number of holds on the Guest, and whether it stands.
//!
//! The first hold tells the Host to stop; dropping the last one lets it go on.
//! The thread that runs the Guest notes that the Guest stands, and takes the
//! note back before the Guest goes on. So a hold that is added while the Guest
//! still stands finds it standing.
//!
//! A debugger's order to the Host waits here, too, until the thread that runs
//! the Guest takes it, and then its answer.

use crate::engine::debug::{Ask, Told};
use crate::lock::lock;
use lg_wire::mailbox::Mailbox;
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
    /// A debugger's order, which waits for the thread that runs the Guest.
    pub(super) ask: Option<Ask>,
    /// The Host carries out an order.
    given: bool,
    /// Its answer, which waits for the debugger.
    pub(super) told: Option<Told>,
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
    /// stay there; if not, calls `go_on`, which signals the Host. It may have
    /// stopped by itself.
    pub(super) fn stands(&self, go_on: impl FnOnce()) -> bool {
        let mut held = lock(&self.held);
        held.still = held.count > 0;
        if held.still {
            self.changed.notify_all();
        } else {
            go_on();
        }
        held.still
    }

    /// Whether the Guest stands at a clean point and stays there.
    pub(super) fn is_still(&self) -> bool {
        let held = lock(&self.held);
        held.still && held.count > 0
    }

    /// Whether an order waits.
    pub(super) fn is_asked(&self) -> bool {
        lock(&self.held).ask.is_some()
    }

    /// Writes the order that waits into the mailbox, where the Host reads it.
    pub(super) fn give(&self, mailbox: &Mailbox) {
        let mut held = lock(&self.held);
        if let Some(ask) = held.ask.take() {
            ask.write(mailbox);
            held.given = true;
        }
    }

    /// Whether the Host carries out an order.
    pub(super) fn is_given(&self) -> bool {
        lock(&self.held).given
    }

    /// The Host has carried it out.
    pub(super) fn tell(&self, told: Told) {
        let mut held = lock(&self.held);
        held.given = false;
        held.told = Some(told);
        self.changed.notify_all();
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
        let mut told = Vec::new();
        assert!(!holds.stands(|| told.push("it may")), "there is no hold");
        assert_eq!(std::mem::take(&mut told), ["it may"]);
        holds.add(|| told.push("stop"));
        holds.add(|| told.push("stop twice"));
        assert!(holds.stands(|| ()));
        holds.remove(|| told.push("go on too early"));
        assert!(holds.stands(|| ()));
        holds.remove(|| told.push("go on"));
        assert_eq!(told, ["stop", "go on"]);
        // It has not gone on yet, and a new hold finds it standing.
        holds.add(|| ());
        assert!(lock(&holds.held).still);
        holds.remove(|| ());
        assert!(!holds.stands(|| ()));
        assert!(!lock(&holds.held).still);
    }
}
