//! A connection to the control socket of a machine.
//!
//! Nothing here waits longer than a caller wants, whatever the Launcher does.

use super::error::MachineError;
use super::folder::Folder;
use super::name::Name;
use super::protocol::{
    self, Begun, Call, FILES_MOST, LINE_MOST, Received, received,
};
use crate::credentials::peer_of_our_user;
use crate::engine::printable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, send, sendmsg,
};
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A connection.
pub struct Link {
    name: Name,
    socket: OwnedFd,
    /// The Launcher's process.
    pub pid: u32,
    incoming: Vec<u8>,
    /// The files that have come with a message, if some are waited for.
    files: Option<Vec<OwnedFd>>,
    next: u64,
}

/// What a wait for a message found.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Received),
    /// Nothing in the time that there was.
    Nothing,
    /// The Launcher has closed the connection.
    Closed,
}

impl Link {
    /// Connects to a machine that runs.
    ///
    /// # Errors
    ///
    /// [`MachineError::Ended`], [`MachineError::NoAnswer`].
    pub fn to(folder: &Folder) -> Result<Self, MachineError> {
        let name = folder.name.clone();
        // Its Launcher may still be there for a moment.
        if let Some(ended) = folder.ended() {
            return Err(ended);
        }
        let connect = || {
            let socket = folder.connect()?;
            let pid = peer_of_our_user(&socket)?;
            Ok((socket, pid))
        };
        let (socket, pid) = connect().map_err(|error: io::Error| {
            folder.ended().unwrap_or_else(|| {
                MachineError::NoAnswer(name.clone(), error.to_string())
            })
        })?;
        Ok(Self {
            name,
            socket,
            pid,
            incoming: Vec::new(),
            files: None,
            next: 0,
        })
    }

    /// The error that there is no answer. `why` may contain text of the
    /// Launcher.
    fn no_answer(&self, why: impl ToString) -> MachineError {
        let why = printable(why.to_string().as_bytes());
        MachineError::NoAnswer(self.name.clone(), why)
    }

    /// Waits until the socket is ready, for `time` at most.
    fn wait(
        &self,
        flags: PollFlags,
        time: Option<Duration>,
    ) -> Result<bool, MachineError> {
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = [PollFd::new(&self.socket, flags)];
        match poll(&mut fds, time.as_ref()) {
            Ok(n) => Ok(n > 0),
            // The caller looks at the time again.
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(self.no_answer(io::Error::from(error))),
        }
    }

    /// Sends a call. Returns its number.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoAnswer`].
    pub fn call(&mut self, call: &Call) -> Result<u64, MachineError> {
        self.next += 1;
        let line = protocol::call(self.next, call);
        let deadline = Instant::now() + PATIENCE;
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(n) => rest = &rest[n..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let left = deadline.duration_since(Instant::now());
                    if left.is_zero()
                        || !self.wait(PollFlags::OUT, Some(left))?
                    {
                        return Err(self.no_answer("it takes no calls"));
                    }
                }
                Err(error) => {
                    return Err(self.no_answer(io::Error::from(error)));
                }
            }
        }
        Ok(self.next)
    }

    /// Asks for a stream to the agent of the machine, whose other end is
    /// `socket`.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoAnswer`], [`MachineError::Refused`].
    pub fn exec(&mut self, socket: &OwnedFd) -> Result<Begun, MachineError> {
        self.next += 1;
        let line = protocol::call(self.next, &Call::Exec {});
        let files = [socket.as_fd()];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let parts = [IoSlice::new(&line)];
        let flags = SendFlags::NOSIGNAL;
        // A new connection has room for a short line.
        let sent = sendmsg(&self.socket, &parts, &mut control, flags)
            .map_err(|error| self.no_answer(io::Error::from(error)))?;
        if sent < line.len() {
            return Err(self.no_answer("it takes no calls"));
        }
        self.answer(self.next, Some(Instant::now() + PATIENCE))
    }

    /// The next message that has arrived already.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoAnswer`]: what comes is too long for a message.
    pub fn arrived(&mut self) -> Result<Heard, MachineError> {
        loop {
            let end = self.incoming.iter().position(|&byte| byte == b'\n');
            if let Some(end) = end {
                let line: Vec<u8> = self.incoming.drain(..=end).collect();
                match received(&line) {
                    Some(message) => return Ok(Heard::Message(message)),
                    None => continue,
                }
            }
            // An answer may be longer than a call.
            if self.incoming.len() > 16 * LINE_MOST {
                return Err(self.no_answer("it sends no lines"));
            }
            let mut bytes = [0; 16 << 10];
            match self.receive(&mut bytes) {
                Ok(0) => return Ok(Heard::Closed),
                Ok(n) => self.incoming.extend_from_slice(&bytes[..n]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Heard::Nothing),
                Err(Errno::CONNRESET) => return Ok(Heard::Closed),
                Err(error) => {
                    return Err(self.no_answer(io::Error::from(error)));
                }
            }
        }
    }

    /// Receives bytes, and keeps files that come with them if they are waited
    /// for. The kernel closes others.
    fn receive(&mut self, bytes: &mut [u8]) -> rustix::io::Result<usize> {
        let Some(kept) = &mut self.files else {
            let (n, _) = recv(&self.socket, bytes, RecvFlags::empty())?;
            return Ok(n);
        };
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.socket, &mut parts, &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                let room = FILES_MOST.saturating_sub(kept.len());
                kept.extend(files.take(room));
            }
        }
        Ok(got.bytes)
    }

    /// Calls, and waits for an answer with files until `deadline`.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoAnswer`], [`MachineError::Refused`].
    pub fn ask_with_files<T: DeserializeOwned>(
        &mut self,
        call: &Call,
        deadline: Option<Instant>,
    ) -> Result<(T, Vec<OwnedFd>), MachineError> {
        self.files = Some(Vec::new());
        let number = self.call(call)?;
        let answer = self.answer(number, deadline);
        let files = self.files.take().unwrap_or_default();
        Ok((answer?, files))
    }

    /// Waits for a message until `deadline`.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoAnswer`].
    pub fn hear(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Heard, MachineError> {
        loop {
            match self.arrived()? {
                Heard::Nothing => {}
                heard => return Ok(heard),
            }
            let left = deadline
                .map(|time| time.saturating_duration_since(Instant::now()));
            let over = left.is_some_and(|left| left.is_zero());
            if over || !self.wait(PollFlags::IN, left)? {
                return Ok(Heard::Nothing);
            }
        }
    }

    /// Waits for the answer to call `number`; other messages are lost.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoAnswer`], [`MachineError::Refused`].
    pub fn answer<T: DeserializeOwned>(
        &mut self,
        number: u64,
        deadline: Option<Instant>,
    ) -> Result<T, MachineError> {
        loop {
            match self.hear(deadline)? {
                Heard::Message(Received::Answer(of, result))
                    if of == number =>
                {
                    let result = result.map_err(|text| {
                        let text = printable(text.as_bytes());
                        MachineError::Refused(self.name.clone(), text)
                    })?;
                    return serde_json::from_value(result)
                        .map_err(|error| self.no_answer(error));
                }
                Heard::Message(_) => {}
                Heard::Nothing => {
                    return Err(self.no_answer("no answer in time"));
                }
                Heard::Closed => {
                    return Err(self.no_answer("it has closed the connection"));
                }
            }
        }
    }

    /// Calls, and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`MachineError::NoAnswer`], [`MachineError::Refused`].
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        call: &Call,
    ) -> Result<T, MachineError> {
        let number = self.call(call)?;
        self.answer(number, Some(Instant::now() + PATIENCE))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::pipe;

    /// A connection, and the Launcher's end of it.
    fn link() -> (Link, OwnedFd) {
        let flags = SocketFlags::NONBLOCK;
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                .unwrap();
        let link = Link {
            name: "web".parse().unwrap(),
            socket,
            pid: 1,
            incoming: Vec::new(),
            files: None,
            next: 0,
        };
        (link, theirs)
    }

    /// Sends an answer to call 1 with a file. Returns a pipe that has ended if
    /// nobody has the file.
    fn answer_with_a_file(to: &OwnedFd) -> OwnedFd {
        let (reader, writer) = pipe().unwrap();
        let files = [writer.as_fd()];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let line = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n";
        let line = [IoSlice::new(line)];
        sendmsg(to, &line, &mut control, SendFlags::NOSIGNAL).unwrap();
        reader
    }

    fn has_ended(pipe: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        let now = Timespec::default();
        poll(&mut fds, Some(&now)).unwrap() > 0
    }

    #[test]
    fn files_that_nobody_waits_for_are_closed() {
        let (mut link, theirs) = link();
        let pipe = answer_with_a_file(&theirs);
        assert!(!has_ended(&pipe));
        let heard = link.arrived().unwrap();
        assert!(matches!(heard, Heard::Message(_)), "{heard:?}");
        assert!(has_ended(&pipe));
        let pipe = answer_with_a_file(&theirs);
        let deadline = Some(Instant::now() + PATIENCE);
        let asked =
            link.ask_with_files::<protocol::Done>(&Call::Freeze {}, deadline);
        let (_, files) = asked.unwrap();
        assert_eq!(files.len(), 1);
        assert!(!has_ended(&pipe));
        drop(files);
        assert!(has_ended(&pipe));
        assert!(link.files.is_none());
    }
}
