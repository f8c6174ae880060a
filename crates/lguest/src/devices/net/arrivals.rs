//! The thread that fetches frames, and raises the interrupts of what arrives.
//!
//! It lives beside its Guest, on the same processor, and sleeps unless
//! something comes: a frame that another Launcher has put into the Guest's
//! memory, or one in the cell of an outbox, which it puts there itself. A frame
//! that comes alone is told at once. Where more than one has come since it
//! last looked, still more are on their way: then it raises the interrupt,
//! and looks again only after a moment. Without that, a stream is an interrupt
//! and a few wake-ups for every frame, and who receives it gets nothing else
//! done.
//!
//! Frames for which the Guest has no buffer wait where they are, for a while.
//! If it takes nothing for longer, it has other things to do: then its cells
//! are closed, and what comes is refused by the senders' Launchers.

use super::inbox::Inbox;
use super::lan::Shared;
use super::peer::Offer;
use super::port::Locked;
use lg_abi::dma::KEY_ALIGN;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long interrupts of a stream are put off; the kernel adds up to 50 µs.
/// In that time no sender fills the buffers that Linux binds.
const NAP: Duration = Duration::from_micros(20);

/// How long one waits for a Guest that has work enough to empty its buffers.
const FULL: Duration = Duration::from_micros(300);

/// How long at most between two looks for a free buffer.
const LONG_NAP: Duration = Duration::from_millis(1);

/// How long frames wait for one.
const PATIENCE: Duration = Duration::from_millis(100);

/// What the thread remembers from one look to the next.
pub(super) struct Arrivals<'s> {
    shared: &'s Shared,
    /// Where it is kept.
    at: Option<usize>,
    /// Transfers that it has seen.
    seen: u32,
    /// Since when frames have waited for a buffer.
    waiting: Option<Instant>,
    /// They have waited too long.
    stuck: bool,
    /// Whose cell comes first.
    turn: usize,
}

impl<'s> Arrivals<'s> {
    pub(super) fn new(shared: &'s Shared) -> Self {
        Self {
            shared,
            at: None,
            seen: 0,
            waiting: None,
            stuck: false,
            turn: 0,
        }
    }

    /// Blocks until told to stop.
    pub(super) fn run(mut self) {
        let mut nap = NAP;
        loop {
            let shared = self.shared;
            shared.host().stay_close(&mut self.at);
            let inboxes = shared.inboxes();
            let waits = self.fetch_all(&inboxes);
            shared.deliver();
            if shared.is_stopped() {
                return;
            }
            let transfers = shared.port().transfers();
            let came = transfers.wrapping_sub(self.seen);
            self.seen = transfers;
            if waits && came == 0 {
                nap = (nap * 2).min(LONG_NAP);
            } else {
                nap = NAP;
            }
            if waits {
                shared.counters().naps.add(1);
                self.doze(nap.max(FULL), true, &inboxes);
            } else if shared.batches() && came > 1 {
                shared.counters().naps.add(1);
                self.doze(nap, false, &inboxes);
            } else {
                shared.port().sleep(&inboxes);
            }
        }
    }

    /// Waits a moment, but not while our Guest has nothing to do. `full`: until
    /// it has emptied its buffers.
    fn doze(&self, time: Duration, full: bool, inboxes: &[Arc<Inbox>]) {
        let port = self.shared.port();
        if inboxes.is_empty() {
            port.nap(time, None);
            return;
        }
        let offset = KEY_ALIGN * self.shared.slot();
        let until = full.then(|| port.claim(offset)?.last()).flatten();
        let outbox = self.shared.outbox();
        port.nap(time, Some(outbox.doze(until)));
        outbox.wake_up();
    }

    /// Fetches what waits in all cells. Answers whether something still does.
    pub(super) fn fetch_all(&mut self, inboxes: &[Arc<Inbox>]) -> bool {
        if inboxes.is_empty() {
            return false;
        }
        if self.stuck && self.is_free() {
            self.stuck = false;
        }
        let room = if self.stuck { 0 } else { self.shared.room() };
        let mut waits = false;
        let count = inboxes.len();
        let first = self.turn % count;
        for at in (first..first + count).map(|at| at % count) {
            let inbox = &inboxes[at];
            inbox.open_for(room);
            if room == 0 || !inbox.is_heard() {
                inbox.drop_all();
            }
            let (came, waiting) = self.fetch(inbox);
            waits |= waiting;
            if came > 0 {
                // Should buffers be scarce, the next is somebody else's.
                self.turn = at + 1;
            }
            if inbox.is_leaving() && !waiting {
                self.shared.forget_inbox(inbox);
            }
        }
        if !waits {
            self.waiting = None;
        } else {
            let since = *self.waiting.get_or_insert_with(Instant::now);
            self.stuck = since.elapsed() > PATIENCE;
        }
        waits && !self.stuck
    }

    /// Fetches what waits in a cell, if the Guest has buffers for it. Answers
    /// how many frames that were, and whether there are more.
    fn fetch(&self, inbox: &Inbox) -> (u64, bool) {
        let shared = self.shared;
        let mut rest = inbox.waiting();
        if rest == 0 {
            return (0, false);
        }
        let offset = KEY_ALIGN * shared.slot();
        let Some((index, irq)) = shared.port().find(offset) else {
            inbox.drop_all();
            return (0, false);
        };
        let Some(lock) = shared.port().try_lock() else {
            return (0, true);
        };
        let mut came = 0;
        while rest > 0 && self.place(inbox, &lock, index, offset) {
            (rest, came) = (rest - 1, came + 1);
        }
        drop(lock);
        if came > 0 {
            inbox.make_room();
            shared.counters().fetched.add(came);
            shared.counters().arrivals.add(1);
            // A dead Guest needs no interrupts.
            let _ = shared.host().irq(irq);
        }
        (came, rest > 0)
    }

    /// Puts the next frame into the Guest's next buffer. Answers whether it is
    /// done with: not if there is no buffer for it yet.
    fn place(
        &self,
        inbox: &Inbox,
        lock: &Locked<'_>,
        index: usize,
        offset: u32,
    ) -> bool {
        let Some(frame) = inbox.frame() else {
            inbox.advance();
            return true;
        };
        let window = self.shared.window();
        let claim = lock.binding(index, offset);
        let offer = claim.map(|claim| match claim.is_in_order(window) {
            true => claim.fill(window, &frame),
            false => Offer::Full(None),
        });
        match offer {
            Some(Offer::Taken(_)) => lock.advance(index),
            Some(Offer::Full(_)) => return false,
            Some(Offer::Bad(dma)) => self.shared.blame(dma),
            Some(Offer::Gone) | None => {}
        }
        inbox.advance();
        true
    }

    /// Whether the Guest takes frames again.
    fn is_free(&self) -> bool {
        let shared = self.shared;
        let offset = KEY_ALIGN * shared.slot();
        let found = shared.port().find(offset);
        let lock = shared.port().try_lock();
        let claim = found
            .zip(lock)
            .and_then(|((index, _), lock)| lock.binding(index, offset));
        claim.is_some_and(|claim| claim.is_free(shared.window()))
    }
}
