//! The thread that fetches frames, and raises the interrupts of what arrives.
//!
//! It runs on the processor of its Guest, and sleeps until a frame comes: one
//! that another Launcher has put into the Guest's memory, or one in the ring of
//! an outbox, which this thread copies there. For a single frame the thread
//! raises the interrupt at once, and the sender makes one system call to wake
//! it.
//!
//! If several frames have come since the last look, more will come soon, and a
//! wake-up for each would cost more than everything else. So in a stream the
//! thread sleeps for a fixed time while its Guest has work, and the Guest's
//! Host rings when the Guest has nothing more to do. Then the thread polls for
//! a moment, as long as no other process needs the processor: a wake-up from
//! another processor takes longer than that. Where sender and receiver share a
//! processor, polling gains nothing, and the thread sleeps at once.
//!
//! Where the member is a Launcher (its Guest has virtio devices), no Host ends
//! that sleep. Then the thread sleeps so only while it fetches frames of 2007
//! from a ring. Frames with a header are long, and each wakes the thread.
//!
//! Rings are open only while there is much to do, and for a while afterwards. A
//! single frame is in the receiver's memory when the sender's hypercall
//! returns, as the interface requires, or the hypercall returns that there was
//! no room. Frames of a stream are only posted then.
//!
//! Frames for which the Guest has no buffer wait where they are, for a while.
//! If the Guest takes nothing for longer, its rings are closed, and the
//! senders' Launchers refuse what comes.

use super::fill::Offer;
use super::inbox::Inbox;
use super::port::Locked;
use super::shared::Shared;
use crate::memory::SectionsIn;
use lg_abi::dma::KEY_ALIGN;
use lg_wire::outbox::FRAMES;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A stream ends when no frame comes for this time.
const LULL: Duration = Duration::from_micros(200);

/// How long the thread sleeps in a stream while its Guest has work.
const STREAM_SLEEP: Duration = Duration::from_micros(100);

/// The same if the Guest's Host cannot ring. It is so short that no sender
/// fills all the buffers that Linux binds. The kernel adds up to 50 µs.
const NAP: Duration = Duration::from_micros(20);

/// During this sleep, a sender rings when so many frames wait. There is room
/// for as many again.
const MANY: u32 = FRAMES / 2;

/// How long the thread polls for more of a stream when its Guest has no work.
const LOOK_OUT: Duration = Duration::from_micros(50);

/// Once there is a frame, the thread polls until there are so many ...
const ENOUGH: u32 = 8;

/// ... or for so long. Each batch costs as much as its frames.
const GATHER: Duration = Duration::from_micros(15);

/// If `sched_yield` takes longer than this, another process needed the
/// processor.
const TAKEN: Duration = Duration::from_micros(5);

/// For so many looks after that, a single frame is no stream.
const MODEST: u32 = 16;

/// How long the thread waits for a Guest to empty its buffers. If the Guest is
/// not idle by then, its programs have had some time to take what has come.
const FULL: Duration = Duration::from_micros(200);

/// How long at most between two looks for a free buffer.
const LONG_NAP: Duration = Duration::from_millis(1);

/// How long frames wait for a buffer. On a busy machine a Guest may not run for
/// a while, and losing all frames that wait would slow it down further. In
/// tests, the thread that empties the buffers may be without a processor for
/// more than a second.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 1 });

/// So many frames in so much time are worth opening rings, ...
const BUSY: (u32, Duration) = (16, Duration::from_millis(20));

/// ... and if nothing comes for so long, they are closed again.
const QUIET: Duration = Duration::from_millis(500);

/// The thread's state between two looks.
pub(super) struct Arrivals<'s> {
    shared: &'s Shared,
    /// The processor that it has moved to.
    at: Option<usize>,
    /// Transfers that it has seen.
    seen: u32,
    /// Frames that it has fetched from rings since the last look.
    fetched: u64,
    /// When something came last, and how much.
    last: (Instant, u32),
    /// Whether there is a stream.
    streams: bool,
    /// A time, and how much has come since then.
    lately: (Instant, u32),
    /// Whether rings are open.
    busy: bool,
    /// The number of further looks for which one frame is no stream.
    modest: u32,
    /// Since when frames have waited for a buffer.
    waiting: Option<Instant>,
    /// Whether they have waited too long.
    stuck: bool,
    /// How long to wait next.
    pause: Duration,
    /// The ring that comes first.
    turn: usize,
}

impl<'s> Arrivals<'s> {
    pub(super) fn new(shared: &'s Shared) -> Self {
        Self {
            shared,
            at: None,
            seen: 0,
            fetched: 0,
            last: (Instant::now(), 0),
            streams: false,
            lately: (Instant::now(), 0),
            busy: shared.always_busy(),
            modest: 0,
            waiting: None,
            stuck: false,
            pause: FULL,
            turn: 0,
        }
    }

    /// Blocks until told to stop.
    pub(super) fn run(mut self) {
        let shared = self.shared;
        // Whether the Guest is idle.
        let mut idle = false;
        loop {
            shared.guest().stay_close(&mut self.at);
            // This is first, because a nudge may have changed what is looked at
            // next.
            shared.deliver();
            if shared.is_stopped() {
                return;
            }
            let inboxes = shared.inboxes();
            // The Guest may go idle before this thread sleeps.
            shared.outbox().listen();
            let waits = self.fetch_all(&inboxes);
            let busy = self.busy;
            let came = self.look_back();
            if busy != self.busy {
                continue; // rings are to be opened, or closed
            }
            idle &= came == 0;
            if waits {
                // The Guest has to empty its buffers first.
                let pause = if came > 0 { FULL } else { self.pause * 2 };
                self.pause = pause.min(LONG_NAP);
                idle = self.sleep_in_stream(self.pause, 0, &inboxes);
            } else if self.streams && !idle {
                idle = self.sleep_in_stream(STREAM_SLEEP, MANY, &inboxes);
            } else if self.streams {
                self.streams = self.look_out(&inboxes);
            } else {
                idle = false;
                shared.outbox().stop_listening();
                let time = self.busy.then_some(QUIET);
                shared.port().sleep(&inboxes, time);
            }
        }
    }

    /// Returns the number of frames since the last look, from rings and in
    /// buffers, and finds out whether that is a stream.
    fn look_back(&mut self) -> u32 {
        let transfers = self.shared.port().transfers();
        let came = transfers.wrapping_sub(self.seen);
        self.seen = transfers;
        let now = Instant::now();
        let soon = now - self.last.0 < LULL;
        self.busy &= came > 0 || now - self.last.0 < QUIET;
        if now - self.lately.0 > BUSY.1 {
            self.lately = (now, 0);
        }
        self.lately.1 = self.lately.1.saturating_add(came);
        self.busy |= self.lately.1 >= BUSY.0 || self.shared.always_busy();
        self.modest = self.modest.saturating_sub(1);
        let fetched = std::mem::take(&mut self.fetched);
        if came > 0 {
            self.streams = if self.shared.has_host() {
                // Where the Guest's Host cannot ring, the sleep would be too
                // long.
                let alone = soon && self.modest == 0 && self.shared.fetches();
                came > 1 || alone
            } else {
                fetched > 1
            };
            self.last = (now, came);
        }
        self.streams &= soon || came > 0;
        self.streams &= self.shared.batches();
        came
    }

    /// Polls for more for a short time. Returns whether there is something.
    fn look_out(&mut self, inboxes: &[Arc<Inbox>]) -> bool {
        let shared = self.shared;
        shared.counters().look_outs.add(1);
        let (start, mut first) = (Instant::now(), None);
        let mut now = start;
        loop {
            let waiting = inboxes.iter().map(|inbox| inbox.waiting());
            let waiting: u32 = waiting.sum();
            if shared.port().has_arrived() {
                return true;
            }
            if waiting > 0 {
                let gathered = now - *first.get_or_insert(now);
                let alone = self.last.1 <= 1;
                if alone || waiting >= ENOUGH || gathered > GATHER {
                    return true;
                }
            } else if now - start > LOOK_OUT {
                return false;
            }
            rustix::thread::sched_yield();
            let then = std::mem::replace(&mut now, Instant::now());
            if now - then > TAKEN {
                shared.counters().made_way.add(1);
                self.modest = MODEST;
                return inboxes.iter().any(|inbox| inbox.waiting() > 0);
            }
        }
    }

    /// Sleeps for `time`, or until `enough` frames wait in a ring, or until the
    /// Guest has nothing to do. Returns whether the Guest has nothing to do.
    /// `enough` = 0: any number may wait, because the Guest has no free buffer.
    fn sleep_in_stream(
        &self,
        time: Duration,
        enough: u32,
        inboxes: &[Arc<Inbox>],
    ) -> bool {
        self.shared.counters().naps.add(1);
        let port = self.shared.port();
        if !self.shared.fetches() {
            port.nap(NAP, &[], 0, None);
            return false;
        }
        let outbox = self.shared.outbox();
        port.nap(time, inboxes, enough, Some(outbox.own_doorbell()));
        outbox.stop_listening()
    }

    /// Fetches what waits in all rings. Returns whether something still does.
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
            inbox.open_for(if self.busy { room } else { 0 });
            if room == 0 || !inbox.is_heard() {
                inbox.drop_all();
            }
            let (came, waiting) = self.fetch(inbox);
            waits |= waiting;
            self.fetched += came;
            if came > 0 {
                // If buffers are scarce, the next one is for another ring.
                self.turn = at + 1;
            }
            if inbox.is_leaving() && !waiting || !inbox.is_heard() {
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

    /// Fetches what waits in a ring, if the Guest has buffers for it. Answers
    /// how many frames that was, and whether more wait.
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
            let _ = shared.guest().irq(irq);
        }
        (came, rest > 0)
    }

    /// Puts the next frame into the Guest's next buffer, or drops one that can
    /// never be delivered. Returns whether it is gone from the ring: not if
    /// there is no buffer for it yet.
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
        let memory = self.shared.memory();
        let note = |list: &[_]| self.shared.guest().memory().note(list);
        let frame = SectionsIn {
            region: inbox.region(),
            list: &[frame],
        };
        let claim = lock.binding(index, offset);
        let offer = claim.map(|claim| match claim.is_in_order(memory) {
            true => claim.fill(memory, frame, note),
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
        claim.is_some_and(|claim| claim.is_free(shared.memory()))
    }
}
