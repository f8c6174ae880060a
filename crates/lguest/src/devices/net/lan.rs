//! `--sharenet`: a network of Guests, each with a Launcher of its own.
//!
//! The Guest sends to a key in the page; we find the peer whose Guest has
//! bound a buffer to that key, and give it the frame. What comes the other
//! way needs nothing from us: the sender's Launcher has put it where it
//! belongs, and rings; a thread that sleeps otherwise raises the interrupt.
//! Another one looks after the connections to the peers.

use super::NetRequests;
use super::counters::Counters;
use super::links::{Links, Quit};
use super::peer::Peer;
use super::port::Port;
use super::rendezvous::{Listener, Rendezvous, RendezvousError};
use super::slots::{Slots, SlotsError};
use super::violation;
use super::window::Window;
use crate::devices::{Description, Device, Place, Violation};
use crate::host::{Binding, Guest};
use lg_abi::device::{LGUEST_DEVICE_T_NET, LGUEST_NET_F_NOCSUM};
use lg_abi::dma::{Dma, KEY_ALIGN};
use lg_abi::page::PAGE_SHIFT;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A LAN that cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// The file will not do.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// Others could not reach us.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
}

/// A Guest's place on a LAN.
pub struct Lan {
    slots: Arc<Slots>,
    meet: Arc<Rendezvous>,
    listener: Arc<Listener>,
    running: Option<Running>,
    /// Whether a stream's interrupts may be put off.
    batches: bool,
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
        let listener = meet.listen(slots.mine())?;
        Ok(Self {
            slots: Arc::new(slots),
            meet: Arc::new(meet),
            listener: Arc::new(listener),
            running: None,
            batches: true,
        })
    }

    /// Raises an interrupt for every frame: the slow way, for comparison.
    /// Counts before [`Self::start`].
    pub fn never_in_batches(&mut self) {
        self.batches = false;
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
        host: Arc<dyn NetRequests>,
        page: u32,
    ) -> io::Result<()> {
        let (shared, links) = self.prepare(host, page)?;
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
        running
            .threads
            .push(thread("lan-arrivals", move || shared.arrivals())?);
        Ok(())
    }

    /// All but the threads.
    pub(super) fn prepare(
        &self,
        host: Arc<dyn NetRequests>,
        page: u32,
    ) -> io::Result<(Arc<Shared>, Links)> {
        let memory = host.memory();
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
            host,
            page,
            window,
            port: Port::create().map_err(io::Error::other)?,
            peers: Mutex::default(),
            stop: AtomicBool::new(false),
            batches: self.batches,
            counters: Counters::default(),
        });
        let links = Links::new(
            Arc::clone(&shared),
            Arc::clone(&self.slots),
            Arc::clone(&self.meet),
            Arc::clone(&self.listener),
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
            let now = shared.host.bindings_in(shared.page);
            if now != running.shown {
                shared.port.show(shared.page, &now);
                running.shown = now;
            }
        }
    }
}

#[cfg(test)]
impl Lan {
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

    fn place(&mut self, guest: &Guest, place: Place) -> io::Result<()> {
        self.start(Arc::new(guest.clone()), place.page)
    }

    /// Unique on this network, as an Ethernet address has to be. Not 0, for
    /// an address must not be all zero behind its first byte.
    fn guest_id(&self) -> Option<u16> {
        u16::try_from(self.slot() + 1).ok()
    }

    fn shared_page(&self) -> Option<BorrowedFd<'_>> {
        Some(self.slots.page())
    }

    fn handle_output(&mut self, dma: u32, key: u32) -> Result<u32, Violation> {
        self.send(dma, key)
    }

    fn buffers_changed(&mut self) {
        self.bindings_changed();
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
            for thread in running.threads {
                // A panic there has been printed already.
                let _ = thread.join();
            }
        }
        // While we still hold the lock: afterwards both may be another's.
        self.slots.clear(self.slots.mine());
        self.meet.close(&self.listener);
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
    host: Arc<dyn NetRequests>,
    page: u32,
    window: Window,
    port: Port,
    /// Those we may send to, by slot.
    peers: Mutex<Vec<Arc<Peer>>>,
    stop: AtomicBool,
    batches: bool,
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

    /// Raises interrupts as things arrive. Blocks until told to stop.
    ///
    /// A frame that comes alone is told at once. Where more than one has come
    /// since we last looked, still more are on their way: then the interrupt
    /// is raised, and the next one only after a moment. Without that, a
    /// stream is an interrupt and a few wake-ups for every frame, and who
    /// receives it gets nothing else done.
    fn arrivals(&self) {
        let (mut seen, mut at) = (0, None);
        loop {
            self.host.stay_close(&mut at);
            self.deliver();
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let transfers = self.port.transfers();
            let came = transfers.wrapping_sub(seen);
            seen = transfers;
            if self.batches && came > 1 {
                self.counters.naps.add(1);
                self.port.nap();
            } else {
                self.port.sleep();
            }
        }
    }

    /// Raises the interrupts of what has arrived.
    pub(super) fn deliver(&self) {
        for irq in self.port.arrived() {
            // A dead Guest needs no interrupts.
            let _ = self.host.irq(irq);
            self.counters.arrivals.add(1);
        }
    }

    /// Raises all interrupts: a sender has died, perhaps after it had filled
    /// a buffer and before it rang. One too many does no harm.
    pub(super) fn deliver_all(&self) {
        for irq in self.port.all() {
            let _ = self.host.irq(irq);
        }
    }

    /// Whether the buffer at `dma`, if our Guest has bound it, is one that a
    /// sender can use.
    pub(super) fn check(&self, dma: u32) -> Result<(), Violation> {
        let bound = self.host.bindings_in(self.page).iter().any(|b| {
            let offset = dma.wrapping_sub(b.dmas);
            offset % Dma::SIZE == 0 && offset / Dma::SIZE < b.num
        });
        if bound {
            let list = self.window.dma(dma).map_err(violation)?;
            self.window.sections(&list).map_err(violation)?;
        }
        Ok(())
    }

    pub(super) fn host(&self) -> &dyn NetRequests {
        &*self.host
    }

    pub(super) fn page(&self) -> u32 {
        self.page
    }

    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// The Guest's memory file.
    pub(super) fn memory(&self) -> BorrowedFd<'_> {
        self.host.memory().file()
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

    fn peers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Peer>>> {
        // The list is whole between any two statements.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
