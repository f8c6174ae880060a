//! What a probe is, and what it finds.
//!
//! A finding has up to four parts: a verdict, what was seen, what follows from
//! it, and what to do.

use crate::needs::Lack;
use std::borrow::Cow;

/// A check of one thing that the machine offers or lacks.
pub struct Probe {
    /// Its name.
    pub name: &'static str,
    /// Whether every Guest needs it.
    pub needed: bool,
    /// Does the check.
    pub(super) look: fn() -> Finding,
}

/// How much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that can be used.
    Ok,
    /// Less than that.
    Degraded,
    /// Nothing.
    Lacks,
}

impl Verdict {
    /// The word for it in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Lacks => "lacks",
        }
    }
}

/// What a probe has found.
pub struct Finding {
    /// How much of it there is.
    pub state: Verdict,
    /// What was seen.
    pub seen: String,
    /// What follows from that; empty if all is well.
    pub consequence: &'static str,
    /// What to do about it; empty if all is well.
    pub cure: Cow<'static, str>,
    /// A process is killed for a call that other probes may make, too.
    pub(super) deadly: bool,
}

impl Finding {
    pub(super) fn ok(seen: impl Into<String>) -> Self {
        Self {
            state: Verdict::Ok,
            seen: seen.into(),
            consequence: "",
            cure: "".into(),
            deadly: false,
        }
    }

    pub(super) fn degraded(
        seen: impl Into<String>,
        consequence: &'static str,
        cure: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            state: Verdict::Degraded,
            seen: seen.into(),
            consequence,
            cure: cure.into(),
            deadly: false,
        }
    }

    pub(super) fn lacks(
        seen: impl Into<String>,
        consequence: &'static str,
        cure: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            state: Verdict::Lacks,
            ..Self::degraded(seen, consequence, cure)
        }
    }

    /// A lack that would end `lguest run`, with the same message.
    pub(super) fn of_lack(lack: &Lack, consequence: &'static str) -> Self {
        let seen = format!("cannot {}: {}", lack.doing, lack.cause);
        Self::lacks(seen, consequence, lack.cause.cure())
    }
}
