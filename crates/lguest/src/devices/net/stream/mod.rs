//! `--net stream=`: frames to another process, by a stream socket.
//!
//! QEMU (`-netdev stream`), passt, gvproxy and libkrun speak this: the length
//! of a frame, then the frame. The other end is not trusted. It may send any
//! length, stop in the middle of a frame, send without end, read nothing, or
//! die. Then the link is down, frames of the Guest are lost, and the Guest goes
//! on.

use super::Backend;
use super::ethernet;
use super::offload::Offload;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

mod incoming;
pub use incoming::{BadLength, Incoming};

mod outgoing;
use outgoing::Outgoing;

mod open;
pub(super) use open::random_mac;
pub use open::{StreamError, listen_at, open};

/// A stream as a backend.
pub struct Stream {
    /// Watches the peer, or the listener while there is no peer.
    watch: OwnedFd,
    /// Watches the peer for room only, while that is awaited.
    room: OwnedFd,
    listener: Option<OwnedFd>,
    peer: Option<Peer>,
    report: Report,
}

/// Says that the link is down, for this reason.
pub(super) type Report = Box<dyn FnMut(&str) + Send>;

/// The process at the other end.
struct Peer {
    socket: OwnedFd,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Whether it is watched for room, too.
    awaits_room: bool,
    /// Why nothing more comes: the link goes down after what has come.
    ended: Option<String>,
}

impl Peer {
    /// Reads once. Returns whether there may be more, and room for it.
    fn read(&mut self) -> bool {
        if !self.reads_more() {
            return false;
        }
        let room = self.incoming.room();
        match recv(&self.socket, room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.ended = Some("it has closed the stream".to_owned());
            }
            Ok((count, _)) => self.incoming.filled(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Err(error) => self.ended = Some(error.to_string()),
        }
        true
    }

    /// Whether more can come, and there is room for it.
    fn reads_more(&self) -> bool {
        self.ended.is_none() && self.incoming.has_room()
    }
}

impl Stream {
    /// A stream whose other end is connected.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(super) fn connected(
        socket: OwnedFd,
        report: Report,
    ) -> io::Result<Self> {
        let mut stream = Self::new(None, report)?;
        stream.begin(socket)?;
        Ok(stream)
    }

    /// A stream to which one process at a time may connect. `listener` must
    /// not block.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(super) fn listening(
        listener: OwnedFd,
        report: Report,
    ) -> io::Result<Self> {
        let stream = Self::new(Some(listener), report)?;
        stream.watch_listener()?;
        Ok(stream)
    }

    /// [`Backend::input`] is readable also when `file` is.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub(super) fn watch_also(&self, file: &OwnedFd) -> io::Result<()> {
        let none = EventData::new_u64(0);
        Ok(epoll::add(&self.watch, file, none, EventFlags::IN)?)
    }

    fn new(listener: Option<OwnedFd>, report: Report) -> io::Result<Self> {
        Ok(Self {
            watch: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            room: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listener,
            peer: None,
            report,
        })
    }

    fn watch_listener(&self) -> Result<(), Errno> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        let none = EventData::new_u64(0);
        epoll::add(&self.watch, listener, none, EventFlags::IN)
    }

    /// Takes `socket` as the peer.
    fn begin(&mut self, socket: OwnedFd) -> Result<(), Errno> {
        if let Some(listener) = &self.listener {
            // Others wait until this one has gone.
            let _ = epoll::delete(&self.watch, listener);
        }
        let none = EventData::new_u64(0);
        epoll::add(&self.watch, &socket, none, EventFlags::IN)?;
        self.peer = Some(Peer {
            socket,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            awaits_room: false,
            ended: None,
        });
        Ok(())
    }

    /// The peer, after another one was let in if there was none.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if one may come, `ResourceBusy` if one waits and cannot be
    /// let in yet, `NotConnected` if none will come.
    fn peer(&mut self) -> io::Result<&mut Peer> {
        if self.peer.is_none() {
            let none = io::ErrorKind::NotConnected;
            let listener = self.listener.as_ref().ok_or(none)?;
            match accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(socket) => self.begin(socket)?,
                // The one that came has gone again.
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                // The machine is short of descriptors or of memory, and the
                // listener stays readable.
                Err(_) => return Err(io::ErrorKind::ResourceBusy.into()),
            }
        }
        let none = io::ErrorKind::NotConnected;
        self.peer.as_mut().ok_or(none.into())
    }

    /// The link goes down.
    fn lose(&mut self, reason: &str) -> io::Error {
        let Some(peer) = self.peer.take() else {
            return io::ErrorKind::NotConnected.into();
        };
        // Another process may hold the socket, too: closing it is not enough.
        let _ = epoll::delete(&self.watch, &peer.socket);
        let _ = epoll::delete(&self.room, &peer.socket);
        drop(peer);
        (self.report)(reason);
        if self.listener.is_none() {
            return io::ErrorKind::NotConnected.into();
        }
        let _ = self.watch_listener();
        io::ErrorKind::WouldBlock.into()
    }

    /// Adds the next frame to `to`; nothing, if it is too short for one. Reads
    /// once at most.
    fn next(&mut self, to: &mut Vec<u8>) -> io::Result<()> {
        let peer = self.peer()?;
        let mut may_read = true;
        loop {
            match peer.incoming.next() {
                Ok(Some(frame)) if frame.len() < ethernet::HEADER => {
                    return Ok(());
                }
                Ok(Some(frame)) => {
                    to.extend_from_slice(frame);
                    return Ok(());
                }
                Ok(None) => {}
                Err(bad) => return Err(self.lose(&bad.to_string())),
            }
            if let Some(reason) = peer.ended.take() {
                return Err(self.lose(&reason));
            }
            if !may_read || !peer.read() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            may_read = false;
        }
    }
}

impl Backend for Stream {
    fn send(&mut self, frame: &[u8], _: Offload) -> io::Result<()> {
        let none = io::ErrorKind::NotConnected;
        let peer = self.peer.as_mut().ok_or(none)?;
        if peer.outgoing.waiting() > outgoing::BATCH {
            self.flush();
        }
        let peer = self.peer.as_mut().ok_or(none)?;
        match peer.outgoing.push(frame) {
            true => Ok(()),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) {
        let Some(peer) = &mut self.peer else {
            return;
        };
        if let Err(error) = peer.outgoing.flush(&peer.socket) {
            self.lose(&error.to_string());
            return;
        }
        let awaits_room = peer.outgoing.waiting() > 0;
        if awaits_room == peer.awaits_room {
            return;
        }
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::OUT, awaits_room);
        let none = EventData::new_u64(0);
        let room = match awaits_room {
            true => epoll::add(&self.room, &peer.socket, none, EventFlags::OUT),
            false => epoll::delete(&self.room, &peer.socket),
        };
        if room.is_ok()
            && epoll::modify(&self.watch, &peer.socket, none, flags).is_ok()
        {
            peer.awaits_room = awaits_room;
        }
    }

    fn room(&self) -> Option<BorrowedFd<'_>> {
        Some(self.room.as_fd())
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> io::Result<Offload> {
        self.next(frame)?;
        Ok(Offload::default())
    }

    fn read_ahead(&mut self) {
        while self.peer.as_mut().is_some_and(Peer::read) {}
    }

    fn reads_more(&self) -> bool {
        self.peer.as_ref().is_some_and(Peer::reads_more)
    }

    fn input(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    fn finish(&mut self) {
        self.peer = None;
        self.listener = None;
    }
}

/// An interface on `socket`, for tests and the fuzzer.
///
/// # Errors
///
/// The error of the kernel.
#[cfg(any(test, fuzzing))]
pub fn on_socket(socket: OwnedFd) -> io::Result<super::Nic> {
    let stream = Stream::connected(socket, Box::new(|_| {}))?;
    Ok(super::Nic::new(Box::new(stream), [2; 6]))
}

#[cfg(test)]
mod tests;
