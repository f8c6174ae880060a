//! The thread that keeps the connections to the other Launchers of a LAN.
//!
//! It listens at a socket beside the file, answers Launchers that connect,
//! connects to those that have just started, and notices the end of each. It
//! sleeps unless one of these happens: frames do not pass through it. The
//! porter receives the messages ([`super::porter`]); this thread watches a
//! connection only for the first message, and then for the end.
//!
//! A connection works in one direction: the Launcher that made it may send to
//! the Launcher that accepted it. A new Launcher connects to the holder of
//! each slot, and each holder connects back. A Launcher to which a holder has
//! connected back does not connect again, so this ends.

use super::inbox::Inbox;
use super::messages::{Hello, Welcome};
use super::peer::Peer;
use super::port::{OWNER, SharedPort, Ticket};
use super::porter::{Connection, Porter, Received};
use super::rendezvous::{self, Listener, Rendezvous};
use super::shared::Shared;
use super::slots::Slots;
use crate::machine::terminal;
use crate::memory::SealedMemory;
use lg_abi::device::NET_SLOTS;
use rustix::event::{EventfdFlags, Timespec, epoll};
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a slot is checked before it counts as in use again, and the pause
/// between two checks. The kernel reports the end of a connection before it
/// drops the locks of the same process. On a busy machine, a process that ends
/// may have no processor between the two.
const REAP_TIME: Duration = Duration::from_secs(1);
const REAP_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 2_000_000,
};

/// How long no connection is accepted when there are no descriptors left.
const ACCEPT_PAUSE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The source of an event: one of these three, or a link.
const QUIT: u64 = 0;
const LISTENER: u64 = 1;
const PORTER: u64 = 2;
const FIRST_LINK: u64 = 3;

/// How many connections are accepted before other events are looked at.
const AT_ONCE: u32 = 16;

/// How many connections may be open without a [`Hello`]. With one more, the
/// oldest of them is closed.
const MOST_SILENT: usize = 64;

/// A connection.
enum Link {
    /// A Launcher that has connected. It may send to us after its [`Hello`].
    Sender {
        socket: Connection,
        ticket: Ticket,
        met: bool,
        /// Where it posts to us.
        inbox: Option<Arc<Inbox>>,
    },
    /// We have connected to this slot, and there is no answer yet.
    Called { socket: Connection, slot: u32 },
    /// A Launcher that we may send to.
    Receiver(Arc<Peer>),
}

impl Link {
    fn socket(&self) -> &Connection {
        match self {
            Self::Sender { socket, .. } | Self::Called { socket, .. } => socket,
            Self::Receiver(peer) => peer.socket(),
        }
    }

    /// Whether its first message is still to come.
    fn is_silent(&self) -> bool {
        matches!(self, Self::Sender { met: false, .. } | Self::Called { .. })
    }
}

/// Ends [`Links::run`] from another thread.
pub(super) struct Quit {
    event: OwnedFd,
    asked: AtomicBool,
}

impl Quit {
    fn new() -> io::Result<Self> {
        Ok(Self {
            event: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
            asked: AtomicBool::new(false),
        })
    }

    /// Asks the thread to end.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        // An eventfd of our own takes a 1.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// All connections of one LAN device.
pub(super) struct Links {
    shared: Arc<Shared>,
    slots: Arc<Slots>,
    meet: Arc<Rendezvous>,
    listener: Arc<Listener>,
    porter: Arc<Porter>,
    quit: Arc<Quit>,
    epoll: OwnedFd,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    next_ticket: Ticket,
    /// Slots whose Launcher has gone, and until when they are checked.
    reap: Vec<(u32, Instant)>,
    /// No connection is accepted for a while.
    full: bool,
}

impl Links {
    /// Connects to the holder of each slot.
    pub(super) fn new(
        shared: Arc<Shared>,
        slots: Arc<Slots>,
        meet: Arc<Rendezvous>,
        listener: Arc<Listener>,
        porter: Arc<Porter>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut links = Self {
            shared,
            slots,
            meet,
            listener,
            porter,
            quit: Arc::new(Quit::new()?),
            epoll,
            links: BTreeMap::new(),
            next_link: FIRST_LINK,
            next_ticket: OWNER + 1,
            reap: Vec::new(),
            full: false,
        };
        links.watch(links.quit.event.as_fd(), QUIT)?;
        links.watch(links.listener.socket.as_fd(), LISTENER)?;
        links.watch(links.porter.answers(), PORTER)?;
        for slot in links.slots.held()? {
            links.call(slot, true);
        }
        Ok(links)
    }

    /// What ends [`Self::run`].
    pub(super) fn quit(&self) -> Arc<Quit> {
        Arc::clone(&self.quit)
    }

    /// Serves all connections. Blocks until it is told to quit.
    pub(super) fn run(mut self) {
        while !self.quit.asked.load(Ordering::SeqCst) {
            let pause = match (self.reap.is_empty(), self.full) {
                (false, _) => Some(&REAP_PAUSE),
                (true, true) => Some(&ACCEPT_PAUSE),
                (true, false) => None,
            };
            self.serve(pause);
        }
    }

    /// Waits for events, for `pause` at most, and serves them.
    pub(super) fn serve(&mut self, pause: Option<&Timespec>) {
        let mut space = [MaybeUninit::uninit(); 16];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut space, pause)
        else {
            return; // interrupted
        };
        for event in events {
            match event.data.u64() {
                QUIT => {}
                LISTENER => self.accept_some(),
                PORTER => self.receive_from_porter(),
                link => self.on_event(link, event.flags),
            }
        }
        self.look_after();
    }

    /// Accepts some of the connections that wait.
    fn accept_some(&mut self) {
        for _ in 0..AT_ONCE {
            let listener = self.listener.socket.as_fd();
            match rendezvous::accept(listener, &self.porter) {
                Ok(None) => return,
                Ok(Some(socket)) => {
                    let ticket = self.next_ticket;
                    self.next_ticket = ticket.wrapping_add(1).max(OWNER + 1);
                    self.add(Link::Sender {
                        socket,
                        ticket,
                        met: false,
                        inbox: None,
                    });
                    self.drop_silent();
                }
                Err(_) => {
                    // No descriptors or no memory: to try again at once
                    // would only take processor time.
                    let listener = self.listener.socket.as_fd();
                    let _ = epoll::delete(&self.epoll, listener);
                    self.full = true;
                    return;
                }
            }
        }
    }

    /// Closes the oldest connection without a [`Hello`], if there are too many
    /// of them.
    fn drop_silent(&mut self) {
        let silent = |(id, link): (&u64, &Link)| {
            let waits = matches!(link, Link::Sender { met: false, .. });
            waits.then_some(*id)
        };
        let silent: Vec<u64> = self.links.iter().filter_map(silent).collect();
        if silent.len() > MOST_SILENT {
            self.part(silent[0]);
        }
    }

    /// Link `id` has an event: a message, or its end.
    fn on_event(&mut self, id: u64, flags: epoll::EventFlags) {
        let ended = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        let Some(link) = self.links.get(&id) else {
            return;
        };
        let goes_on = !flags.intersects(ended)
            && link.is_silent()
            && self.porter.ask(id, link.socket()).is_ok()
            // Until the porter answers, only the link's end is an event.
            && self.listen_to(id, epoll::EventFlags::empty()).is_ok();
        if !goes_on {
            self.part(id);
        }
    }

    /// Helpers of the porter have received messages of links.
    fn receive_from_porter(&mut self) {
        for _ in 0..AT_ONCE {
            match self.porter.answer() {
                Ok(None) => return,
                Ok(Some((id, received))) => self.receive(id, received),
                Err(_) => {
                    let _ = epoll::delete(&self.epoll, self.porter.answers());
                    self.report_the_porters_end();
                    return;
                }
            }
        }
    }

    /// Reports that the porter was killed: there will be no new links.
    fn report_the_porters_end(&self) {
        terminal::tell(&format!(
            "network {}: the process lguest-porter was killed from outside, or \
             because the machine had too little memory: this guest keeps its \
             connections to other guests, and gets no new ones; to meet \
             others, end it and start it again",
            self.slots.path().display()
        ));
    }

    /// Link `id` has sent this. The link may be gone by now.
    fn receive(&mut self, id: u64, received: Received) {
        let done = match (self.links.get(&id), received) {
            (None, _) => return,
            (Some(_), Received::Nothing) => {
                self.listen_to(id, epoll::EventFlags::IN)
            }
            (Some(Link::Sender { met: false, .. }), message) => {
                self.greet(id, message)
            }
            (Some(Link::Called { .. }), message) => self.join(id, message),
            (Some(_), _) => Err(io::ErrorKind::InvalidData.into()),
        };
        if done.is_err() {
            self.part(id);
        }
    }

    /// A Launcher has sent its [`Hello`]: gives it what it needs to send to us.
    fn greet(&mut self, id: u64, message: Received) -> io::Result<()> {
        let Some(Link::Sender {
            socket,
            ticket,
            met,
            inbox,
        }) = self.links.get_mut(&id)
        else {
            return Ok(());
        };
        let (hello, given) =
            message.parse::<Hello>().ok_or(io::ErrorKind::InvalidData)?;
        let (dev, inode) = self.slots.identity()?;
        if hello.file != [dev, inode] || hello.slot >= NET_SLOTS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let files = [self.shared.memory_file(), self.shared.port().file()];
        let welcome = Welcome::new(*ticket, self.shared.page());
        rendezvous::send(socket.as_fd(), &welcome, &files)?;
        *met = true;
        *inbox = given.first().and_then(|f| self.shared.add_inbox(f));
        if hello.call_back == 1 && hello.slot != self.slots.mine() {
            self.call(hello.slot, false);
        }
        Ok(())
    }

    /// A Launcher that we have connected to answers: now we may send to it.
    fn join(&mut self, id: u64, message: Received) -> io::Result<()> {
        let Some(&Link::Called { slot, .. }) = self.links.get(&id) else {
            return Ok(());
        };
        let (welcome, files) = message
            .parse::<Welcome>()
            .ok_or(io::ErrorKind::InvalidData)?;
        let files = <[OwnedFd; 2]>::try_from(files);
        let [memory, port] = files.map_err(|_| io::ErrorKind::InvalidData)?;
        if self.shared.is_ours(&memory)? {
            // Another device of our own Guest. A Guest never gets its own
            // frames.
            return Err(io::ErrorKind::InvalidData.into());
        }
        let memory = SealedMemory::open(memory.as_fd()).map_err(invalid)?;
        memory
            .share_page(welcome.page, self.slots.page())
            .map_err(invalid)?;
        let port = SharedPort::open(port.as_fd()).map_err(invalid)?;
        // The Launcher that was in that slot before has ended.
        let old: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| {
                matches!(link, Link::Receiver(peer) if peer.slot() == slot)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.forget(id);
        }
        let Some(Link::Called { socket, .. }) = self.links.remove(&id) else {
            return Ok(());
        };
        let peer =
            Arc::new(Peer::new(slot, memory, port, welcome.ticket, socket));
        self.shared.add_peer(Arc::clone(&peer));
        self.links.insert(id, Link::Receiver(peer));
        Ok(())
    }

    /// Link `id` has ended.
    fn part(&mut self, id: u64) {
        match self.forget(id) {
            Some(Link::Sender { ticket, inbox, .. }) => {
                self.shared.port().revoke(ticket);
                self.shared.deliver_all();
                if let Some(inbox) = inbox {
                    self.leave(&inbox);
                }
            }
            Some(Link::Receiver(peer)) => {
                if !self.may_send_to(peer.slot()) {
                    self.shared.outbox().close(peer.slot());
                }
                self.reap_soon(peer.slot());
            }
            Some(Link::Called { slot, .. }) => {
                self.reap_soon(slot);
            }
            None => {}
        }
    }

    /// The Launcher in `slot` seems to have gone.
    fn reap_soon(&mut self, slot: u32) {
        self.reap.retain(|(other, _)| *other != slot);
        self.reap.push((slot, Instant::now() + REAP_TIME));
    }

    /// A link has ended. If no other has this `inbox`, its sender has gone.
    fn leave(&self, inbox: &Arc<Inbox>) {
        let by = |link: &Link| match link {
            Link::Sender {
                inbox: Some(other), ..
            } => Arc::ptr_eq(inbox, other),
            _ => false,
        };
        if !self.links.values().any(by) {
            inbox.leave();
            self.shared.port().nudge();
        }
    }

    /// Whether there is a link by which we may send to `slot`.
    fn may_send_to(&self, slot: u32) -> bool {
        let to = |link: &Link| match link {
            Link::Receiver(peer) => peer.slot() == slot,
            _ => false,
        };
        self.links.values().any(to)
    }

    /// Cleans up after Launchers that have gone, and accepts connections again.
    fn look_after(&mut self) {
        let (slots, meet) = (&self.slots, &self.meet);
        self.reap.retain(|(slot, until)| {
            // Another Launcher may have done it.
            if !slots.in_use(*slot) && !meet.has(*slot) {
                return false;
            }
            let done = slots.reap(*slot, || meet.remove(*slot));
            matches!(done, Ok(false)) && Instant::now() < *until
        });
        if self.full && self.reap.is_empty() {
            let listener = self.listener.socket.as_fd();
            self.full = self.watch(listener, LISTENER).is_err();
        }
    }

    /// Connects to `slot`. If there is no answer, no Launcher is missed: one
    /// that is just starting connects to us.
    fn call(&mut self, slot: u32, call_back: bool) {
        let Ok(socket) = self.meet.connect(slot, &self.porter) else {
            return;
        };
        let Ok(file) = self.slots.identity() else {
            return;
        };
        let hello = Hello::new(file, self.slots.mine(), call_back);
        let files = [self.shared.outbox().file()];
        if rendezvous::send(socket.as_fd(), &hello, &files).is_ok() {
            self.add(Link::Called { socket, slot });
        }
    }

    /// Watches a new link. One that cannot be watched is dropped.
    fn add(&mut self, link: Link) {
        let id = self.next_link;
        if self.watch(link.socket().as_fd(), id).is_ok() {
            self.next_link += 1;
            self.links.insert(id, link);
        }
    }

    /// Drops link `id`. Its socket closes when no frame is being sent any more.
    fn forget(&mut self, id: u64) -> Option<Link> {
        let link = self.links.remove(&id)?;
        let _ = epoll::delete(&self.epoll, link.socket());
        if let Link::Receiver(peer) = &link {
            self.shared.remove_peer(peer);
        }
        Some(link)
    }

    /// From now on these events of link `id` are reported, and its end.
    fn listen_to(&self, id: u64, flags: epoll::EventFlags) -> io::Result<()> {
        if let Some(link) = self.links.get(&id) {
            let data = epoll::EventData::new_u64(id);
            epoll::modify(&self.epoll, link.socket(), data, flags)?;
        }
        Ok(())
    }

    fn watch(&self, file: BorrowedFd<'_>, about: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(about);
        epoll::add(&self.epoll, file, data, epoll::EventFlags::IN)?;
        Ok(())
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
