//! A peer: another Launcher's Guest, and how we send to it.
//!
//! The peer's port says where it has bound buffers; the next free one is filled
//! ([`fill`](super::fill)), and the peer's Launcher is rung. A frame needs no
//! allocation, no third process, and at most one system call, which wakes the
//! receiver. What the port and the peer's memory say is read anew for each
//! frame and checked. A hostile peer can damage only its own memory.

use super::super::dma::used_len;
use super::counters::LanCounters;
use super::fill::Offer;
use super::port::{SharedPort, Ticket};
use super::porter::Connection;
use crate::memory::{SealedMemory, SectionsIn};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a sender waits for a receiver without a free buffer to run, before
/// it tries once more. Long enough for a Guest on another processor to wake
/// and empty a buffer. (Under the fuzzer no receiver runs.)
const GRACE: Duration =
    Duration::from_micros(if cfg!(fuzzing) { 0 } else { 200 });

/// How long it waits when the ring of posted frames is full: the receiver may
/// have to empty all of its buffers first.
const LONG_GRACE: Duration =
    Duration::from_micros(if cfg!(fuzzing) { 0 } else { 4000 });

/// How many sends do not wait after a wait in vain. A receiver that has stopped
/// must not slow down its senders.
const BACK_OFF: u32 = 32;

/// Another Launcher's Guest, to which we may send.
pub(super) struct Peer {
    slot: u32,
    memory: SealedMemory,
    port: SharedPort,
    ticket: Ticket,
    /// When it closes, the peer's Launcher takes our ticket out of the lock. So
    /// it must stay open as long as this process may hold the lock.
    socket: Connection,
    /// How many sends do not wait: see [`BACK_OFF`].
    back_off: AtomicU32,
}

impl Peer {
    pub(super) fn new(
        slot: u32,
        memory: SealedMemory,
        port: SharedPort,
        ticket: Ticket,
        socket: Connection,
    ) -> Self {
        Self {
            slot,
            memory,
            port,
            ticket,
            socket,
            back_off: AtomicU32::new(0),
        }
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn socket(&self) -> &Connection {
        &self.socket
    }

    /// Which of its bindings is on the key at `offset` in the page.
    pub(super) fn find(&self, offset: u32) -> Option<usize> {
        self.port.find(offset)
    }

    /// Gives a frame to binding `index`, on the key at `offset`. If no buffer
    /// is free, waits for the peer to run and tries once more. Returns the
    /// bytes taken.
    pub(super) fn take(
        &self,
        index: usize,
        offset: u32,
        from: SectionsIn<'_>,
        counters: &LanCounters,
    ) -> u32 {
        let try_once = || {
            let offer = self.offer(index, offset, from);
            // The interrupt is raised in every case. Where nothing was taken,
            // the sender that filled the buffers may have died before it rang.
            let taken = matches!(offer, Offer::Taken(_));
            if self.port.ring(index, !taken) {
                counters.wakes.add(1);
            }
            offer
        };
        let mut offer = try_once();
        if let Offer::Full(watch) = offer {
            let free = |addr| used_len(self.memory.region(), addr) == Ok(0);
            let grace = watch.map_or(Duration::ZERO, |_| GRACE);
            let free = || watch.is_some_and(free);
            // One more try, whether a buffer has become free or not.
            if self.let_run(grace, free, counters).is_some() {
                offer = try_once();
            }
        }
        match offer {
            Offer::Taken(bytes) => {
                self.back_off.store(0, Ordering::Relaxed);
                counters.frames_sent.add(1);
                counters.bytes_sent.add(bytes.into());
                bytes
            }
            Offer::Full(_) => {
                counters.refused.add(1);
                0
            }
            Offer::Gone => 0,
            Offer::Bad(dma) => {
                self.port.blame(dma);
                0
            }
        }
    }

    /// Fills the next free buffer of binding `index`. Waits for other
    /// senders, but not for long.
    fn offer(&self, index: usize, offset: u32, from: SectionsIn<'_>) -> Offer {
        let patient = self.back_off.load(Ordering::Relaxed) == 0;
        let Some(lock) = self.port.lock(self.ticket, patient) else {
            return Offer::Full(None);
        };
        let Some(claim) = lock.binding(index, offset) else {
            return Offer::Gone;
        };
        let offer = claim.fill(self.memory.region(), from, |_| {});
        if let Offer::Taken(_) = offer {
            lock.advance(index);
        }
        offer
    }

    /// Waits for the receiver to run until `fetched` says that it has fetched
    /// enough of what was posted. Returns whether it has.
    pub(super) fn let_fetch(
        &self,
        index: usize,
        fetched: impl Fn() -> bool,
        counters: &LanCounters,
    ) -> bool {
        if fetched() {
            return true;
        }
        if self.port.ring(index, true) {
            counters.wakes.add(1);
        }
        let done = self.let_run(LONG_GRACE, fetched, counters) == Some(true);
        if done {
            self.back_off.store(0, Ordering::Relaxed);
        } else {
            counters.refused.add(1);
        }
        done
    }

    /// Waits for the receiver to run until there is `room`. Blocks for `grace`
    /// at most. After a wait in vain most calls do not wait: then the answer is
    /// `None`. Else it is whether there is room.
    fn let_run(
        &self,
        grace: Duration,
        room: impl Fn() -> bool,
        counters: &LanCounters,
    ) -> Option<bool> {
        let back_off = self.back_off.load(Ordering::Relaxed);
        if back_off > 0 {
            self.back_off.store(back_off - 1, Ordering::Relaxed);
            return None;
        }
        counters.waits.add(1);
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if room() {
                return Some(true);
            }
            rustix::thread::sched_yield();
        }
        self.back_off.store(BACK_OFF, Ordering::Relaxed);
        Some(false)
    }
}

#[cfg(test)]
impl Peer {
    /// Takes the lock of its port, and never gives it back: as if this process
    /// was stopped in the middle of a copy.
    pub(super) fn hold(&self) -> bool {
        let lock = self.port.lock(self.ticket, true);
        lock.map(std::mem::forget).is_some()
    }
}
