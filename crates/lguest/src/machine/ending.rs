//! How a run ends: the reason, and the message about it.
//!
//! Every end of a Guest kills it, and `Engine::run` returns its death to the
//! main thread. A reason from outside (a signal, the time, ^C^C^C) is noted
//! before.

use super::terminal;
use crate::cli::exit::{FIRST_OF_OURS, Outcome};
use crate::devices::Violation;
use crate::engine::{Death, Engine, Hold, printable};
use crate::lock::lock;
use crate::machines::claim::Record;
use std::io;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

/// How long a Guest may take to reach a clean point before it is stopped
/// anyway.
const HOLD_TIME: Duration = Duration::from_millis(5);

/// The end of a Guest from outside, if there is one. The first reason counts.
#[derive(Clone)]
pub struct Ending {
    guest: Arc<dyn Engine>,
    by: Arc<Mutex<Option<(Outcome, String)>>>,
    /// Writes the reason to standard error, once.
    told: Arc<Once>,
    /// Where a machine with a name keeps the reason.
    record: Option<Arc<Record>>,
}

impl Ending {
    /// An ending that has not begun.
    pub(super) fn new(guest: Arc<dyn Engine>) -> Self {
        Self {
            guest,
            by: Arc::default(),
            told: Arc::new(Once::new()),
            record: None,
        }
    }

    /// Keeps the reason in `record`, too.
    pub(super) fn with_record(self, record: Option<Arc<Record>>) -> Self {
        Self { record, ..self }
    }

    /// Writes how the machine has ended, if it has a name and nothing is
    /// written yet. For a thread that ends the process.
    pub fn note(&self, outcome: Outcome, words: &str) {
        if let Some(record) = &self.record {
            record.write(outcome.code(), words);
        }
    }

    /// Ends the Guest with `outcome`, for a reason from outside. The first
    /// reason counts.
    pub fn begin(&self, outcome: Outcome, reason: &str) {
        let mut by = lock(&self.by);
        by.get_or_insert((outcome, reason.into()));
        drop(by);
        self.guest.kill(reason.into());
    }

    /// Writes why the Guest has ended. If several threads call this, one of
    /// them writes. The others wait until it has written, because they end the
    /// process next.
    pub fn tell(&self, words: &str) {
        self.told.call_once(|| terminal::tell(words));
    }

    /// Whether the Guest has been ended from outside already.
    pub fn has_begun(&self) -> bool {
        let by = lock(&self.by);
        by.is_some()
    }

    /// Holds the Guest, so that it does not run while the Launcher is stopped.
    /// Waits a short time for it to stand. A dead Guest cannot be held, and
    /// does not need it.
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

    /// Ends the Guest because its input cannot be watched.
    pub fn by_lost_input(&self, error: &io::Error) {
        self.guest
            .kill(format!("its input cannot be watched: {error}"));
    }

    /// The outcome of the run, and the message about it, if there is one.
    pub(super) fn outcome(&self, death: &Death) -> (Outcome, Option<String>) {
        let by = lock(&self.by);
        match (death, &*by) {
            // A signal may have ended its processes, too.
            (
                Death::Killed(_) | Death::Lost(_) | Death::Lacks(_),
                Some((outcome, reason)),
            ) => (*outcome, Some(format!("ended {reason}"))),
            _ => (Outcome::from(death), message(death)),
        }
    }
}

impl From<&Death> for Outcome {
    fn from(death: &Death) -> Self {
        match death {
            Death::PowerOff(code) => Outcome::PoweredOff(*code),
            Death::Restart => Outcome::Restart,
            Death::Crash(_) | Death::Killed(_) => Outcome::Died,
            Death::Lost(_) => Outcome::Lost,
            Death::Lacks(_) => Outcome::BadMachine,
        }
    }
}

/// The message about a death, if it needs one.
fn message(death: &Death) -> Option<String> {
    match death {
        Death::PowerOff(code) if *code < FIRST_OF_OURS => None,
        Death::PowerOff(code) => Some(format!(
            "the guest powered off with code {code}: codes from \
             {FIRST_OF_OURS} up are the launcher's own, so this counts as 1"
        )),
        Death::Restart => Some(format!(
            "the guest asked for a restart, which ends it here: start lguest \
             again (exit status {})",
            Outcome::Restart.code()
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
