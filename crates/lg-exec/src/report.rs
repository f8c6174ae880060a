//! Reports: what the agent says.
//!
//! All of it comes from the Guest, and counts as hostile. A stream other than
//! [`MACHINE`](crate::MACHINE) ends with exactly one of [`Report::Exited`],
//! [`Report::Done`] and [`Report::Failed`], also after a
//! [`HangUp`](crate::command::Command::HangUp).

use crate::command::Given;
use crate::frame::{self, Frame, Malformed, TooLong, value};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The kinds of frames that come from the agent.
pub mod kind {
    /// [`Hello`](super::Hello), of the machine.
    pub const HELLO: u8 = 1;
    /// No payload, of the machine.
    pub const READY: u8 = 2;
    /// [`Started`](super::Started).
    pub const STARTED: u8 = 32;
    /// Bytes.
    pub const STDOUT: u8 = 33;
    /// Bytes.
    pub const STDERR: u8 = 34;
    /// [`Given`](crate::command::Given).
    pub const CREDIT: u8 = 35;
    /// [`FileFacts`](super::FileFacts).
    pub const FILE: u8 = 36;
    /// [`Exited`](super::Exited).
    pub const EXITED: u8 = 37;
    /// [`Failed`](super::Failed).
    pub const FAILED: u8 = 38;
    /// [`Done`](super::Done).
    pub const DONE: u8 = 39;
}

/// A message of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// The first message after the agent's start and after each
    /// [`Restored`](crate::command::Restored).
    Hello(Hello),
    /// Runs can be started now.
    Ready,
    /// The program runs.
    Started(Started),
    /// Bytes of its standard output, its terminal, or the file.
    Stdout(&'a [u8]),
    /// Bytes of its standard errors.
    Stderr(&'a [u8]),
    /// The agent has taken bytes.
    Credit(Given),
    /// The file is open. Its bytes follow as [`Report::Stdout`].
    File(FileFacts),
    /// The program and all processes of its run are gone. All output was sent.
    Exited(Exited),
    /// It never ran, or something could not be done.
    Failed(Failed),
    /// The file is there, or all its bytes were sent.
    Done(Done),
}

/// [`Report::Hello`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version that the agent speaks.
    pub version: u32,
    /// The oldest version that it speaks.
    pub oldest: u32,
    /// Additions to the version. None are defined.
    pub features: u64,
    /// The agent is the first process of the guest.
    pub init: bool,
    /// What the guest's kernel calls this boot; zeros if it does not.
    pub boot_id: [u8; 16],
}

/// [`Report::Started`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
pub struct Started {
    /// Its number in the guest.
    pub pid: u32,
}

/// [`Report::File`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
pub struct FileFacts {
    /// Its size in bytes when it was opened. It may send more or less.
    pub size: u64,
    /// Its rights, as in `chmod`.
    pub mode: u32,
    /// When it was written to, in seconds since 1970.
    pub modified: i64,
}

/// [`Report::Done`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
pub struct Done {
    /// How many bytes were written or sent.
    pub bytes: u64,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// Why the agent has ended a run, if it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Reason {
    /// It has not: the program ended by itself, or by a signal.
    None,
    /// The limit of time was reached.
    Time,
    /// The limit of output was reached.
    Output,
    /// The client is gone.
    HangUp,
    /// The machine is powered off.
    PowerOff,
    /// Something of a later version.
    Other(u8),
}

/// What a run has used: the program and the processes that it waited for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
pub struct Usage {
    /// Time from its start to its end, in microseconds.
    pub wall_us: u64,
    /// Processor time of programs, in microseconds.
    pub user_us: u64,
    /// Processor time of the guest's kernel, in microseconds.
    pub system_us: u64,
    /// The most memory of one process, in KiB.
    pub max_rss_kib: u64,
    /// Page faults without a disk.
    pub minor_faults: u64,
    /// Page faults with a disk.
    pub major_faults: u64,
    /// Reads of disks.
    pub blocks_in: u64,
    /// Writes to disks.
    pub blocks_out: u64,
    /// Switches to other processes.
    pub switches: u64,
}

/// [`Report::Exited`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// How the program ended.
    pub status: Status,
    /// Why the agent has ended it, if it has.
    pub reason: Reason,
    /// What it has used.
    pub usage: Usage,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Failure {
    /// Something of a later version, or none of the others.
    Other(u8),
    /// There is no such program, or no such file.
    NotFound,
    /// The user may not do that.
    NotPermitted,
    /// The file is no program.
    NotExecutable,
    /// There is no such user or group.
    NoUser,
    /// The folder cannot be entered.
    NoFolder,
    /// It is a folder, or no ordinary file.
    NotAFile,
    /// The guest has no memory, disk space, processes or files left.
    NoRoom,
    /// The agent does not speak this version.
    Version,
    /// The client has broken the protocol.
    Protocol,
    /// The client is gone.
    HangUp,
}

/// [`Report::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What kind of failure it is.
    pub failure: Failure,
    /// What failed, and why, in a few words.
    pub text: String,
}

/// Conversions between an enum and its number.
macro_rules! numbers {
    ($Name:ident { $($Variant:ident = $number:literal),* }) => {
        impl From<u8> for $Name {
            fn from(number: u8) -> Self {
                match number {
                    $($number => Self::$Variant,)*
                    _ => Self::Other(number),
                }
            }
        }

        impl From<$Name> for u8 {
            fn from(value: $Name) -> u8 {
                match value {
                    $($Name::$Variant => $number,)*
                    $Name::Other(number) => number,
                }
            }
        }
    };
}

numbers!(Reason { None = 0, Time = 1, Output = 2, HangUp = 3, PowerOff = 4 });
numbers!(Failure {
    NotFound = 1, NotPermitted = 2, NotExecutable = 3, NoUser = 4,
    NoFolder = 5, NotAFile = 6, NoRoom = 7, Version = 8, Protocol = 9,
    HangUp = 10
});

impl<'a> Report<'a> {
    /// Appends the frame of this message.
    ///
    /// # Errors
    ///
    /// [`TooLong`]: nothing is appended.
    pub fn put(&self, stream: u32, out: &mut Vec<u8>) -> Result<(), TooLong> {
        match self {
            Self::Hello(it) => frame::put_value(out, stream, kind::HELLO, it),
            Self::Ready => frame::put(out, stream, kind::READY, &[]),
            Self::Started(it) => {
                frame::put_value(out, stream, kind::STARTED, it)
            }
            Self::Stdout(it) => frame::put(out, stream, kind::STDOUT, it),
            Self::Stderr(it) => frame::put(out, stream, kind::STDERR, it),
            Self::Credit(it) => frame::put_value(out, stream, kind::CREDIT, it),
            Self::File(it) => frame::put_value(out, stream, kind::FILE, it),
            Self::Exited(it) => frame::put_value(out, stream, kind::EXITED, it),
            Self::Failed(it) => frame::put_value(out, stream, kind::FAILED, it),
            Self::Done(it) => frame::put_value(out, stream, kind::DONE, it),
        }
    }

    /// Reads the message of a frame. `None`: a kind of a later version.
    ///
    /// # Errors
    ///
    /// [`Malformed`]
    pub fn read(frame: &Frame<'a>) -> Result<Option<Self>, Malformed> {
        let payload = frame.payload;
        Ok(Some(match frame.kind {
            kind::HELLO => Self::Hello(value(payload)?),
            kind::READY => Self::Ready,
            kind::STARTED => Self::Started(value(payload)?),
            kind::STDOUT => Self::Stdout(payload),
            kind::STDERR => Self::Stderr(payload),
            kind::CREDIT => Self::Credit(value(payload)?),
            kind::FILE => Self::File(value(payload)?),
            kind::EXITED => Self::Exited(value(payload)?),
            kind::FAILED => Self::Failed(value(payload)?),
            kind::DONE => Self::Done(value(payload)?),
            _ => return Ok(None),
        }))
    }

    /// Whether nothing comes after this message in its stream.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Exited(_) | Self::Failed(_) | Self::Done(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Flow;
    use alloc::vec;
    use proptest::prelude::*;

    fn examples() -> Vec<Report<'static>> {
        let exited = |status, reason| {
            Report::Exited(Exited {
                status,
                reason,
                usage: Usage {
                    wall_us: 1_234_567,
                    switches: u64::MAX,
                    ..Usage::default()
                },
            })
        };
        vec![
            Report::Hello(Hello {
                version: 1,
                oldest: 1,
                features: 0,
                init: true,
                boot_id: [3; 16],
            }),
            Report::Ready,
            Report::Started(Started { pid: 77 }),
            Report::Stdout(b"out"),
            Report::Stderr(b""),
            Report::Credit(Given {
                flow: Flow::Stdin,
                bytes: 1,
            }),
            Report::File(FileFacts {
                size: 1 << 40,
                mode: 0o644,
                modified: -5,
            }),
            exited(Status::Code(0), Reason::None),
            exited(Status::Signal(9), Reason::Time),
            exited(Status::Signal(9), Reason::Other(200)),
            Report::Failed(Failed {
                failure: Failure::NotFound,
                text: "there is no program `x`".into(),
            }),
            Report::Done(Done { bytes: 3 }),
        ]
    }

    fn first(bytes: &[u8]) -> Result<Option<Report<'_>>, Malformed> {
        let frame = Frame {
            stream: 0,
            kind: bytes[8],
            payload: &bytes[9..],
        };
        Report::read(&frame)
    }

    #[test]
    fn each_report_is_read_as_it_was_written() {
        for report in examples() {
            let mut out = Vec::new();
            report.put(5, &mut out).unwrap();
            assert_eq!(out[4], 5);
            assert_eq!(first(&out), Ok(Some(report)));
        }
    }

    #[test]
    fn numbers_of_a_later_version_stay_numbers() {
        for number in 0..=255 {
            assert_eq!(u8::from(Reason::from(number)), number);
            assert_eq!(u8::from(Failure::from(number)), number);
        }
    }

    #[test]
    fn these_are_the_bytes_of_version_1() {
        let mut out = Vec::new();
        let usage = Usage {
            wall_us: 300,
            ..Usage::default()
        };
        Report::Exited(Exited {
            status: Status::Signal(9),
            reason: Reason::Output,
            usage,
        })
        .put(1, &mut out)
        .unwrap();
        let head = [13, 0, 0, 0, 1, 0, 0, 0, 37];
        assert_eq!(out[..9], head);
        assert_eq!(out[9..], *b"\x01\x09\x02\xac\x02\0\0\0\0\0\0\0\0");
    }

    proptest! {
        #[test]
        fn any_payload_is_read_or_refused(
            kind in 0..50_u8,
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let frame = Frame { stream: 1, kind, payload: &payload };
            if let Ok(Some(report)) = Report::read(&frame) {
                let mut out = Vec::new();
                report.put(1, &mut out).unwrap();
                prop_assert_eq!(first(&out), Ok(Some(report)));
            }
        }
    }
}
