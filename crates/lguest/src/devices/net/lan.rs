//! `--sharenet`: a network of Guests, each with a Launcher of its own.
//!
//! The Guest sends to a key in the page; we find the peer whose Guest has
//! bound a buffer to that key, and give it the frame. Mostly we are not asked
//! at all, for the Guest's Host posts frames in its outbox, where the peer
//! fetches them. What comes the other way is the business of a thread that
//! sleeps otherwise. Another one looks after the connections to the peers.

use super::Requests;
use super::arrivals::Arrivals;
use super::counters::Counters;
use super::doorbell;
use super::inbox::{Inbox, Outbox};
use super::links::{Links, Quit};
use super::peer::Peer;
use super::port::Port;
use super::porter::Porter;
use super::rendezvous::{Listener, Rendezvous, RendezvousError};
use super::slots::{Slots, SlotsError};
use super::violation;
use super::window::Window;
use crate::devices::{Description, Device, PageFiles, Place, Violation};
use crate::engine::Binding;
use crate::needs::Lack;
use lg_abi::device::{LGUEST_DEVICE_T_NET, LGUEST_NET_F_NOCSUM};
use lg_abi::dma::{Dma, KEY_ALIGN};
use lg_abi::page::PAGE_SHIFT;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A LAN that cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// The file will not do.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// Others could not reach us.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// No memory, or no descriptor.
    #[error("there is no room for its frames ({0})")]
    Outbox(#[source] io::Error),
    /// No process, or no descriptor.
    #[error(transparent)]
    Porter(#[from] Lack),
}

/// A Guest's place on a LAN.
pub struct Lan {
    slots: Arc<Slots>,
    meet: Arc<Rendezvous>,
    listener: Arc<Listener>,
    outbox: Arc<Outbox>,
    porter: Arc<Porter>,
    running: Option<Running>,
    /// Whether we fetch what others have posted.
    fetches: bool,
    /// Whether a stream's interrupts may be put off.
    batches: bool,
    /// Rings are open from the beginning.
    open: bool,
}

/// What there is once the device has its place.
struct Running {
    shared: Arc<Shared>,
    /// The bindings that our port shows.
    shown: Vec<Binding>,
    quit: Arc<Quit>,
    threads: Vec<JoinHandle<()>>,
}

impl Lan {
    /// Joins the LAN of `file`: takes a slot, and listens. Nothing is made or
    /// changed if that fails.
    ///
    /// # Errors
    ///
    /// [`LanError`], whose message names the cure.
    pub fn join(file: &Path) -> Result<Self, LanError> {
        let slots = Slots::claim(file)?;
        let meet = Rendezvous::beside(slots.path())?;
        let porter = Porter::start().map_err(|error| {
            Lack::when("start the process that receives messages", error)
        });
        let porter = Arc::new(porter?);
        let listener = meet.listen(slots.mine(), &porter)?;
        Ok(Self {
            porter,
            slots: Arc::new(slots),
            meet: Arc::new(meet),
            listener: Arc::new(listener),
            outbox: Arc::new(Outbox::create().map_err(LanError::Outbox)?),
            running: None,
            fetches: doorbell::is_known(),
            batches: true,
            open: false,
        })
    }

    /// Raises an interrupt for every frame: the slow way, for comparison.
    /// Counts before [`Self::start`].
    pub fn never_in_batches(&mut self) {
        self.batches = false;
    }

    /// Opens the rings of outboxes from the beginning, and not only while there
    /// is much to fetch. Counts before [`Self::start`].
    pub fn always_open(&mut self) {
        self.open = true;
    }

    /// Fetches nothing from outboxes, so that everything is sent the slow way,
    /// for comparison. Counts before [`Self::start`].
    pub fn never_by_outbox(&mut self) {
        self.fetches = false;
    }

    /// Our slot in the page.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slots.mine()
    }

    /// How many others we can send to now.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.running.as_ref().map_or(0, |r| r.shared.peers().len())
    }

    /// Puts the shared page at physical address `page` and gets in touch with
    /// everybody on the LAN: [`Device::place`], for any Host.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn start(
        &mut self,
        guest: Arc<dyn Requests>,
        page: u32,
    ) -> io::Result<()> {
        let (shared, links) = self.prepare(guest, page)?;
        // From here on a failure drops `self.running`, which ends what has
        // been started.
        let running = self.running.insert(Running {
            shared,
            shown: Vec::new(),
            quit: links.quit(),
            threads: Vec::new(),
        });
        running.threads.push(thread("lan", move || links.run())?);
        let shared = Arc::clone(&running.shared);
        running.threads.push(thread("lan-arrivals", move || {
            Arrivals::new(&shared).run();
        })?);
        Ok(())
    }

    /// All but the threads.
    pub(super) fn prepare(
        &self,
        guest: Arc<dyn Requests>,
        page: u32,
    ) -> io::Result<(Arc<Shared>, Links)> {
        let memory = guest.memory();
        memory.share_page(page >> PAGE_SHIFT, self.slots.page())?;
        let mut window =
            Window::open(memory.file()).map_err(io::Error::other)?;
        window
            .share_page(page, self.slots.page())
            .map_err(io::Error::other)?;
        // MASTERY: somebody who makes the file shorter takes that page away
        // from everybody who has mapped it; who then sends from it, or
        // receives into it, dies of SIGBUS. Frames seldom lie there. And a
        // frame in the page of a second network of the same Guest is looked
        // for in the Guest's own memory below.
        let shared = Arc::new(Shared {
            guest,
            page,
            window,
            port: Port::create().map_err(io::Error::other)?,
            peers: Mutex::default(),
            slot: self.slot(),
            outbox: Arc::clone(&self.outbox),
            fetches: self.fetches,
            inboxes: Mutex::new(Arc::from([])),
            room: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            batches: self.batches,
            open: self.open,
            counters: Counters::default(),
        });
        let links = Links::new(
            Arc::clone(&shared),
            Arc::clone(&self.slots),
            Arc::clone(&self.meet),
            Arc::clone(&self.listener),
            Arc::clone(&self.porter),
        )?;
        Ok((shared, links))
    }

    /// Sends the `lguest_dma` at `dma` to `key`: [`Device::handle_output`].
    ///
    /// # Errors
    ///
    /// [`Violation`], if the list breaks the rules.
    pub fn send(&self, dma: u32, key: u32) -> Result<u32, Violation> {
        match &self.running {
            Some(running) => running.shared.send(dma, key),
            None => Ok(0),
        }
    }

    /// The Guest's bindings are no longer what they were:
    /// [`Device::buffers_changed`].
    pub fn bindings_changed(&mut self) {
        if let Some(running) = &mut self.running {
            let shared = &running.shared;
            let now = shared.guest.bindings_in(shared.page);
            if now != running.shown {
                shared.show(&now);
                running.shown = now;
            }
        }
    }
}

#[cfg(test)]
impl Lan {
    /// How many there are from whose outboxes we fetch.
    pub(super) fn senders(&self) -> usize {
        let running = self.running.as_ref();
        running.map_or(0, |r| r.shared.inboxes().len())
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Takes the lock of the port of whoever is in `slot`, and never gives it
    /// back: as if we were stopped in the middle of a copy. Answers whether
    /// there is somebody.
    pub(super) fn hold(&self, slot: u32) -> bool {
        let Some(running) = &self.running else {
            return false;
        };
        let peers = running.shared.peers();
        let peer = peers.iter().find(|peer| peer.slot() == slot);
        peer.is_some_and(|peer| peer.hold())
    }
}

impl Device for Lan {
    fn description(&self) -> Description {
        let slot = u16::try_from(self.slot()).expect("fewer than NET_SLOTS");
        Description {
            kind: LGUEST_DEVICE_T_NET,
            features: LGUEST_NET_F_NOCSUM | slot,
            num_pages: 1,
        }
    }

    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> io::Result<()> {
        self.start(guest, place.page)
    }

    /// Unique on this network, as an Ethernet address has to be. Not 0, for
    /// an address must not be all zero behind its first byte.
    fn guest_id(&self) -> Option<u16> {
        u16::try_from(self.slot() + 1).ok()
    }

    fn shared_page(&self) -> Option<PageFiles<'_>> {
        Some(PageFiles {
            page: self.slots.page(),
            outbox: self.outbox.file(),
        })
    }

    fn handle_output(&mut self, dma: u32, key: u32) -> Result<u32, Violation> {
        self.send(dma, key)
    }

    fn buffers_changed(&mut self) {
        self.bindings_changed();
    }

    fn damage(&self) -> Option<String> {
        self.slots.is_cut().then(|| {
            let file = self.slots.path().display();
            format!(
                "the network's file {file} has become shorter while it was in \
                 use: let nobody else write to it (`chmod go= FILE`), and make \
                 it anew with `truncate -s 4096 FILE`"
            )
        })
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let Some(running) = &self.running else {
            return Vec::new();
        };
        running.shared.counters.list()
    }
}

impl Drop for Lan {
    /// Leaves nothing behind: no socket, no address, no thread.
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shared.stop.store(true, Ordering::SeqCst);
            running.shared.port.nudge();
            running.quit.ask();
            wait_for_end(running.threads);
        }
        // While we still hold the lock: afterwards both may be another's.
        self.slots.clear(self.slots.mine());
        self.meet.close(&self.listener);
    }
}

/// How long the end of the threads is waited for. Nothing that others do should
/// be able to hold one up; but an end that depends on that is no end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits for all `threads`, for [`PATIENCE`] at most.
fn wait_for_end(threads: Vec<JoinHandle<()>>) {
    let deadline = Instant::now() + PATIENCE;
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        if thread.is_finished() {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

fn thread(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// What the threads of one LAN device share.
pub(super) struct Shared {
    guest: Arc<dyn Requests>,
    page: u32,
    window: Window,
    port: Port,
    /// Those we may send to, by slot.
    peers: Mutex<Vec<Arc<Peer>>>,
    slot: u32,
    outbox: Arc<Outbox>,
    fetches: bool,
    /// Where others post to us.
    inboxes: Mutex<Arc<[Arc<Inbox>]>>,
    /// The bytes of our Guest's smallest buffer.
    room: AtomicU32,
    stop: AtomicBool,
    batches: bool,
    open: bool,
    counters: Counters,
}

impl Shared {
    /// SEND_DMA: the first peer that has bound `key` gets what is in `dma`.
    /// Answers the bytes that it took.
    pub(super) fn send(&self, dma: u32, key: u32) -> Result<u32, Violation> {
        let offset = key.wrapping_sub(self.page);
        let Some((peer, index)) = self.find(offset) else {
            self.counters.to_nobody.add(1);
            return Ok(0);
        };
        let list = self.window.dma(dma).map_err(violation)?;
        let from = self.window.sections(&list).map_err(violation)?;
        let (outbox, slot) = (&self.outbox, peer.slot());
        if !outbox.is_fetched(slot) {
            // What was posted goes before this. If it could be posted, too,
            // the Host tries that again, once there is room.
            let posts = outbox.takes(slot, from.total());
            let waits = || match posts {
                true => !outbox.has_room(slot),
                false => !outbox.is_fetched(slot),
            };
            if !peer.let_fetch(index, || !waits(), &self.counters) || posts {
                return Ok(0);
            }
        }
        Ok(peer.take(index, offset, &from, &self.counters))
    }

    /// The peer that has bound the key at `offset` in the page, and which of
    /// its bindings that is.
    fn find(&self, offset: u32) -> Option<(Arc<Peer>, usize)> {
        let peers = self.peers();
        // By convention it is the one in the slot that the key belongs to;
        // but any may bind any key.
        let usual = peers.partition_point(|p| p.slot() < offset / KEY_ALIGN);
        let (before, after) = peers.split_at(usual);
        after.iter().chain(before).find_map(|peer| {
            let index = peer.find(offset)?;
            Some((Arc::clone(peer), index))
        })
    }

    /// Raises the interrupts of what has arrived.
    pub(super) fn deliver(&self) {
        for irq in self.port.arrived() {
            // A dead Guest needs no interrupts.
            let _ = self.guest.irq(irq);
            self.counters.arrivals.add(1);
        }
        if let Some(dma) = self.port.blamed() {
            self.blame(dma);
        }
    }

    /// Raises all interrupts: a sender has died, perhaps after it had filled
    /// a buffer and before it rang. One too many does no harm.
    pub(super) fn deliver_all(&self) {
        for irq in self.port.all() {
            let _ = self.guest.irq(irq);
        }
    }

    /// Whether the buffer at `dma`, if our Guest has bound it, is one that a
    /// sender can use.
    pub(super) fn check(&self, dma: u32) -> Result<(), Violation> {
        let bound = self.guest.bindings_in(self.page).iter().any(|b| {
            let offset = dma.wrapping_sub(b.dmas);
            offset % Dma::SIZE == 0 && offset / Dma::SIZE < b.num
        });
        if bound {
            let list = self.window.dma(dma).map_err(violation)?;
            self.window.sections(&list).map_err(violation)?;
        }
        Ok(())
    }

    /// Our Guest's bindings are now these.
    pub(super) fn show(&self, bindings: &[Binding]) {
        self.port.show(self.page, bindings);
        let offset = KEY_ALIGN * self.slot;
        let claim = self.port.claim(offset);
        let room = claim.map_or(0, |claim| claim.room(&self.window));
        self.room.store(room, Ordering::SeqCst);
        // Somebody may be asleep who has to open or close the rings.
        self.port.nudge();
    }

    /// The buffer at `dma` breaks the rules, or so it seemed: we see for
    /// ourselves.
    pub(super) fn blame(&self, dma: u32) {
        if let Err(violation) = self.check(dma) {
            self.guest.kill(violation.to_string());
        }
    }

    /// Somebody hands us his outbox. Answers our ring in it, if we are going
    /// to fetch from there.
    pub(super) fn add_inbox(&self, file: &OwnedFd) -> Option<Arc<Inbox>> {
        let mut inboxes = self.lock_inboxes();
        // Two connections, and one of them is about to end: this ring must not
        // be emptied twice.
        let known = inboxes.iter().find(|inbox| inbox.is_of(file.as_fd()));
        if let Some(known) = known {
            known.stay();
            return Some(Arc::clone(known));
        }
        if !self.fetches || inboxes.len() >= doorbell::MOST {
            return None;
        }
        let opened = Inbox::open(file.as_fd(), self.slot).ok().flatten()?;
        let inbox = Arc::new(opened);
        let more = std::iter::once(Arc::clone(&inbox));
        *inboxes = inboxes.iter().cloned().chain(more).collect();
        drop(inboxes);
        self.port.nudge();
        Some(inbox)
    }

    /// Fetches no more from `inbox`, unless somebody has handed it to us again.
    pub(super) fn forget_inbox(&self, inbox: &Arc<Inbox>) {
        let mut inboxes = self.lock_inboxes();
        if !inbox.is_leaving() && inbox.is_heard() {
            return;
        }
        let others = inboxes.iter().filter(|i| !Arc::ptr_eq(i, inbox));
        *inboxes = others.cloned().collect();
    }

    pub(super) fn inboxes(&self) -> Arc<[Arc<Inbox>]> {
        Arc::clone(&self.lock_inboxes())
    }

    fn lock_inboxes(&self) -> MutexGuard<'_, Arc<[Arc<Inbox>]>> {
        // The list is whole between any two statements.
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What [`Inbox::open_for`] is to be told.
    pub(super) fn room(&self) -> u32 {
        self.room.load(Ordering::SeqCst)
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn batches(&self) -> bool {
        self.batches
    }

    /// Whether rings are open however little there is to fetch.
    pub(super) fn always_busy(&self) -> bool {
        self.open
    }

    pub(super) fn fetches(&self) -> bool {
        self.fetches
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(super) fn guest(&self) -> &dyn Requests {
        &*self.guest
    }

    pub(super) fn page(&self) -> u32 {
        self.page
    }

    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// The Guest's memory file.
    pub(super) fn memory(&self) -> BorrowedFd<'_> {
        self.guest.memory().file()
    }

    /// Whether `memory` is our own Guest's.
    pub(super) fn is_ours(&self, memory: &OwnedFd) -> io::Result<bool> {
        let theirs = rustix::fs::fstat(memory)?;
        let ours = rustix::fs::fstat(self.memory())?;
        Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
    }

    pub(super) fn add_peer(&self, peer: Arc<Peer>) {
        self.counters.peers_met.add(1);
        let mut peers = self.peers();
        let at = peers.partition_point(|p| p.slot() < peer.slot());
        peers.insert(at, peer);
    }

    pub(super) fn remove_peer(&self, peer: &Arc<Peer>) {
        self.counters.peers_gone.add(1);
        self.peers().retain(|p| !Arc::ptr_eq(p, peer));
    }

    fn peers(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        // The list is whole between any two statements.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
