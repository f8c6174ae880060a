//! Commands: what a client, or the Launcher, says to the agent.
//!
//! A stream other than [`MACHINE`](crate::MACHINE) begins with
//! [`Command::Start`], [`Command::Put`] or [`Command::Get`]. After that it is
//! about that run or that file.

use crate::frame::{self, Frame, Malformed, TooLong, value};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The kinds of frames that go to the agent.
pub mod kind {
    /// [`Restored`](super::Restored), of the machine.
    pub const RESTORED: u8 = 3;
    /// No payload, of the machine.
    pub const POWER_OFF: u8 = 4;
    /// [`Start`](super::Start).
    pub const START: u8 = 16;
    /// [`Put`](super::Put).
    pub const PUT: u8 = 17;
    /// [`Get`](super::Get).
    pub const GET: u8 = 18;
    /// Bytes.
    pub const STDIN: u8 = 19;
    /// No payload.
    pub const STDIN_END: u8 = 20;
    /// [`Given`](super::Given).
    pub const CREDIT: u8 = 21;
    /// A signal's number, one byte.
    pub const SIGNAL: u8 = 22;
    /// [`Size`](super::Size).
    pub const RESIZE: u8 = 23;
    /// No payload.
    pub const HANG_UP: u8 = 24;
}

/// A message to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The machine goes on from a snapshot. The agent sets the clock, gives the
    /// random bytes to the kernel, and reports that it is ready.
    Restored(Restored),
    /// End all runs, write everything to the disks, and power the machine off.
    PowerOff,
    /// Run a program.
    Start(Start),
    /// Make a file of the bytes that follow as [`Command::Stdin`].
    Put(Put),
    /// Send a file.
    Get(Get),
    /// Bytes for the standard input, or for the file.
    Stdin(&'a [u8]),
    /// There are no more of them.
    StdinEnd,
    /// The client has taken bytes.
    Credit(Given),
    /// Send a signal to the process group of the program.
    Signal(u8),
    /// The terminal has another size.
    Resize(Size),
    /// The client is gone. The agent ends the run, with all its processes, or
    /// the transfer. It still reports the end.
    HangUp,
}

/// [`Command::Restored`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The time now, in seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: u32,
    /// Random bytes that no other machine has: 32 or more.
    pub random: Vec<u8>,
}

/// [`Command::Start`]: a program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The version that the client speaks: [`crate::VERSION`].
    pub version: u32,
    /// The program and its arguments. A program without `/` is looked for in
    /// `PATH` of `env`.
    pub argv: Vec<Vec<u8>>,
    /// The environment: `NAME=value`. The agent adds `PATH`, `HOME`, and with a
    /// terminal `TERM`, where they are missing.
    pub env: Vec<Vec<u8>>,
    /// The folder; otherwise the user's own, or `/`.
    pub cwd: Option<Vec<u8>>,
    /// Whose rights it has: `name`, `uid`, `name:group`, `uid:gid`; empty: the
    /// agent's.
    pub user: String,
    /// Give it a terminal of this size. Its output is [`Flow::Stdout`] then.
    pub terminal: Option<Size>,
    /// What it may use.
    pub limits: Limits,
}

/// What a run may use. `None`: what the guest allows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
pub struct Limits {
    /// Time from the start, in milliseconds. Then the run is ended.
    pub time_ms: Option<u64>,
    /// Processor time of each process, in seconds.
    pub cpu_seconds: Option<u64>,
    /// Memory of each process, in bytes.
    pub memory: Option<u64>,
    /// Processes of the user.
    pub processes: Option<u64>,
    /// The size of each file, in bytes.
    pub file_size: Option<u64>,
    /// Open files of each process.
    pub files: Option<u64>,
    /// Output and errors together, in bytes. Then the run is ended.
    pub output: Option<u64>,
}

/// The size of a terminal, in characters.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// [`Command::Put`]: a file to make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The version that the client speaks: [`crate::VERSION`].
    pub version: u32,
    /// Its path.
    pub path: Vec<u8>,
    /// Its rights, as in `chmod`.
    pub mode: u32,
    /// The user that makes it, as in [`Start::user`].
    pub user: String,
    /// Make the folders above it, where they are missing.
    pub parents: bool,
}

/// [`Command::Get`]: a file to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// The version that the client speaks: [`crate::VERSION`].
    pub version: u32,
    /// Its path.
    pub path: Vec<u8>,
    /// The user that reads it, as in [`Start::user`].
    pub user: String,
}

/// A flow of bytes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flow {
    /// Standard input, or the bytes of a file to make.
    Stdin,
    /// Standard output, the terminal, or the bytes of a file to send.
    Stdout,
    /// Standard errors.
    Stderr,
}

/// Credit that the receiver of a flow gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Which flow.
    pub flow: Flow,
    /// How much; see [`crate::credit`].
    pub bytes: u32,
}

impl<'a> Command<'a> {
    /// Appends the frame of this message.
    ///
    /// # Errors
    ///
    /// [`TooLong`]: nothing is appended.
    pub fn put(&self, stream: u32, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let bytes =
            |out, kind, bytes: &[u8]| frame::put(out, stream, kind, bytes);
        match self {
            Self::Restored(it) => {
                frame::put_value(out, stream, kind::RESTORED, it)
            }
            Self::PowerOff => bytes(out, kind::POWER_OFF, &[]),
            Self::Start(it) => frame::put_value(out, stream, kind::START, it),
            Self::Put(it) => frame::put_value(out, stream, kind::PUT, it),
            Self::Get(it) => frame::put_value(out, stream, kind::GET, it),
            Self::Stdin(it) => bytes(out, kind::STDIN, it),
            Self::StdinEnd => bytes(out, kind::STDIN_END, &[]),
            Self::Credit(it) => frame::put_value(out, stream, kind::CREDIT, it),
            Self::Signal(it) => bytes(out, kind::SIGNAL, &[*it]),
            Self::Resize(it) => frame::put_value(out, stream, kind::RESIZE, it),
            Self::HangUp => bytes(out, kind::HANG_UP, &[]),
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
            kind::RESTORED => Self::Restored(value(payload)?),
            kind::POWER_OFF => Self::PowerOff,
            kind::START => Self::Start(value(payload)?),
            kind::PUT => Self::Put(value(payload)?),
            kind::GET => Self::Get(value(payload)?),
            kind::STDIN => Self::Stdin(payload),
            kind::STDIN_END => Self::StdinEnd,
            kind::CREDIT => Self::Credit(value(payload)?),
            kind::SIGNAL => Self::Signal(*payload.first().ok_or(Malformed)?),
            kind::RESIZE => Self::Resize(value(payload)?),
            kind::HANG_UP => Self::HangUp,
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Decoder;
    use alloc::vec;
    use proptest::prelude::*;

    /// One of each.
    fn examples() -> Vec<Command<'static>> {
        let size = Size { rows: 24, cols: 80 };
        vec![
            Command::Restored(Restored {
                seconds: -1,
                nanoseconds: 999_999_999,
                random: vec![7; 32],
            }),
            Command::PowerOff,
            Command::Start(Start {
                version: 1,
                argv: vec![b"sh".to_vec(), b"-c".to_vec(), b"\xff".to_vec()],
                env: vec![b"A=b".to_vec()],
                cwd: Some(b"/tmp".to_vec()),
                user: "1000:100".into(),
                terminal: Some(size),
                limits: Limits {
                    time_ms: Some(10_000),
                    memory: Some(256 << 20),
                    ..Limits::default()
                },
            }),
            Command::Put(Put {
                path: b"/a".to_vec(),
                mode: 0o755,
                parents: true,
                ..Put::default()
            }),
            Command::Get(Get::default()),
            Command::Stdin(b"hello"),
            Command::Stdin(b""),
            Command::StdinEnd,
            Command::Credit(Given {
                flow: Flow::Stderr,
                bytes: 65536,
            }),
            Command::Signal(15),
            Command::Resize(size),
            Command::HangUp,
        ]
    }

    fn first(bytes: &[u8]) -> Result<Option<Command<'_>>, Malformed> {
        let frame = Frame {
            stream: 0,
            kind: bytes[8],
            payload: &bytes[9..],
        };
        Command::read(&frame)
    }

    #[test]
    fn each_command_is_read_as_it_was_written() {
        for command in examples() {
            let mut out = Vec::new();
            command.put(5, &mut out).unwrap();
            let mut decoder = Decoder::new();
            let mut bytes = out.as_slice();
            let frame = decoder.next(&mut bytes).unwrap().unwrap();
            assert_eq!(frame.stream, 5);
            assert_eq!(Command::read(&frame), Ok(Some(command)));
        }
    }

    #[test]
    fn bytes_of_a_later_version_are_passed_over() {
        for command in examples() {
            if matches!(command, Command::Stdin(_)) {
                continue;
            }
            let mut out = Vec::new();
            command.put(5, &mut out).unwrap();
            out.extend([1, 2, 3]);
            assert_eq!(first(&out), Ok(Some(command)));
        }
        let frame = Frame {
            stream: 1,
            kind: 255,
            payload: b"?",
        };
        assert_eq!(Command::read(&frame), Ok(None));
    }

    #[test]
    fn a_payload_that_is_cut_is_malformed() {
        for command in examples() {
            let mut out = Vec::new();
            command.put(5, &mut out).unwrap();
            out.pop();
            if out.len() >= frame::HEAD && !matches!(command, Command::Stdin(_))
            {
                assert_eq!(first(&out), Err(Malformed), "{command:?}");
            }
        }
    }

    #[test]
    fn these_are_the_bytes_of_version_1() {
        let mut out = Vec::new();
        Command::Start(Start {
            version: 1,
            argv: vec![b"ls".to_vec()],
            user: "me".into(),
            terminal: Some(Size {
                rows: 24,
                cols: 200,
            }),
            ..Start::default()
        })
        .put(1, &mut out)
        .unwrap();
        let head = [21, 0, 0, 0, 1, 0, 0, 0, 16];
        assert_eq!(out[..9], head);
        let fields = b"\x01\x01\x02ls\x00\x00\x02me\x01\x18\xc8\x01";
        let limits = [0; 7];
        assert_eq!(out[9..], [&fields[..], &limits].concat());
    }

    proptest! {
        #[test]
        fn any_payload_is_read_or_refused(
            kind in 0..40_u8,
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let frame = Frame { stream: 1, kind, payload: &payload };
            if let Ok(Some(command)) = Command::read(&frame) {
                // What was read can be written, and is read as the same.
                let mut out = Vec::new();
                command.put(1, &mut out).unwrap();
                prop_assert_eq!(first(&out), Ok(Some(command)));
            }
        }
    }
}
