//! How a Guest ends, and the message about it.
//!
//! The message of a CRASH and the reason of a kill come from the Guest or from
//! its Host. They are made printable here, once, before anything else in the
//! Launcher sees them.

use crate::needs::Lack;
use lg_abi::gen2::RESTART_TEXT;
use lg_abi::hypercall::{POWER_DOWN, POWER_DOWN_WITH_CODE};
use std::fmt;

/// How a Guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// It powered itself off, with an exit code (0 where it named none).
    PowerOff(u8),
    /// It asked to be started again, as by `reboot`.
    Restart,
    /// It called CRASH with this message (made printable).
    Crash(String),
    /// The Host or the Launcher killed it for this reason.
    Killed(String),
    /// A process that runs it has ended: killed from outside, or by a fault.
    Lost(String),
    /// The machine lacks something that the Guest needs.
    Lacks(Lack),
}

impl Death {
    /// What the message of a CRASH means.
    pub(super) fn of_crash(message: &[u8]) -> Self {
        if message == POWER_DOWN {
            return Self::PowerOff(0);
        }
        if message == RESTART_TEXT {
            return Self::Restart;
        }
        let code = message.strip_prefix(POWER_DOWN_WITH_CODE);
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| code.parse().ok()) {
            Some(code) => Self::PowerOff(code),
            None => Self::Crash(printable(message)),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff(0) => f.write_str("powered off"),
            Self::PowerOff(code) => write!(f, "powered off with code {code}"),
            Self::Restart => f.write_str("asked for a restart"),
            Self::Crash(message) => write!(f, "CRASH: {message}"),
            Self::Killed(why) | Self::Lost(why) => f.write_str(why),
            Self::Lacks(lack) => lack.fmt(f),
        }
    }
}

/// A Guest's text, made safe for a terminal: control characters are replaced by
/// visible escapes. Doing so twice changes nothing more.
#[must_use]
pub(crate) fn printable(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in String::from_utf8_lossy(text).trim_end().chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_understood() {
        assert_eq!(Death::of_crash(b"Power down"), Death::PowerOff(0));
        assert_eq!(Death::of_crash(b"Restarting system"), Death::Restart);
        let code = Death::of_crash(b"Power down with code 7");
        assert_eq!(code, Death::PowerOff(7));
        let others = [
            "Power down with code 999",
            "Power downs",
            "Restarting system.",
            "panic",
        ];
        for other in others {
            let death = Death::Crash(other.into());
            assert_eq!(Death::of_crash(other.as_bytes()), death);
        }
    }

    #[test]
    fn a_guests_text_cannot_speak_to_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
        let text = "it's \"bad\"\u{1b}[2J\r\n\u{202e}\u{9b}ok\\";
        let shown = "it's \"bad\"\\u{1b}[2J\\r\\n\\u{202e}\\u{9b}ok\\";
        assert_eq!(printable(text.as_bytes()), shown);
        assert_eq!(printable(shown.as_bytes()), shown);
    }
}
