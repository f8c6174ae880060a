//! A ring of another Guest's outbox, for the Launcher that fetches from it.
//!
//! The sender's views can write all of the memory, and they may be hostile. So
//! this Launcher keeps its own position elsewhere, reads every word of the ring
//! once, and takes from what it reads at most a ring full of frames, each no
//! longer than a place in the ring. A sender may ring without having posted
//! anything a few times, as can happen to an honest one. After that its ring is
//! closed, and its Guest sends by way of its Launcher.

use crate::memory::{
    Region, SealedMemory, SealedMemoryError, Section, sealed_file,
};
use lg_wire::outbox::{
    FRAMES, LONGEST, OUTBOX_SIZE, RING_SIZE, WAKE_WHEN_IDLE, frame, ring, word,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

/// The room that a sender waits for when it has found none.
const SOME: u32 = FRAMES / 8;

/// How often in a row a sender may ring without having posted anything.
const FORGIVEN: i32 = 64;

/// Our own outbox: our Guest posts there, and other Launchers fetch.
pub(super) struct Outbox {
    file: OwnedFd,
    memory: SealedMemory,
}

impl Outbox {
    /// An empty one, all of whose rings are closed.
    pub(super) fn create() -> io::Result<Self> {
        let file = sealed_file("lguest-outbox", OUTBOX_SIZE.into())?;
        let memory = SealedMemory::open(file.as_fd());
        let memory = memory.map_err(io::Error::other)?;
        Ok(Self { file, memory })
    }

    /// The file, for our views, and for Launchers that fetch.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether the Launcher in `slot` has fetched all that was posted to it, or
    /// fetches no more.
    pub(super) fn is_fetched(&self, slot: u32) -> bool {
        let Some(ring) = ring(slot) else { return true };
        let word = |n| self.memory.atomic(ring + n).load(Ordering::SeqCst);
        word(word::ROOM) == 0 || word(word::POSTED) == word(word::FETCHED)
    }

    /// From now on our Guest's Host rings when the Guest has nothing to do.
    pub(super) fn listen(&self) {
        self.own_doorbell().store(1, Ordering::SeqCst);
    }

    /// Whether our Guest's Host can post a frame of so many bytes to `slot` as
    /// soon as there is room.
    pub(super) fn takes(&self, slot: u32, bytes: u32) -> bool {
        let room = ring(slot).map(|ring| self.memory.atomic(ring + word::ROOM));
        let room = room.map_or(0, |word| word.load(Ordering::SeqCst));
        (1..=room.min(LONGEST)).contains(&bytes)
    }

    /// Whether there is room for some frames to `slot`.
    pub(super) fn has_room(&self, slot: u32) -> bool {
        let Some(ring) = ring(slot) else { return true };
        let word = |n| self.memory.atomic(ring + n).load(Ordering::SeqCst);
        let waiting = word(word::POSTED).wrapping_sub(word(word::FETCHED));
        waiting <= FRAMES - SOME
    }

    /// The word that [`Self::listen`] sets to 1. The Host rings by setting it
    /// to 0.
    pub(super) fn own_doorbell(&self) -> &AtomicU32 {
        self.memory.atomic(WAKE_WHEN_IDLE)
    }

    /// From now on the Host need not ring. Returns whether it has.
    pub(super) fn stop_listening(&self) -> bool {
        self.own_doorbell().swap(0, Ordering::SeqCst) == 0
    }

    /// The Launcher in `slot` has gone and fetches no more.
    pub(super) fn close(&self, slot: u32) {
        if let Some(ring) = ring(slot) {
            let room = self.memory.atomic(ring + word::ROOM);
            room.store(0, Ordering::SeqCst);
        }
    }
}

/// Our ring in another Guest's outbox.
pub(super) struct Inbox {
    memory: SealedMemory,
    /// Which file it is in: device and inode.
    identity: (u64, u64),
    /// Frames that we have fetched.
    fetched: AtomicU32,
    /// How often the sender may still ring in vain.
    credit: AtomicI32,
    leaving: AtomicBool,
}

impl Inbox {
    /// The ring of `slot` in the outbox `file`, or `None` if that slot has
    /// none. What has been posted before this is lost.
    pub(super) fn open(
        file: BorrowedFd<'_>,
        slot: u32,
    ) -> Result<Option<Self>, SealedMemoryError> {
        let Some(ring) = ring(slot) else {
            return Ok(None);
        };
        let memory =
            SealedMemory::open_part(file, OUTBOX_SIZE, ring, RING_SIZE)?;
        let inbox = Self {
            memory,
            identity: identity(file)?,
            fetched: AtomicU32::new(0),
            credit: AtomicI32::new(FORGIVEN),
            leaving: AtomicBool::new(false),
        };
        inbox.drop_all();
        Ok(Some(inbox))
    }

    /// Whether this is a ring of the outbox `file`.
    pub(super) fn is_of(&self, file: BorrowedFd<'_>) -> bool {
        identity(file).is_ok_and(|identity| identity == self.identity)
    }

    /// Sets the longest frame that is taken; 0 = none.
    pub(super) fn open_for(&self, room: u32) {
        let room = if self.is_heard() {
            room.min(LONGEST)
        } else {
            0
        };
        let word = self.memory.atomic(word::ROOM);
        if word.load(Ordering::Relaxed) != room {
            word.store(room, Ordering::SeqCst);
        }
    }

    /// Whether the sender's rings still count: `false` after too many without a
    /// frame.
    pub(super) fn is_heard(&self) -> bool {
        self.credit.load(Ordering::Relaxed) >= 0
    }

    /// How many frames wait to be fetched. If the ring says more than there can
    /// be, none do.
    pub(super) fn waiting(&self) -> u32 {
        let posted = self.posted();
        let fetched = self.fetched.load(Ordering::Relaxed);
        match posted.wrapping_sub(fetched) {
            waiting @ 0..=FRAMES => waiting,
            _ => {
                self.drop_all();
                self.ring_in_vain();
                0
            }
        }
    }

    /// The memory that [`Self::frame`] is in.
    pub(super) fn region(&self) -> &Region {
        self.memory.region()
    }

    /// The next frame, which has been posted; `None` if its length is wrong.
    pub(super) fn frame(&self) -> Option<Section> {
        let (length, body) = frame(self.fetched.load(Ordering::Relaxed));
        let length = self.memory.atomic(length).load(Ordering::Relaxed);
        let good = (1..=LONGEST).contains(&length);
        good.then(|| Section::new(self.region(), body, length).ok())
            .flatten()
    }

    /// The next frame has been fetched.
    pub(super) fn advance(&self) {
        let next = self.fetched.load(Ordering::Relaxed).wrapping_add(1);
        self.fetched.store(next, Ordering::Relaxed);
        self.credit.fetch_max(FORGIVEN, Ordering::Relaxed);
    }

    /// Tells the sender how much has been fetched.
    pub(super) fn make_room(&self) {
        let fetched = self.fetched.load(Ordering::Relaxed);
        let word = self.memory.atomic(word::FETCHED);
        word.store(fetched, Ordering::SeqCst);
    }

    /// Drops all frames that wait.
    pub(super) fn drop_all(&self) {
        self.fetched.store(self.posted(), Ordering::Relaxed);
        self.make_room();
    }

    /// The sender has gone: frames that wait are fetched, and then this ring is
    /// forgotten.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// The sender has called again, so it has not gone.
    pub(super) fn stay(&self) {
        self.leaving.store(false, Ordering::SeqCst);
    }

    /// Whether the sender has gone.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// The word that the sender rings by.
    pub(super) fn doorbell(&self) -> &AtomicU32 {
        self.memory.atomic(word::ASLEEP)
    }

    /// From now on the sender rings when so many frames wait.
    pub(super) fn fall_asleep(&self, enough: u32) {
        self.doorbell().store(enough, Ordering::SeqCst);
    }

    /// From now on the sender need not ring. `woken`: it is the one that has
    /// ended the sleep.
    pub(super) fn wake_up(&self, woken: bool) {
        let rung = self.doorbell().swap(0, Ordering::SeqCst) == 0;
        if (rung || woken) && self.waiting() == 0 {
            self.ring_in_vain();
        }
    }

    fn ring_in_vain(&self) {
        self.credit.fetch_sub(1, Ordering::Relaxed);
    }

    fn posted(&self) -> u32 {
        self.memory.atomic(word::POSTED).load(Ordering::SeqCst)
    }
}

fn identity(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}
