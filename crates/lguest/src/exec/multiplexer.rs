//! The multiplexer: frames of one port, and the sockets of many clients.
//!
//! A client has one stream, whose number the Launcher gives it and writes into
//! each of its frames. Frames of a stream without a client are dropped and
//! counted. Nothing waits for a client: what a client has not read is kept up
//! to a bound, and beyond that the stream is closed. The agent sends no more
//! than its client allows, so only a hostile agent gets there. When a client
//! goes, the agent is told, and ends what runs for it.

use crate::devices::port::{
    Channel, FRAME_MOST, Frame, FromGuest, HEADER, NoStream, frame,
};
use crate::engine::printable;
use crate::lock::lock;
use crate::random::random;
use crate::thread;
use lg_exec::command::{Command, Restored};
use lg_exec::credit::BUFFER_MOST;
use lg_exec::report::{Failed, Failure, Report};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many random bytes an agent gets after a restore.
const RANDOM: usize = 64;

/// How many bytes a client is read at a time.
const READ_MOST: usize = 1 << 14;

/// How many frames are taken from the Guest before clients are looked at.
const FRAMES_AT_ONCE: usize = 64;

/// The multiplexer, as the other threads of the Launcher see it.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    channel: Arc<Channel>,
    /// Clients that the thread has not seen yet.
    joining: Mutex<Vec<Joining>>,
    /// Frames of the Guest that had no client.
    dropped: AtomicU64,
}

struct Joining {
    number: u32,
    socket: OwnedFd,
    /// The machine ends with this client.
    ends: Option<Box<dyn FnOnce() + Send>>,
}

/// A client.
struct Client {
    number: u32,
    socket: OwnedFd,
    /// A frame that is not complete.
    incoming: Vec<u8>,
    /// What it has not received yet.
    outgoing: VecDeque<u8>,
    state: State,
    ends: Option<Box<dyn FnOnce() + Send>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It sends and receives.
    Open,
    /// It receives what there is for it, and no more.
    Closing,
    /// It is gone. The agent has to be told.
    Gone,
    /// It is gone, and the agent was told.
    Told,
}

impl Streams {
    /// The streams of `channel`, with no client.
    #[must_use]
    pub fn new(channel: Arc<Channel>) -> Self {
        Self(Arc::new(Shared {
            channel,
            joining: Mutex::default(),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Gives a client a stream. `socket` is a stream socket whose other end is
    /// the client's.
    ///
    /// # Errors
    ///
    /// [`NoStream`].
    pub fn add(&self, socket: OwnedFd) -> Result<u32, NoStream> {
        self.join(socket, None)
    }

    /// The same for a client with which the machine ends: `ends` is called when
    /// it has gone.
    ///
    /// # Errors
    ///
    /// [`NoStream`].
    pub fn add_owner(
        &self,
        socket: OwnedFd,
        ends: Box<dyn FnOnce() + Send>,
    ) -> Result<u32, NoStream> {
        self.join(socket, Some(ends))
    }

    fn join(
        &self,
        socket: OwnedFd,
        ends: Option<Box<dyn FnOnce() + Send>>,
    ) -> Result<u32, NoStream> {
        let number = self.0.channel.begin_stream()?;
        lock(&self.0.joining).push(Joining {
            number,
            socket,
            ends,
        });
        self.0.channel.wake_multiplexer();
        Ok(number)
    }

    /// Whether the agent has the port open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.channel.is_open()
    }

    /// How many frames of the Guest had no client.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Starts the thread, which ends with the process. `goes_on`: the Guest
    /// comes from a snapshot.
    ///
    /// # Errors
    ///
    /// The kernel has no thread left, or no random bytes for the Guest.
    pub fn start(&self, goes_on: bool) -> io::Result<()> {
        let mut multiplexer = Multiplexer::new(self, goes_on)?;
        thread::start("exec", 256 << 10, move || {
            // The kernel can wait, or the Launcher lacks memory and ends.
            while multiplexer.round().is_ok() {}
        })?;
        Ok(())
    }
}

/// The thread's part.
pub struct Multiplexer {
    shared: Arc<Shared>,
    clients: Vec<Client>,
    /// Frames to the Guest that come before all others.
    first: VecDeque<Vec<u8>>,
    /// The Guest comes from a snapshot. Each agent there is told.
    goes_on: bool,
    /// The client that is looked at first.
    turn: usize,
}

impl Multiplexer {
    /// The multiplexer of `streams`. `goes_on`: the Guest comes from a
    /// snapshot. Then its clock is wrong, its random numbers are those of every
    /// other copy, and its agent may run commands of clients that are not here.
    ///
    /// # Errors
    ///
    /// The kernel has no random bytes for the Guest.
    pub fn new(streams: &Streams, goes_on: bool) -> io::Result<Self> {
        let channel = &streams.0.channel;
        let mut first = VecDeque::new();
        if goes_on {
            for number in channel.streams() {
                first.push_back(bytes_of(number, &Command::HangUp));
                channel.end_stream(number);
            }
            first.push_back(bytes_of(lg_exec::MACHINE, &restored()?));
        }
        Ok(Self {
            shared: Arc::clone(&streams.0),
            clients: Vec::new(),
            first,
            goes_on,
            turn: 0,
        })
    }

    /// Waits until there is something to do, and does it.
    ///
    /// # Errors
    ///
    /// The kernel cannot wait.
    pub fn round(&mut self) -> io::Result<()> {
        self.wait()?;
        self.shared.channel.hear_news();
        self.step();
        Ok(())
    }

    /// Does what can be done now.
    pub fn step(&mut self) {
        self.greet();
        self.hand_out();
        self.collect();
        for client in &mut self.clients {
            client.flush();
        }
        // The agent has to be told of those that are gone now.
        self.tell_of_gone();
        self.clients.retain(|client| client.state != State::Told);
    }

    fn wait(&mut self) -> io::Result<()> {
        let channel = &self.shared.channel;
        let room = channel.has_room_to_guest();
        let news = PollFd::from_borrowed_fd(channel.news(), PollFlags::IN);
        let mut fds = vec![news];
        // One that is gone would end every wait.
        let open = self.clients.iter().filter(|client| client.has_socket());
        fds.extend(
            open.map(|client| PollFd::new(&client.socket, client.flags(room))),
        );
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let found: Vec<_> = fds.iter().skip(1).map(PollFd::revents).collect();
        let open = self.clients.iter_mut().filter(|c| c.has_socket());
        for (client, found) in open.zip(found) {
            // Frames that it sent before are dropped: the agent ends the run.
            if found.intersects(PollFlags::HUP | PollFlags::ERR) {
                client.state = State::Gone;
            }
        }
        Ok(())
    }

    /// Takes clients over that are new.
    fn greet(&mut self) {
        let joining = std::mem::take(&mut *lock(&self.shared.joining));
        self.clients.extend(joining.into_iter().map(|new| Client {
            number: new.number,
            socket: new.socket,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
            state: State::Open,
            ends: new.ends,
        }));
    }

    /// Hands frames of the Guest to their clients.
    fn hand_out(&mut self) {
        for _ in 0..FRAMES_AT_ONCE {
            match self.shared.channel.take() {
                Some(FromGuest::Frame(frame)) => self.deliver(&frame),
                Some(FromGuest::Closed) => {
                    let why = "the agent in the guest has ended";
                    self.close_all(Failure::HangUp, why);
                    self.tell_again();
                }
                Some(FromGuest::TooLong(len)) => {
                    let why = format!(
                        "the agent in the guest has sent a frame of {len} \
                         bytes, of {FRAME_MOST}: it is broken or hostile, and \
                         no command can be run there any more"
                    );
                    self.shared.channel.break_off(&why);
                    self.close_all(Failure::Protocol, &why);
                }
                None => return,
            }
        }
        // There may be more, after the clients.
        self.shared.channel.wake_multiplexer();
    }

    /// An agent has ended that may not have read that its machine goes on from
    /// a snapshot: the next one is told. If it knew, it sets the clock again,
    /// and the kernel of the Guest gets more random bytes.
    fn tell_again(&mut self) {
        if !self.goes_on {
            return;
        }
        match restored() {
            Ok(restored) => {
                self.first.clear();
                let bytes = bytes_of(lg_exec::MACHINE, &restored);
                self.first.push_back(bytes);
            }
            Err(error) => self.shared.channel.break_off(&format!(
                "no random bytes can be had for the guest ({error}), and \
                 without them no command can be run there any more"
            )),
        }
    }

    fn deliver(&mut self, frame: &Frame) {
        let is_theirs = |client: &&mut Client| {
            client.number == frame.stream && client.state == State::Open
        };
        let client = self.clients.iter_mut().find(is_theirs);
        let Some(client) = client else {
            if frame.stream != lg_exec::MACHINE {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return;
        };
        let Frame {
            stream,
            kind,
            payload,
        } = frame;
        let bytes = self::frame(*stream, *kind, payload);
        if client.outgoing.len() + bytes.len() <= BUFFER_MOST {
            client.outgoing.extend(bytes);
            return;
        }
        let why = "the agent in the guest has sent more than it was allowed \
                   to: it is broken or hostile";
        client.close(Failure::Protocol, why);
    }

    fn close_all(&mut self, failure: Failure, why: &str) {
        for client in &mut self.clients {
            client.close(failure, why);
        }
    }

    /// Moves frames of clients to the Guest, one of each client in turn, as far
    /// as there is room.
    fn collect(&mut self) {
        let channel = Arc::clone(&self.shared.channel);
        while let Some(bytes) = self.first.front() {
            if !channel.put_to_guest(bytes) {
                return;
            }
            self.first.pop_front();
        }
        for client in &mut self.clients {
            client.receive();
        }
        let count = self.clients.len();
        let mut idle = 0;
        while idle < count && channel.has_room_to_guest() {
            let at = self.turn % count;
            self.turn = at + 1;
            let client = &mut self.clients[at];
            match client.next_frame() {
                Some(bytes) => {
                    idle = 0;
                    // There is room: nothing else puts frames there.
                    channel.put_to_guest(&bytes);
                    client.receive();
                }
                None => idle += 1,
            }
        }
    }

    /// Tells the agent of clients that are gone.
    fn tell_of_gone(&mut self) {
        for client in &mut self.clients {
            if client.state != State::Gone {
                continue;
            }
            if let Some(ends) = client.ends.take() {
                ends();
            }
            let bytes = bytes_of(client.number, &Command::HangUp);
            if self.shared.channel.put_to_guest(&bytes) {
                self.shared.channel.end_stream(client.number);
                client.state = State::Told;
            }
        }
    }
}

impl Client {
    /// Whether something may still go through its socket.
    fn has_socket(&self) -> bool {
        matches!(self.state, State::Open | State::Closing)
    }

    fn flags(&self, room: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        if self.state == State::Open && room && !self.has_frame() {
            flags |= PollFlags::IN;
        }
        if !self.outgoing.is_empty() {
            flags |= PollFlags::OUT;
        }
        flags
    }

    /// Tells it that its stream ends.
    fn close(&mut self, failure: Failure, why: &str) {
        if self.state != State::Open {
            return;
        }
        self.state = State::Closing;
        let text = printable(why.as_bytes());
        let report = Report::Failed(Failed { failure, text });
        let mut bytes = Vec::new();
        // The text is short.
        let _ = report.put(self.number, &mut bytes);
        self.outgoing.extend(bytes);
    }

    /// Sends what it takes at once.
    fn flush(&mut self) {
        while self.has_socket() && !self.outgoing.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let (bytes, _) = self.outgoing.as_slices();
            match send(&self.socket, bytes, flags) {
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.state = State::Gone,
            }
        }
        if self.state == State::Closing {
            self.state = State::Gone;
        }
    }

    /// Receives what it has sent, unless a whole frame is there already.
    fn receive(&mut self) {
        while self.state == State::Open && !self.has_frame() {
            let mut bytes = [0; READ_MOST];
            match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.state = State::Gone,
                Ok((n, _)) => self.incoming.extend_from_slice(&bytes[..n]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.state = State::Gone,
            }
        }
    }

    /// The length of the frame that begins what it has sent. `None`: it is not
    /// known yet.
    fn frame_len(&self) -> Option<usize> {
        let len = self.incoming.first_chunk::<4>()?;
        let len = usize::try_from(u32::from_le_bytes(*len));
        Some(len.unwrap_or(usize::MAX).saturating_add(HEADER))
    }

    fn has_frame(&self) -> bool {
        // A frame that is too long is found at once.
        let most = HEADER + FRAME_MOST;
        let whole = |len: usize| len > most || self.incoming.len() >= len;
        self.frame_len().is_some_and(whole)
    }

    /// Takes the next frame that it has sent, with its stream written over.
    fn next_frame(&mut self) -> Option<Vec<u8>> {
        if self.state != State::Open || !self.has_frame() {
            return None;
        }
        let len = self.frame_len()?;
        if len > HEADER + FRAME_MOST {
            let why = "this client has sent a frame that is too long";
            self.close(Failure::Protocol, why);
            return None;
        }
        let mut bytes: Vec<u8> = self.incoming.drain(..len).collect();
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        Some(bytes)
    }
}

/// A command as a frame.
fn bytes_of(stream: u32, command: &Command<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // It is short.
    let _ = command.put(stream, &mut bytes);
    bytes
}

/// What an agent is told whose machine goes on from a snapshot.
fn restored() -> io::Result<Command<'static>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    Ok(Command::Restored(Restored {
        seconds: now.as_secs().cast_signed(),
        nanoseconds: now.subsec_nanos(),
        random: random::<RANDOM>()?.into(),
    }))
}

#[cfg(test)]
mod tests;
