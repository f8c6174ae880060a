//! `--sharenet`: a network of Guests, each with a Launcher of its own.
//!
//! The Guest sends to a key in the page; we find the peer whose Guest has
//! bound a buffer to that key, copy the frame into it, and ring. That is all
//! there is to a frame: no system call but the one that wakes a sleeper, no
//! allocation, and no third party. What peers have shown us of themselves is
//! looked at afresh for each frame, checked, and believed no further than
//! that: a peer that lies can spoil its own memory and nothing else.

use super::NetRequests;
use super::links::{Links, Quit, violation};
use super::port::{Port, SharedPort, Ticket};
use super::rendezvous::{self, Listener, Rendezvous, RendezvousError, Report};
use super::slots::{Slots, SlotsError};
use super::window::{Sections, Window};
use crate::devices::{Description, Device, Place, Violation};
use crate::host::{Binding, Guest};
use lg_abi::device::{LGUEST_DEVICE_T_NET, LGUEST_NET_F_NOCSUM};
use lg_abi::dma::{Dma, KEY_ALIGN};
use lg_abi::page::PAGE_SHIFT;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a sender lets the receiver run when it has no buffer free, before
/// it tries once more. Long enough for a Guest on another processor to wake
/// and empty a buffer.
const GRACE: Duration = Duration::from_micros(200);

/// How many sends are not waited with, once a wait was in vain. A receiver
/// that has stopped must not slow down those who still send to it.
const SULK: u32 = 32;

/// How many buffers of one array are looked at for a free one. Guests empty
/// them in order, so the first look nearly always decides.
// MASTERY: an array longer than this that is emptied out of order can have a
// free buffer that we do not find; without a bound, a Guest could bind a
// million full ones and keep its peers busy.
const SEARCH: u32 = 256;

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
        })
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
            counters: Counters::default(),
        });
        let links = Links::new(
            Arc::clone(&shared),
            Arc::clone(&self.slots),
            Arc::clone(&self.meet),
            Arc::clone(&self.listener),
        )?;
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
impl Peer {
    /// [`Self::take`], counted nowhere.
    pub(super) fn take_quietly(
        &self,
        index: usize,
        offset: u32,
        from: &Sections<'_>,
    ) -> u32 {
        self.take(index, offset, from, &Counters::default())
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
        let peer = peers.iter().find(|peer| peer.slot == slot);
        peer.is_some_and(|peer| {
            peer.port
                .lock(peer.ticket, true)
                .map(std::mem::forget)
                .is_some()
        })
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
        let c = &running.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("frames_sent", get(&c.frames_sent)),
            ("bytes_sent", get(&c.bytes_sent)),
            ("to_nobody", get(&c.to_nobody)),
            ("refused", get(&c.refused)),
            ("waits", get(&c.waits)),
            ("wakes", get(&c.wakes)),
            ("arrivals", get(&c.arrivals)),
            ("peers_met", get(&c.peers_met)),
            ("peers_gone", get(&c.peers_gone)),
        ]
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
    counters: Counters,
}

/// What a LAN has done so far.
#[derive(Default)]
struct Counters {
    /// Frames that were taken, and their bytes.
    frames_sent: AtomicU64,
    bytes_sent: AtomicU64,
    /// Frames to keys that nobody has bound.
    to_nobody: AtomicU64,
    /// Frames that found no buffer, even after the receiver has run.
    refused: AtomicU64,
    /// How often a receiver was let run, and how often woken.
    waits: AtomicU64,
    wakes: AtomicU64,
    /// Interrupts for what has come, each for one frame or more.
    arrivals: AtomicU64,
    /// Others that we have met, and that have gone.
    peers_met: AtomicU64,
    peers_gone: AtomicU64,
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Shared {
    /// SEND_DMA: the first peer that has bound `key` gets what is in `dma`.
    /// Answers the bytes that it took.
    fn send(&self, dma: u32, key: u32) -> Result<u32, Violation> {
        let offset = key.wrapping_sub(self.page);
        let Some((peer, index)) = self.find(offset) else {
            count(&self.counters.to_nobody, 1);
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
        let usual = peers.partition_point(|p| p.slot < offset / KEY_ALIGN);
        let (before, after) = peers.split_at(usual);
        after.iter().chain(before).find_map(|peer| {
            let index = peer.port.find(offset)?;
            Some((Arc::clone(peer), index))
        })
    }

    /// Raises interrupts as things arrive. Blocks until told to stop.
    fn arrivals(&self) {
        loop {
            self.deliver();
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            self.port.sleep();
        }
    }

    /// Raises the interrupts of what has arrived.
    pub(super) fn deliver(&self) {
        for irq in self.port.arrived() {
            // A dead Guest needs no interrupts.
            let _ = self.host.irq(irq);
            count(&self.counters.arrivals, 1);
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
        count(&self.counters.peers_met, 1);
        let mut peers = self.peers();
        let at = peers.partition_point(|p| p.slot < peer.slot);
        peers.insert(at, peer);
    }

    pub(super) fn remove_peer(&self, peer: &Arc<Peer>) {
        count(&self.counters.peers_gone, 1);
        self.peers().retain(|p| !Arc::ptr_eq(p, peer));
    }

    fn peers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Peer>>> {
        // The list is whole between any two statements.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another Launcher's Guest, to which we may send.
pub(super) struct Peer {
    slot: u32,
    window: Window,
    port: SharedPort,
    ticket: Ticket,
    /// Its other end sees us die, and takes the ticket out of the lock: so it
    /// must stay open until nobody here can hold that.
    socket: OwnedFd,
    /// How many sends not to wait with: see [`SULK`].
    sulk: AtomicU32,
}

/// What became of a frame that was offered.
enum Offer {
    /// So many bytes were taken.
    Taken(u32),
    /// No buffer is free; at this address there may soon be one.
    Full(Option<u32>),
    /// The buffer at this address breaks the rules.
    Bad(u32),
    /// The key is not bound any more.
    Gone,
}

impl Peer {
    pub(super) fn new(
        slot: u32,
        window: Window,
        port: SharedPort,
        ticket: Ticket,
        socket: OwnedFd,
    ) -> Self {
        Self {
            slot,
            window,
            port,
            ticket,
            socket,
            sulk: AtomicU32::new(0),
        }
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Gives a frame to binding `index`, on the key at `offset`. If it has no
    /// buffer free, lets it run and tries once more. Answers the bytes taken.
    fn take(
        &self,
        index: usize,
        offset: u32,
        from: &Sections<'_>,
        counters: &Counters,
    ) -> u32 {
        let try_once = || {
            let offer = self.offer(index, offset, from);
            // The interrupt is raised in every case. Where nothing was taken,
            // whoever filled the buffers may have died before he rang.
            let taken = matches!(offer, Offer::Taken(_));
            if self.port.ring(index, !taken) {
                count(&counters.wakes, 1);
            }
            offer
        };
        let mut offer = try_once();
        if let Offer::Full(watch) = offer {
            if self.let_run(watch, counters) {
                offer = try_once();
            }
        }
        match offer {
            Offer::Taken(bytes) => {
                self.sulk.store(0, Ordering::Relaxed);
                count(&counters.frames_sent, 1);
                count(&counters.bytes_sent, bytes.into());
                bytes
            }
            Offer::Full(_) => {
                count(&counters.refused, 1);
                0
            }
            Offer::Gone => 0,
            Offer::Bad(dma) => {
                self.report(dma);
                0
            }
        }
    }

    /// Fills the next free buffer of binding `index`. Waits for other
    /// senders, but not for long.
    fn offer(&self, index: usize, offset: u32, from: &Sections<'_>) -> Offer {
        let patient = self.sulk.load(Ordering::Relaxed) == 0;
        let Some(lock) = self.port.lock(self.ticket, patient) else {
            return Offer::Full(None);
        };
        let Some(claim) = lock.binding(index, offset) else {
            return Offer::Gone;
        };
        let offer = self.fill(&claim, from);
        if let Offer::Taken(_) = offer {
            lock.advance(index);
        }
        offer
    }

    /// Copies `from` into the first free buffer of `claim`, which nobody has
    /// checked yet.
    fn fill(&self, claim: &super::port::Claim, from: &Sections<'_>) -> Offer {
        let buffer = |i: u32| {
            let number = claim.cursor.wrapping_add(i) % claim.num;
            // Past the end of memory either way, if this wraps.
            number
                .checked_mul(Dma::SIZE)
                .and_then(|offset| claim.dmas.checked_add(offset))
                .unwrap_or(u32::MAX)
        };
        for addr in (0..claim.num.min(SEARCH)).map(buffer) {
            match self.window.word(addr) {
                Err(_) => return Offer::Bad(addr),
                Ok(0) => {}
                Ok(_) => continue,
            }
            let Ok(list) = self.window.dma(addr) else {
                return Offer::Bad(addr);
            };
            let Ok(into) = self.window.sections(&list) else {
                return Offer::Bad(addr);
            };
            let bytes = from.copy(&into);
            return match self.window.write_last(addr, bytes) {
                Ok(()) => Offer::Taken(bytes),
                Err(_) => Offer::Bad(addr),
            };
        }
        Offer::Full((claim.num > 0).then(|| buffer(0)))
    }

    /// Lets the receiver run until the buffer at `watch` is free. Blocks for
    /// [`GRACE`] at most, and mostly not at all for one that has let us wait
    /// in vain. Answers whether to try again.
    fn let_run(&self, watch: Option<u32>, counters: &Counters) -> bool {
        let sulk = self.sulk.load(Ordering::Relaxed);
        if sulk > 0 {
            self.sulk.store(sulk - 1, Ordering::Relaxed);
            return false;
        }
        count(&counters.waits, 1);
        let deadline = Instant::now() + GRACE;
        if let Some(addr) = watch {
            while Instant::now() < deadline {
                if self.window.word(addr) == Ok(0) {
                    return true;
                }
                rustix::thread::sched_yield();
            }
        }
        self.sulk.store(SULK, Ordering::Relaxed);
        true
    }

    /// Tells the owner that its buffer at `dma` breaks the rules.
    fn report(&self, dma: u32) {
        // If it has that many reports unread, this one is not news.
        let _ = rendezvous::send(self.socket(), &Report::new(dma), &[]);
    }
}
