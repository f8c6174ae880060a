//! What a probe is, and what it finds.
//!
//! A finding has up to four parts: what there is, what was seen, what follows
//! from it, and what to do.

use crate::needs::Lack;
use std::borrow::Cow;

/// Something that is looked at.
pub struct Probe {
    /// What it is called.
    pub name: &'static str,
    /// Whether no Guest runs without it.
    pub needed: bool,
    /// Looks at it.
    pub(super) look: fn() -> Finding,
}

/// What there is of it.
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
    /// As it is written.
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
    /// What there is of it.
    pub state: Verdict,
    /// What was seen.
    pub seen: String,
    /// What follows from that; nothing where all is well.
    pub consequence: &'static str,
    /// What to do about it; nothing where all is well.
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

    /// Something that `run` would not do without, in its words.
    pub(super) fn of_lack(lack: &Lack, consequence: &'static str) -> Self {
        let seen = format!("cannot {}: {}", lack.doing, lack.cause);
        Self::lacks(seen, consequence, lack.cause.cure())
    }
}
