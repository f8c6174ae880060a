//! Entries for the fuzzer: a peer, and a LAN device without threads.
//!
//! Without threads, the fuzzer decides what the device receives and when. Both
//! exist with `--cfg fuzzing` only.

use super::super::dma::DmaSections;
use super::Lan;
use super::arrivals::Arrivals;
use super::counters::LanCounters;
use super::links::Links;
use super::messages::{Hello, Welcome};
use super::peer::Peer;
use super::port::{Port, SharedPort};
use super::porter::{Connection, Porter, receive_here};
use super::shared::Shared;
use crate::devices::Violation;
use crate::engine::Binding;
use crate::engine::Requests;
use crate::memory::{GuestMemory, SealedMemory};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Physical address of the network's page in the receiver's memory.
pub const PAGE: u32 = 0x3000;

/// A sender's view of a receiver.
pub struct Link {
    peer: Peer,
    port: Port,
    counters: LanCounters,
    sender: GuestMemory,
}

impl Link {
    /// Frames go from one memory into the other.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn new(from: &GuestMemory, to: &GuestMemory) -> io::Result<Self> {
        let port = Port::create().map_err(io::Error::other)?;
        let shared = SharedPort::open(port.file()).map_err(io::Error::other)?;
        let memory = SealedMemory::open(to.file()).map_err(io::Error::other)?;
        let (ours, _) = pair()?;
        let ours = Connection::new(ours, &Arc::new(Porter::start()?));
        Ok(Self {
            peer: Peer::new(1, memory, shared, 7, ours),
            port,
            counters: LanCounters::default(),
            sender: from.clone(),
        })
    }

    /// The page of the port, to be overwritten.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn port(&self) -> io::Result<File> {
        Ok(self.port.file().try_clone_to_owned()?.into())
    }

    /// The owner shows what its Guest has bound.
    pub fn show(&self, bindings: &[Binding]) {
        self.port.show(PAGE, bindings);
    }

    /// The interrupts that the owner raises for what has arrived.
    #[must_use]
    pub fn arrived(&self) -> Vec<u8> {
        self.port.arrived().collect()
    }

    /// The sender's Guest sends its `lguest_dma` at `dma` to the key at
    /// `offset`. Returns the bytes that were taken, if there was a good list
    /// and a binding.
    #[must_use]
    pub fn send(&self, dma: u32, offset: u32) -> Option<u32> {
        let from = DmaSections::read(self.sender.region(), dma).ok()?;
        let index = self.peer.find(offset)?;
        Some(
            self.peer
                .take(index, offset, from.sections(), &self.counters),
        )
    }

    /// The buffer that was reported last as breaking the rules.
    #[must_use]
    pub fn reported(&self) -> Option<u32> {
        self.port.blamed()
    }
}

/// A LAN device without threads: its caller does their work.
pub struct Station {
    links: Links,
    shared: Arc<Shared>,
    lan: Lan,
}

impl Station {
    /// Joins the LAN of `file`, with the network's page at `page`.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
    pub fn join(
        file: &Path,
        guest: Arc<dyn Requests>,
        page: u32,
    ) -> io::Result<Self> {
        let mut lan = Lan::join(file).map_err(io::Error::other)?;
        lan.always_open();
        let (shared, links) = lan.prepare(guest, page)?;
        Ok(Self { links, shared, lan })
    }

    /// Our slot in the page.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.lan.slot()
    }

    /// Serves all connections that have an event.
    pub fn hear(&mut self) {
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        self.links.serve(Some(&now));
        // Once more for the messages that the porter has received.
        self.links.serve(Some(&now));
    }

    /// The Guest's bindings are now what the Host says.
    pub fn bindings_changed(&self) {
        let shared = &self.shared;
        let now = shared.guest().bindings_in(shared.page());
        shared.show(&now);
    }

    /// Fetches what others have posted.
    pub fn fetch(&self) {
        let inboxes = self.shared.inboxes();
        let _ = Arrivals::new(&self.shared).fetch_all(&inboxes);
    }

    /// Raises the interrupts of what has arrived.
    pub fn deliver(&self) {
        self.shared.deliver();
    }

    /// The Guest sends; see [`Lan::send`].
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub fn send(&self, dma: u32, key: u32) -> Result<u32, Violation> {
        self.shared.send(dma, key)
    }
}

/// Two sockets of the kind by which Launchers meet.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

/// Receives a message of a foreign process. Returns whether it is a message of
/// the kind that is expected.
///
/// # Errors
///
/// What the kernel says to our own end.
pub fn receive(message: &[u8], kind: u8) -> io::Result<bool> {
    let (ours, theirs) = pair()?;
    rustix::net::send(&theirs, message, rustix::net::SendFlags::NOSIGNAL)?;
    let ours = ours.as_fd();
    Ok(match kind % 2 {
        0 => receive_here::<Hello>(ours).is_ok_and(|m| m.is_some()),
        _ => receive_here::<Welcome>(ours).is_ok_and(|m| m.is_some()),
    })
}
