//! The end of a Guest: its processes are killed, and its waiters are woken.
//!
//! Any thread may end a Guest. Only the first reason counts.

use super::core::Core;
use super::kernel::Kernel;
use crate::engine::death::Death;
use crate::engine::interface::Exit;
use crate::lock::lock;
use crate::needs::Lack;
use lg_wire::mailbox::{LAUNCHERS_TURN, reason as known};
use lg_wire::turns;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The pause before a thread that was about to sleep is woken again.
const NUDGE_AGAIN: Duration = Duration::from_millis(5);

impl Core {
    /// Ends the Guest. Only the first reason counts.
    pub(super) fn die(&self, death: Death) {
        lock(&self.death).get_or_insert(death);
        let Some(running) = self.running.get() else {
            return;
        };
        running.processes.kill_all();
        self.holds.changed();
        // No process of the Guest is left to change the turn.
        turns::call_off::<Kernel>(
            &running.shared.mailbox().turn,
            LAUNCHERS_TURN,
            || self.waiting.load(Ordering::SeqCst),
            || std::thread::park_timeout(NUDGE_AGAIN),
        );
    }

    /// Ends the Guest, because its Host says so or has broken a rule. If the
    /// Launcher has a more exact reason, it takes that one.
    pub(super) fn killed(&self, reason: String) -> Exit {
        let refused = lock(&self.refused).take();
        let refused = refused.filter(|_| reason == known::NO_VIEW);
        let lack = refused.or_else(|| Lack::of_last_words(&reason));
        self.ended(lack.map_or(Death::Killed(reason), Death::Lacks))
    }

    /// Ends the Guest, which has said so itself. An earlier reason counts.
    pub(super) fn ended(&self, death: Death) -> Exit {
        self.die(death.clone());
        Exit::Dead(self.death().unwrap_or(death))
    }

    /// The body of the thread that waits for the end of a process. Blocks until
    /// then, or until the handle is dropped.
    pub(super) fn watch(&self) {
        let Some(running) = self.running.get() else {
            return;
        };
        if let Some(end) = running.processes.wait_for_death() {
            self.die(Death::Lost(end));
        }
    }
}
