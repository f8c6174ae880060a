//! The client's side of one run or one file, as a state machine without I/O.
//!
//! The caller gives it the bytes that arrive, and gets [`Event`]s; it asks for
//! messages, and gets their bytes to send. Everything that arrives is checked:
//! order, form, credit. A [`Violation`] means that the agent is broken or
//! hostile; the caller closes the connection.

use crate::command::{Command, Flow, Get, Given, Put, Size, Start};
use crate::credit::{Beyond, Receiver, Sender};
use crate::frame::{Decoder, Malformed, TooLong};
use crate::printable::printable;
use crate::report::{Done, Exited, Failure, FileFacts, Report, Started};
use alloc::string::String;
use alloc::vec::Vec;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The program runs.
    Started(Started),
    /// The file is open.
    File(FileFacts),
    /// Bytes. When they are written, say so by [`Client::taken`].
    Stdout(&'a [u8]),
    /// Likewise.
    Stderr(&'a [u8]),
    /// More can be sent: see [`Client::stdin_room`].
    StdinRoom,
    /// The run is over.
    Exited(Exited),
    /// The file is there.
    Done(Done),
    /// It could not be done. The text is printable and in one line.
    Failed(Failure, String),
}

/// How the agent has broken the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A frame is too long.
    TooLong,
    /// A payload cannot be read.
    Malformed,
    /// A message came when it may not come, or is none of this kind of stream.
    Order,
    /// More was sent, or given back, than the credit allows.
    Credit,
}

impl core::error::Error for Violation {}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a frame is too long",
            Self::Malformed => "a message cannot be read",
            Self::Order => "a message comes at the wrong time",
            Self::Credit => "more is sent than was allowed",
        })
    }
}

impl From<TooLong> for Violation {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl From<Malformed> for Violation {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Beyond> for Violation {
    fn from(_: Beyond) -> Self {
        Self::Credit
    }
}

/// What the stream is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Run { terminal: bool },
    Put,
    Get,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has arrived.
    Asked,
    /// The program runs, or the file is open.
    Open,
    /// The last message has arrived.
    Over,
}

/// One stream, as its client sees it.
#[derive(Clone, Debug)]
pub struct Client {
    about: About,
    stage: Stage,
    decoder: Decoder,
    stdin: Sender,
    stdin_ended: bool,
    stdout: Receiver,
    stderr: Receiver,
}

impl Client {
    /// Asks for a run. The bytes to send are appended to `out`.
    ///
    /// # Errors
    ///
    /// [`TooLong`]: arguments and environment do not fit into a message.
    pub fn start(start: Start, out: &mut Vec<u8>) -> Result<Self, TooLong> {
        let terminal = start.terminal.is_some();
        Self::open(About::Run { terminal }, &Command::Start(start), out)
    }

    /// Asks for a file to be made. Its bytes are sent by [`Self::stdin`].
    ///
    /// # Errors
    ///
    /// [`TooLong`]
    pub fn put(put: Put, out: &mut Vec<u8>) -> Result<Self, TooLong> {
        Self::open(About::Put, &Command::Put(put), out)
    }

    /// Asks for a file. Its bytes arrive as [`Event::Stdout`].
    ///
    /// # Errors
    ///
    /// [`TooLong`]
    pub fn get(get: Get, out: &mut Vec<u8>) -> Result<Self, TooLong> {
        Self::open(About::Get, &Command::Get(get), out)
    }

    fn open(
        about: About,
        first: &Command<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Self, TooLong> {
        first.put(STAMPED, out)?;
        Ok(Self {
            about,
            stage: Stage::Asked,
            decoder: Decoder::new(),
            stdin: Sender::default(),
            stdin_ended: about == About::Get,
            stdout: Receiver::default(),
            stderr: Receiver::default(),
        })
    }

    /// Takes bytes from the front of `bytes` and returns what has happened.
    /// `None`: all of them are taken.
    ///
    /// # Errors
    ///
    /// [`Violation`]: the connection is of no use any more.
    pub fn receive(
        &mut self,
        bytes: &mut &[u8],
    ) -> Result<Option<Event<'_>>, Violation> {
        // Kinds of later versions are passed over.
        loop {
            self.decoder.advance(bytes)?;
            match self.decoder.frame() {
                None => return Ok(None),
                Some(frame) if Report::read(&frame)?.is_some() => break,
                Some(_) => {}
            }
        }
        let frame = self.decoder.frame().ok_or(Violation::Order)?;
        let report = Report::read(&frame)?.ok_or(Violation::Order)?;
        let over = report.is_last();
        let allowed = match (&report, self.stage) {
            (_, Stage::Over) | (Report::Hello(_) | Report::Ready, _) => false,
            (Report::Failed(_), _) => true,
            (Report::Started(_), Stage::Asked) => self.is_run(),
            (Report::File(_), Stage::Asked) => self.about == About::Get,
            (Report::Credit(it), stage) => {
                // A file to make has no message that says that it is open.
                it.flow == Flow::Stdin
                    && (stage == Stage::Open || self.about == About::Put)
            }
            (Report::Stdout(_), Stage::Open) => self.about != About::Put,
            (Report::Stderr(_), Stage::Open) => {
                self.about == About::Run { terminal: false }
            }
            (Report::Exited(_), Stage::Open) => self.is_run(),
            (Report::Done(_), Stage::Open) => self.about == About::Get,
            (Report::Done(_), Stage::Asked) => self.about == About::Put,
            _ => false,
        };
        if !allowed {
            return Err(Violation::Order);
        }
        match &report {
            Report::Started(_) | Report::File(_) => self.stage = Stage::Open,
            Report::Stdout(bytes) => self.stdout.arrived(bytes.len())?,
            Report::Stderr(bytes) => self.stderr.arrived(bytes.len())?,
            Report::Credit(it) => self.stdin.refill(it.bytes)?,
            _ if over => self.stage = Stage::Over,
            _ => {}
        }
        Ok(Some(event(report)))
    }

    /// Sends as many of these bytes as the credit allows, and returns how many.
    pub fn stdin(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.stdin_room() > 0 {
            let length = self.stdin_room().min(rest.len());
            let (now, later) = rest.split_at(length);
            if self.stdin.spend(length).is_err() {
                break;
            }
            self.send(&Command::Stdin(now), out);
            rest = later;
        }
        bytes.len() - rest.len()
    }

    /// How many bytes may be sent at once; 0 = none now.
    #[must_use]
    pub fn stdin_room(&self) -> usize {
        if self.stdin_ended || self.is_over() {
            return 0;
        }
        self.stdin.room()
    }

    /// There are no more bytes for the standard input, or the file is whole.
    pub fn stdin_end(&mut self, out: &mut Vec<u8>) {
        if !core::mem::replace(&mut self.stdin_ended, true) {
            self.send(&Command::StdinEnd, out);
        }
    }

    /// Bytes of an [`Event`] were written, or thrown away.
    pub fn taken(&mut self, flow: Flow, bytes: usize, out: &mut Vec<u8>) {
        let given = match flow {
            Flow::Stdin => None,
            Flow::Stdout => self.stdout.taken(bytes),
            Flow::Stderr => self.stderr.taken(bytes),
        };
        if let Some(bytes) = given {
            self.send(&Command::Credit(Given { flow, bytes }), out);
        }
    }

    /// Sends a signal to the program.
    pub fn signal(&self, number: u8, out: &mut Vec<u8>) {
        self.send(&Command::Signal(number), out);
    }

    /// The terminal has another size.
    pub fn resize(&self, size: Size, out: &mut Vec<u8>) {
        self.send(&Command::Resize(size), out);
    }

    /// Ends the run, with all its processes.
    pub fn hang_up(&self, out: &mut Vec<u8>) {
        self.send(&Command::HangUp, out);
    }

    /// Whether the last message has arrived.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    fn is_run(&self) -> bool {
        matches!(self.about, About::Run { .. })
    }

    /// Appends a message, unless the stream is over.
    fn send(&self, command: &Command<'_>, out: &mut Vec<u8>) {
        if !self.is_over() {
            // No message but the first can be too long.
            let _ = command.put(STAMPED, out);
        }
    }
}

/// The stream's number in what a client sends. The Launcher writes the right
/// one over it.
const STAMPED: u32 = 0;

fn event(report: Report<'_>) -> Event<'_> {
    match report {
        Report::Started(it) => Event::Started(it),
        Report::File(it) => Event::File(it),
        Report::Stdout(it) => Event::Stdout(it),
        Report::Stderr(it) => Event::Stderr(it),
        Report::Exited(it) => Event::Exited(it),
        Report::Done(it) => Event::Done(it),
        Report::Failed(it) => Event::Failed(it.failure, printable(&it.text)),
        Report::Credit(_) | Report::Hello(_) | Report::Ready => {
            Event::StdinRoom
        }
    }
}

#[cfg(test)]
mod tests;
