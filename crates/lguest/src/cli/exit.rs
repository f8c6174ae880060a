//! How the Launcher ends: the one list of exit codes.
//!
//! Scripts look at the code, so a Guest's own codes must differ from the
//! Launcher's: a Guest has those below [`FIRST_OF_OURS`]. The codes follow the
//! habits of shells: 2 for a wrong command line, 128 and up for signals.

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The Guest powered itself off with this code; 0 if it gave none.
    PoweredOff(u8),
    /// The Guest crashed, or was killed for what it did.
    Died,
    /// The Guest asked to be started again.
    Restart,
    /// The command line is wrong.
    Usage,
    /// A file cannot be used: image, initrd, disk, network, statistics, log.
    BadFile,
    /// This machine lacks something that Guests need.
    BadMachine,
    /// A process of the Guest was lost.
    Lost,
    /// The Launcher itself failed, or one of its own walls ended it.
    Failed,
    /// The time of `--timeout` is over.
    TimedOut,
    /// It took more memory than `--memory-limit` allows.
    TooMuchMemory,
    /// Its input ended, with `--exit-on-eof`.
    InputEnded,
    /// A machine with a name cannot do now what a command asks for: it has
    /// ended, or runs, or does not answer.
    NotNow,
    /// There is no machine with that name.
    NoMachine,
    /// A test that ran in a Guest has failed.
    TestsFailed,
    /// The exit code of a machine whose Launcher is another process.
    OfMachine(u8),
    /// A signal ended it, or what counts as one: ^C^C^C (SIGINT), an output
    /// that has no reader (SIGPIPE), a parent that has ended (SIGTERM), a
    /// debugger (SIGKILL).
    Signal(u8),
}

/// The first code that a Guest cannot have: if it gives such a code, it counts
/// as [`Outcome::Died`].
pub const FIRST_OF_OURS: u8 = 120;

impl Outcome {
    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::PoweredOff(code) if code < FIRST_OF_OURS => code,
            Self::PoweredOff(_) | Self::Died => 1,
            Self::Usage => 2,
            // As with cargo's own tests.
            Self::TestsFailed => 101,
            Self::BadFile => 120,
            Self::BadMachine => 121,
            Self::Lost => 122,
            Self::Failed => 123,
            // As with the command `timeout`.
            Self::TimedOut => 124,
            Self::InputEnded => 125,
            Self::NotNow => 126,
            Self::NoMachine => 127,
            Self::OfMachine(code) => code,
            // No signal has the number 0, and shells have other codes for
            // what they cannot start.
            Self::Restart => 128,
            Self::Signal(number) => 128 | (number & 127),
            // The first one behind those of signals. From 200 on, systemd has
            // other meanings.
            Self::TooMuchMemory => 193,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_pretend_to_be_the_launcher() {
        for code in 0..=255 {
            let seen = Outcome::PoweredOff(code).code();
            assert!(seen < FIRST_OF_OURS);
            assert!(seen == code || code >= FIRST_OF_OURS);
        }
    }

    #[test]
    fn signals_count_from_128() {
        assert_eq!(Outcome::Signal(15).code(), 143);
        assert_eq!(Outcome::Signal(2).code(), 130);
    }
}
