//! A share: a folder of this machine that a Guest mounts by 9P.
//!
//! A process of its own serves the folder, the *share server*. The Launcher
//! starts it before it confines itself. The server confines itself to the
//! folder ([`walls`]), because it acts on what the Guest says. So it counts as
//! the Guest: a fault in it harms neither the Launcher nor another folder. It
//! has the Guest's memory, because bytes of files go there without a copy.
//!
//! The Launcher tells the server where a request is ([`wire`]), and the server
//! tells how many bytes the answer has. It never tells more than that, and it
//! is not believed more than that. If it ends, the Guest gets errors for an
//! answer, and everything else goes on.

pub mod server;

mod error;
pub use error::ShareError;

mod process;
#[cfg(test)]
pub(crate) use process::Killer;

mod walls;

mod wire;

use super::{Counter, NamedCounts, RestoreError, Saved, Versioned};
use crate::engine::printable;
use crate::machine::config::ShareConfig;
use crate::machine::terminal;
use crate::memory::{GuestMemory, Section};
use crate::needs::{self, Lack};
use process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use wire::{MOST_SESSION, PIECE};

/// The most bytes of a tag.
pub const LONGEST_TAG: usize = 31;

/// Whether a share can have this tag.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=LONGEST_TAG).contains(&tag.len()) && tag.chars().all(is_plain)
}

/// How long an answer is waited for, before a state is taken. The disk under
/// the folder may take some time.
const SILENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// How long the answers to a Guest are waited for that resets its driver. It
/// stands still meanwhile, and the thread that serves it does nothing else.
const RESET: Duration = Duration::from_secs(2);

/// How long a Guest stands still for an answer ...
const MOMENT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000,
};

/// ... and for how many requests it does not after one that took longer.
const BACK_OFF: u32 = 64;

/// A folder, and the process that serves it.
pub struct Share {
    tag: String,
    read_only: bool,
    /// `None` when the server has ended.
    /// Before the process, whose drop waits until it has ended.
    socket: Option<OwnedFd>,
    /// An epoll that is readable when the socket is, as far as that is
    /// `watched`. Another thread has a copy of it, which does not keep the
    /// socket open.
    input: OwnedFd,
    watched: bool,
    /// A line about each wall around the server.
    walls: String,
    process: Process,
    /// Why there is no whole state of it.
    obstacle: Option<String>,
    requests: Counter,
    /// Answers while the Guest stood still.
    at_once: Counter,
    errors: Counter,
    /// How many answers are not waited for: see [`BACK_OFF`].
    back_off: u32,
    /// [`MOMENT`], but in tests. `None`: answers are never waited for.
    moment: Option<Timespec>,
    /// How many requests the socket takes before it is full once.
    #[cfg(test)]
    room: Option<u32>,
}

/// What has come from the server.
pub enum Received {
    /// It has answered the request with this number by so many bytes.
    Answer(u64, u32),
    /// Nothing.
    Nothing,
    /// It has ended.
    Ended,
}

/// The state of a share. What a Guest has open is known to the server alone,
/// which tells it as a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareState {
    tag: String,
    read_only: bool,
    /// `None` where the server did not tell it.
    session: Option<String>,
}

impl Saved for ShareState {
    const DEVICE: &'static str = "share";
    const VERSION: u32 = 2;
}

impl Share {
    /// Opens the folder, and starts its server without the walls `open`.
    ///
    /// # Errors
    ///
    /// [`ShareError`].
    pub fn start(config: &ShareConfig, open: u32) -> Result<Self, ShareError> {
        needs::refused_for_a_share().map_or(Ok(()), Err)?;
        let folder = open_folder(config)?;
        let read_only = config.read_only;
        let (process, socket, walls) = process::start(folder, read_only, open)?;
        let input = watch(&socket)
            .map_err(|error| Lack::when("watch a share", error))?;
        Ok(Self {
            tag: config.tag.clone(),
            read_only,
            socket: Some(socket),
            input,
            watched: true,
            walls,
            process,
            obstacle: None,
            requests: Counter::default(),
            at_once: Counter::default(),
            errors: Counter::default(),
            back_off: 0,
            moment: Some(MOMENT),
            #[cfg(test)]
            room: None,
        })
    }

    /// Lets the Guest run on with each request: the slow way, for comparison.
    pub fn never_at_once(&mut self) {
        self.moment = None;
    }

    /// The name by which the Guest mounts it.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Whether the Guest may only read it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// A line about each wall around its server.
    pub fn walls(&self) -> impl Iterator<Item = &str> {
        self.walls.lines()
    }

    /// Gives the server the Guest's memory.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn connect(&mut self, memory: &GuestMemory) -> io::Result<()> {
        match &self.socket {
            Some(socket) => wire::send_memory(socket.as_fd(), memory),
            None => Ok(()),
        }
    }

    /// Hands request `number` to the server. Does not block. Returns whether
    /// the server will answer; a server that has ended does not.
    ///
    /// # Errors
    ///
    /// `WouldBlock`: try again after the next answer.
    pub fn ask(
        &mut self,
        number: u64,
        readable: &[Section],
        writable: &[Section],
    ) -> io::Result<bool> {
        #[cfg(test)]
        if let Some(room) = self.room {
            self.room = room.checked_sub(1);
            if room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let Some(socket) = &self.socket else {
            return Ok(false);
        };
        match wire::send_request(socket.as_fd(), number, readable, writable) {
            Ok(()) => {
                self.requests.add(1);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(_) => {
                self.end();
                Ok(false)
            }
        }
    }

    /// The next answer. Does not block.
    pub fn receive(&mut self) -> Received {
        let Some(socket) = &self.socket else {
            return Received::Ended;
        };
        match wire::receive_answer(socket.as_fd()) {
            Ok(Some((number, bytes))) => Received::Answer(number, bytes),
            Ok(None) => Received::Nothing,
            Err(_) => {
                self.end();
                Received::Ended
            }
        }
    }

    /// Waits until there may be an answer. A server that has none for a long
    /// time is ended.
    pub fn wait(&mut self) {
        self.wait_at_most(SILENCE);
    }

    fn wait_at_most(&mut self, most: Timespec) {
        if !self.comes_within(most) {
            self.end();
        }
    }

    /// The driver is reset, until when answers are waited for
    /// ([`Self::wait_until`]). They do not make [`Self::input`] readable
    /// meanwhile: the thread that watches it has other duties, and would wait
    /// for this one.
    pub fn begin_reset(&mut self) -> Instant {
        self.set_watched(false);
        Instant::now() + RESET
    }

    /// Waits until there may be an answer, or until `end`. Then a server that
    /// has none is killed: it writes answers into the Guest's memory.
    pub fn wait_until(&mut self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        // Less than `RESET`, which fits.
        let left = Timespec::try_from(left).unwrap_or(MOMENT);
        if !self.comes_within(left) {
            self.process.kill();
            self.end();
        }
    }

    /// Waits for an answer so long. Returns whether to look for one.
    fn comes_within(&self, most: Timespec) -> bool {
        let Some(socket) = &self.socket else {
            return true;
        };
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        // An error means the same as an answer: look.
        poll(&mut fds, Some(&most)) != Ok(0)
    }

    /// The Guest stands still, and the server has one request. Waits a moment
    /// for the answer: most come sooner than the Guest could go to sleep and be
    /// woken again. Returns whether to look for it. If not, [`Self::watch`]
    /// follows.
    pub fn wait_a_moment(&mut self) -> bool {
        let Some(moment) = self.moment else {
            return false;
        };
        if self.back_off > 0 {
            self.back_off -= 1;
            return false;
        }
        self.set_watched(false);
        let came = self.comes_within(moment);
        if came {
            self.at_once.add(1);
        } else {
            self.back_off = BACK_OFF;
        }
        came
    }

    /// Answers are to make [`Self::input`] readable.
    pub fn watch(&mut self) {
        self.set_watched(true);
    }

    fn set_watched(&mut self, watched: bool) {
        let Some(socket) = &self.socket else { return };
        if self.watched != watched {
            // The end of the server is reported in any case.
            let events = match watched {
                true => epoll::EventFlags::IN,
                false => epoll::EventFlags::empty(),
            };
            let none = epoll::EventData::new_u64(0);
            let set = epoll::modify(&self.input, socket, none, events);
            set.expect("the socket is in it");
            self.watched = watched;
        }
    }

    /// The Guest gets an error for an answer.
    pub fn count_error(&mut self) {
        self.errors.add(1);
    }

    /// Ends the server, because the user has taken the share away.
    pub fn close(&mut self) {
        if self.socket.take().is_some() {
            let _ = self.process.how_it_ended();
        }
    }

    /// The server has ended, or says what it cannot mean.
    pub fn end(&mut self) {
        // Without its socket it ends, if it has not yet.
        if self.socket.take().is_some() {
            let how = self.process.how_it_ended();
            let tag = &self.tag;
            terminal::tell_or_lose(&format!(
                "share {tag}: its server has ended ({how}): the guest goes on, \
                 and gets errors there"
            ));
        }
    }

    /// Readable when there is an answer, and nothing else waits for it.
    #[must_use]
    pub fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Sets how long a Guest stands still for an answer.
    #[cfg(test)]
    pub(crate) fn set_moment(&mut self, moment: Timespec) {
        self.moment = Some(moment);
    }

    /// After so many requests the socket has no room, once.
    #[cfg(test)]
    pub(crate) fn set_room(&mut self, requests: u32) {
        self.room = Some(requests);
    }

    /// What kills the server.
    #[cfg(test)]
    pub(crate) fn killer(&self) -> Killer {
        self.process.killer()
    }

    /// The Guest is dead: ends the server. What was written is in the files.
    pub fn finish(&mut self) {
        self.socket = None;
        let _ = self.process.wait_for_the_end();
    }

    /// What the share has done so far, for the statistics.
    #[must_use]
    pub fn counters(&self) -> NamedCounts {
        vec![
            ("requests", self.requests.get()),
            ("at_once", self.at_once.get()),
            ("errors", self.errors.get()),
        ]
    }

    /// The state. No request may be in progress.
    #[must_use]
    pub fn state(&mut self) -> Versioned<ShareState> {
        let told = self.session();
        self.obstacle = told.as_ref().err().map(|why| self.about(why));
        ShareState {
            tag: self.tag.clone(),
            read_only: self.read_only,
            session: told.ok(),
        }
        .versioned()
    }

    /// Why the last [`Self::state`] is not whole.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        self.obstacle.clone()
    }

    /// Asks the server what the Guest has open. A server that was taken over
    /// may answer anything: all pieces but the last have the same size, and
    /// their number has a bound.
    fn session(&mut self) -> Result<String, String> {
        let mut all = Vec::new();
        loop {
            let from = all.len() as u64;
            let (whole, piece, failed) =
                self.converse(|socket| wire::ask_session(socket, from))?;
            all.extend_from_slice(&piece);
            let told = all.len() as u64;
            if told == whole && whole <= MOST_SESSION as u64 {
                let text = String::from_utf8_lossy(&all).into_owned();
                return if failed { Err(text) } else { Ok(text) };
            }
            if piece.len() < PIECE || told >= whole.min(MOST_SESSION as u64) {
                return Err("what its guest has open is too much".into());
            }
        }
    }

    /// Has `say` send something about a session, and waits for the answer.
    fn converse(
        &mut self,
        say: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<(u64, Vec<u8>, bool), String> {
        let gone = || "its server has ended".to_owned();
        let socket = self.socket.as_ref().ok_or_else(gone)?;
        if say(socket.as_fd()).is_ok() {
            self.wait();
        }
        let socket = self.socket.as_ref().ok_or_else(gone)?;
        let told = wire::receive_told(socket.as_fd());
        told.map_err(|_| {
            self.end();
            gone()
        })
    }

    /// Goes on with `state`, which was taken of a share with this tag.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    pub fn restore(
        &mut self,
        state: &Versioned<ShareState>,
    ) -> Result<(), RestoreError> {
        let state = state.known()?;
        if (&state.tag, state.read_only) != (&self.tag, self.read_only) {
            let text = format!("it is of the share {}", state.tag);
            return Err(RestoreError::Other(text));
        }
        let session = state.session.as_deref();
        let session = session.ok_or_else(|| "it is not whole".to_owned());
        let given = session.and_then(|session| self.give(session));
        given.map_err(|why| RestoreError::Other(self.about(&why)))
    }

    /// Gives the server a session to go on with.
    fn give(&mut self, session: &str) -> Result<(), String> {
        if session.len() > MOST_SESSION {
            return Err("it is too long".into());
        }
        let say = |socket: BorrowedFd<'_>| {
            wire::give_session(socket, session.as_bytes())
        };
        match self.converse(say)? {
            (_, _, false) => Ok(()),
            (_, why, true) => Err(String::from_utf8_lossy(&why).into_owned()),
        }
    }

    /// Says which share `why` is about. It may be the server's own text.
    fn about(&self, why: &str) -> String {
        format!("the share {}: {}", self.tag, printable(why.as_bytes()))
    }
}

fn watch(socket: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let none = epoll::EventData::new_u64(0);
    epoll::add(&watch, socket, none, epoll::EventFlags::IN)?;
    Ok(watch)
}

fn open_folder(config: &ShareConfig) -> Result<OwnedFd, ShareError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&config.path, flags, Mode::empty());
    let folder = opened.map_err(|error| match error {
        Errno::NOTDIR => ShareError::NotAFolder,
        Errno::NOENT => ShareError::Missing,
        Errno::ACCESS => ShareError::Unreadable,
        error => ShareError::Open(error.into()),
    })?;
    let may_write = rustix::fs::Access::WRITE_OK;
    let none = rustix::fs::AtFlags::empty();
    match rustix::fs::accessat(&folder, ".", may_write, none) {
        Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) if !config.read_only => {
            return Err(ShareError::Unwritable);
        }
        _ => {}
    }
    Ok(folder)
}

#[cfg(test)]
mod tests;
