//! What the threads of one LAN device share.
//!
//! The Guest's own thread sends, one thread keeps the connections, one fetches
//! frames and raises interrupts. Each of them may block the others for the
//! time of one look at a list.

use super::super::dma::DmaSections;
use super::counters::LanCounters;
use super::doorbell;
use super::inbox::{Inbox, Outbox};
use super::peer::Peer;
use super::port::Port;
use crate::devices::Violation;
use crate::engine::Binding;
use crate::engine::Requests;
use crate::memory::{Region, SectionsIn};
use lg_abi::dma::{Dma, KEY_ALIGN};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the threads of one LAN device share.
pub(super) struct Shared {
    pub(super) guest: Arc<dyn Requests>,
    pub(super) page: u32,
    pub(super) port: Port,
    /// The peers that we may send to, by slot.
    pub(super) peers: Mutex<Vec<Arc<Peer>>>,
    pub(super) slot: u32,
    pub(super) outbox: Arc<Outbox>,
    pub(super) fetches: bool,
    /// Where others post to us.
    pub(super) inboxes: Mutex<Arc<[Arc<Inbox>]>>,
    /// The bytes of our Guest's smallest buffer.
    pub(super) room: AtomicU32,
    pub(super) stop: AtomicBool,
    pub(super) batches: bool,
    pub(super) open: bool,
    pub(super) has_host: bool,
    pub(super) counters: LanCounters,
}

impl Shared {
    /// SEND_DMA: the first peer that has bound `key` gets what is in `dma`.
    /// Returns the bytes that it took.
    pub(super) fn send(&self, dma: u32, key: u32) -> Result<u32, Violation> {
        let offset = key.wrapping_sub(self.page);
        if self.find(offset).is_none() {
            self.counters.to_nobody.add(1);
            return Ok(0);
        }
        let from = DmaSections::read(self.memory(), dma);
        let from = from.map_err(Violation::of)?;
        Ok(self.send_from(from.sections(), offset))
    }

    /// The first peer that has bound the key at `offset` in the page gets
    /// `from`. Answers the bytes that it took.
    pub(super) fn send_from(&self, from: SectionsIn<'_>, offset: u32) -> u32 {
        let Some((peer, index)) = self.find(offset) else {
            self.counters.to_nobody.add(1);
            return 0;
        };
        let (outbox, slot) = (&self.outbox, peer.slot());
        if !outbox.is_fetched(slot) {
            // Posted frames go before this one. If this one can be posted, too,
            // the Host tries that again once there is room.
            let posts = outbox.takes(slot, from.total());
            let waits = || match posts {
                true => !outbox.has_room(slot),
                false => !outbox.is_fetched(slot),
            };
            if !peer.let_fetch(index, || !waits(), &self.counters) || posts {
                return 0;
            }
        }
        peer.take(index, offset, from, &self.counters)
    }

    /// The peer in `slot` gets `from` by the key at `offset` in the page, if it
    /// has bound that. Returns whether it has.
    pub(super) fn send_by(
        &self,
        from: SectionsIn<'_>,
        slot: u32,
        offset: u32,
    ) -> bool {
        let peers = self.peers();
        let peer = peers.iter().find(|peer| peer.slot() == slot).cloned();
        drop(peers);
        let index = peer.as_ref().and_then(|peer| peer.find(offset));
        let Some((peer, index)) = peer.zip(index) else {
            return false;
        };
        peer.take(index, offset, from, &self.counters);
        true
    }

    /// The peer that has bound the key at `offset` in the page, and which of
    /// its bindings that is.
    fn find(&self, offset: u32) -> Option<(Arc<Peer>, usize)> {
        let peers = self.peers();
        // By convention it is the peer in the slot of the key, but any peer may
        // bind any key.
        let usual = peers.partition_point(|p| p.slot() < offset / KEY_ALIGN);
        let (before, after) = peers.split_at(usual);
        after.iter().chain(before).find_map(|peer| {
            let index = peer.find(offset)?;
            Some((Arc::clone(peer), index))
        })
    }

    /// Raises the interrupts of what has arrived.
    pub(super) fn deliver(&self) {
        let mut arrived = self.port.arrived().peekable();
        if arrived.peek().is_some() {
            // The sender's Launcher has filled buffers. Nothing here has noted
            // which pages.
            self.guest.memory().note_all();
        }
        for irq in arrived {
            // A dead Guest needs no interrupts.
            let _ = self.guest.irq(irq);
            self.counters.arrivals.add(1);
        }
        if let Some(dma) = self.port.blamed() {
            self.blame(dma);
        }
    }

    /// Raises all interrupts: a sender has ended, perhaps after it had filled a
    /// buffer and before it rang. An interrupt too many does no harm.
    pub(super) fn deliver_all(&self) {
        self.guest.memory().note_all();
        for irq in self.port.all() {
            let _ = self.guest.irq(irq);
        }
    }

    /// Checks that a sender can use the buffer at `dma`, if our Guest has bound
    /// it.
    pub(super) fn check(&self, dma: u32) -> Result<(), Violation> {
        let bound = self.guest.bindings_in(self.page).iter().any(|b| {
            let offset = dma.wrapping_sub(b.dmas);
            offset % Dma::SIZE == 0 && offset / Dma::SIZE < b.num
        });
        if bound {
            DmaSections::read(self.memory(), dma).map_err(Violation::of)?;
        }
        Ok(())
    }

    /// Our Guest's bindings are now these.
    pub(super) fn show(&self, bindings: &[Binding]) {
        self.port.show(self.page, bindings);
        let offset = KEY_ALIGN * self.slot;
        let claim = self.port.claim(offset);
        let room = claim.map_or(0, |claim| claim.room(self.memory()));
        self.room.store(room, Ordering::SeqCst);
        // The thread that opens and closes the rings may be asleep.
        self.port.nudge();
    }

    /// A sender says that the buffer at `dma` breaks the rules: if it does, our
    /// Guest dies.
    pub(super) fn blame(&self, dma: u32) {
        if let Err(violation) = self.check(dma) {
            self.guest.kill(violation.to_string());
        }
    }

    /// A Launcher hands us its outbox. Returns our ring in it, if frames will
    /// be fetched from there.
    pub(super) fn add_inbox(&self, file: &OwnedFd) -> Option<Arc<Inbox>> {
        let mut inboxes = self.lock_inboxes();
        // There may be two connections, one of which is about to end. The ring
        // must not be emptied twice.
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

    /// Fetches no more from `inbox`, unless it was handed to us again.
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

    /// The argument for [`Inbox::open_for`].
    pub(super) fn room(&self) -> u32 {
        self.room.load(Ordering::SeqCst)
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The Guest's memory.
    pub(super) fn memory(&self) -> &Region {
        self.guest.memory().region()
    }

    pub(super) fn counters(&self) -> &LanCounters {
        &self.counters
    }

    pub(super) fn batches(&self) -> bool {
        self.batches
    }

    /// Whether rings are always open.
    pub(super) fn always_busy(&self) -> bool {
        self.open
    }

    /// Whether the member is a Guest, whose Host rings when it is idle.
    pub(super) fn has_host(&self) -> bool {
        self.has_host
    }

    pub(super) fn fetches(&self) -> bool {
        self.fetches
    }

    /// Ends the thread that fetches frames.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.port.nudge();
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
    pub(super) fn memory_file(&self) -> BorrowedFd<'_> {
        self.guest.memory().file()
    }

    /// Whether `memory` is our own Guest's.
    pub(super) fn is_ours(&self, memory: &OwnedFd) -> io::Result<bool> {
        let theirs = rustix::fs::fstat(memory)?;
        let ours = rustix::fs::fstat(self.memory_file())?;
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

    pub(super) fn peers(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        // The list is whole between any two statements.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
