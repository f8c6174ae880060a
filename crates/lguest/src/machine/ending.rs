//! How a run ends: what ended it, and what a person is told.
//!
//! Whatever ends a Guest kills it, and the main thread comes back from
//! `Engine::run` with the death. A reason that came from outside (a signal,
//! the time, ^C^C^C) is noted before.

use super::terminal;
use crate::cli::exit::{FIRST_OF_OURS, Outcome};
use crate::devices::Violation;
use crate::engine::{Death, Engine, Hold, printable};
use crate::lock::lock;
use std::io;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

/// How long a Guest has to come to a clean point before it is stopped anyway.
const HOLD_TIME: Duration = Duration::from_millis(5);

/// What ends the Guest from outside, if something does. The first reason
/// counts.
#[derive(Clone)]
pub struct Ending {
    guest: Arc<dyn Engine>,
    by: Arc<Mutex<Option<(Outcome, String)>>>,
    /// Tells the reason.
    told: Arc<Once>,
}

impl Ending {
    /// Nothing has ended the Guest.
    pub(super) fn new(guest: Arc<dyn Engine>) -> Self {
        Self {
            guest,
            by: Arc::default(),
            told: Arc::new(Once::new()),
        }
    }

    /// Ends the Guest with `outcome`, because of something that it did not do
    /// itself. The first reason counts.
    pub fn begin(&self, outcome: Outcome, reason: &str) {
        let mut by = lock(&self.by);
        by.get_or_insert((outcome, reason.into()));
        drop(by);
        self.guest.kill(reason.into());
    }

    /// Says why the Guest has ended. Of several threads that do, one is heard;
    /// the others wait until it is, because they end the process next.
    pub fn tell(&self, words: &str) {
        self.told.call_once(|| terminal::tell(words));
    }

    /// Whether it has been ended from outside already.
    pub fn has_begun(&self) -> bool {
        let by = lock(&self.by);
        by.is_some()
    }

    /// Holds the Guest, so that it uses no processor while we are stopped.
    /// Waits a moment for it to stand. A dead Guest cannot be held, and need
    /// not be.
    pub fn hold(&self) -> Option<Hold> {
        let hold = self.guest.hold().ok()?;
        hold.wait_for(HOLD_TIME).ok()?;
        Some(hold)
    }

    /// Ends the Guest because the Launcher cannot go on.
    pub(super) fn by_failure(&self) {
        self.guest.kill("the launcher has failed".into());
    }

    /// Ends the Guest because it broke the rules of a device.
    pub fn by_violation(&self, violation: &Violation) {
        self.guest.kill(violation.to_string());
    }

    /// Ends the Guest because its input cannot be watched any more.
    pub fn by_deafness(&self, error: &io::Error) {
        self.guest
            .kill(format!("its input cannot be watched: {error}"));
    }

    /// What became of the run, and what there is to tell a person about it.
    pub(super) fn outcome(&self, death: &Death) -> (Outcome, Option<String>) {
        let by = lock(&self.by);
        match (death, &*by) {
            // A signal may have gone to its processes, too.
            (
                Death::Killed(_) | Death::Lost(_) | Death::Lacks(_),
                Some((outcome, reason)),
            ) => (*outcome, Some(format!("ended {reason}"))),
            _ => (Outcome::from(death), last_words(death)),
        }
    }
}

impl From<&Death> for Outcome {
    fn from(death: &Death) -> Self {
        match death {
            Death::PowerOff(code) => Outcome::PoweredOff(*code),
            Death::Crash(_) | Death::Killed(_) => Outcome::Died,
            Death::Lost(_) => Outcome::Lost,
            Death::Lacks(_) => Outcome::BadMachine,
        }
    }
}

/// What there is to tell a person about a death, if it is worth a word.
fn last_words(death: &Death) -> Option<String> {
    match death {
        Death::PowerOff(code) if *code < FIRST_OF_OURS => None,
        Death::PowerOff(code) => Some(format!(
            "the guest powered off with code {code}: codes from \
             {FIRST_OF_OURS} up are the launcher's own, so this counts as 1"
        )),
        Death::Crash(text) => {
            Some(format!("CRASH: {}", printable(text.as_bytes())))
        }
        Death::Killed(why) => {
            Some(format!("killed: {}", printable(why.as_bytes())))
        }
        Death::Lost(why) => {
            Some(format!("lost: {}", printable(why.as_bytes())))
        }
        Death::Lacks(lack) => Some(lack.to_string()),
    }
}
