//! How the Launcher ends: the one list of exit codes.
//!
//! Scripts look at the code, so a Guest's own codes and ours must not collide:
//! a Guest has those below [`FIRST_OF_OURS`]. They follow what shells do: 2
//! for a command line that makes no sense, 128 and up for signals.

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The Guest powered itself off with this code; 0 where it named none.
    PoweredOff(u8),
    /// The Guest crashed, or was killed for what it did.
    Died,
    /// The command line makes no sense.
    Usage,
    /// A file cannot be used: image, initrd, disk, network, statistics, log.
    BadFile,
    /// This machine lacks something that Guests need.
    BadMachine,
    /// A process of the Guest was lost.
    Lost,
    /// The Launcher itself failed, or was stopped by its own walls.
    Failed,
    /// It ran for as long as it was to run.
    TimedOut,
    /// Its input ended, and that was to be its end.
    InputEnded,
    /// A signal ended it, or what counts as one: ^C^C^C (SIGINT), an output
    /// that has no reader (SIGPIPE), a parent that has ended (SIGTERM).
    Signal(u8),
}

/// The first code that a Guest cannot name: such a one counts as
/// [`Outcome::Died`].
pub const FIRST_OF_OURS: u8 = 120;

impl Outcome {
    /// As the shell sees it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::PoweredOff(code) if code < FIRST_OF_OURS => code,
            Self::PoweredOff(_) | Self::Died => 1,
            Self::Usage => 2,
            Self::BadFile => 120,
            Self::BadMachine => 121,
            Self::Lost => 122,
            Self::Failed => 123,
            // As the command `timeout` has it.
            Self::TimedOut => 124,
            Self::InputEnded => 125,
            Self::Signal(number) => 128 | (number & 127),
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
