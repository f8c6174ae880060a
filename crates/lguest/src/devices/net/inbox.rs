//! A ring of somebody's outbox, as the Launcher sees it that fetches from it.
//!
//! The sender's views own the memory as much as we do, and they may be hostile.
//! So what is ours to know (how much we have fetched) we know without looking
//! there, every word of theirs is read once, and what they say bounds what we
//! do for them: at most a ring full of frames, each no longer than a place in
//! the ring. Who rings without reason is forgiven as often as an honest sender
//! can have rung too late, and then not heard any more: he asks his Launcher,
//! as of old.

use super::window::{Sections, Window, WindowError};
use crate::memory::sealed_file;
use lg_wire::outbox::{
    DOZES, FRAMES, LONGEST, OUTBOX_SIZE, RING_SIZE, frame, ring, word,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

/// How much room a sender waits for who has found none.
const SOME: u32 = FRAMES / 8;

/// How often in a row a sender may ring without having posted anything.
const FORGIVEN: i32 = 64;

/// Our own outbox: our Guest posts there, and others fetch.
pub(super) struct Outbox {
    file: OwnedFd,
    window: Window,
}

impl Outbox {
    /// An empty one, all of whose rings are closed.
    pub(super) fn create() -> io::Result<Self> {
        let file = sealed_file("lguest-outbox", OUTBOX_SIZE.into())?;
        let window = Window::open(file.as_fd()).map_err(io::Error::other)?;
        Ok(Self { file, window })
    }

    /// The file, for our views, and for whoever is to fetch.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether whoever is in `slot` has fetched all that was posted to him, or
    /// does not fetch any more.
    pub(super) fn is_fetched(&self, slot: u32) -> bool {
        let Some(ring) = ring(slot) else { return true };
        let word = |n| self.window.atomic(ring + n).load(Ordering::SeqCst);
        word(word::ROOM) == 0 || word(word::POSTED) == word(word::FETCHED)
    }

    /// From here on our own Guest rings us when it has nothing to do.
    pub(super) fn listen(&self) {
        self.own_doorbell().store(1, Ordering::SeqCst);
    }

    /// Whether our Host could post a frame of so many bytes to whoever is in
    /// `slot`, if only there were room.
    pub(super) fn takes(&self, slot: u32, bytes: u32) -> bool {
        let room = ring(slot).map(|ring| self.window.atomic(ring + word::ROOM));
        let room = room.map_or(0, |word| word.load(Ordering::SeqCst));
        (1..=room.min(LONGEST)).contains(&bytes)
    }

    /// Whether there is, for some.
    pub(super) fn has_room(&self, slot: u32) -> bool {
        let Some(ring) = ring(slot) else { return true };
        let word = |n| self.window.atomic(ring + n).load(Ordering::SeqCst);
        let waiting = word(word::POSTED).wrapping_sub(word(word::FETCHED));
        waiting <= FRAMES - SOME
    }

    /// The word on which it does: 1 as long as it has not.
    pub(super) fn own_doorbell(&self) -> &AtomicU32 {
        self.window.atomic(DOZES)
    }

    /// It need not ring any more. Answers whether it has.
    pub(super) fn stop_listening(&self) -> bool {
        self.own_doorbell().swap(0, Ordering::SeqCst) == 0
    }

    /// Nobody is in `slot` any more who would fetch.
    pub(super) fn close(&self, slot: u32) {
        if let Some(ring) = ring(slot) {
            let room = self.window.atomic(ring + word::ROOM);
            room.store(0, Ordering::SeqCst);
        }
    }
}

/// Our ring of another's outbox.
pub(super) struct Inbox {
    window: Window,
    /// Which file it is in: device and inode.
    identity: (u64, u64),
    /// Frames that we have fetched.
    fetched: AtomicU32,
    /// How often the sender may yet ring in vain.
    credit: AtomicI32,
    leaving: AtomicBool,
}

impl Inbox {
    /// The ring of `slot` in the outbox `file`, or `None` if that slot has
    /// none. What has been posted before this is lost.
    pub(super) fn open(
        file: BorrowedFd<'_>,
        slot: u32,
    ) -> Result<Option<Self>, WindowError> {
        let Some(ring) = ring(slot) else {
            return Ok(None);
        };
        let window = Window::open_part(file, OUTBOX_SIZE, ring, RING_SIZE)?;
        let inbox = Self {
            window,
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

    /// Says how long a frame we take; 0 = none.
    pub(super) fn open_for(&self, room: u32) {
        let room = if self.is_heard() {
            room.min(LONGEST)
        } else {
            0
        };
        let word = self.window.atomic(word::ROOM);
        if word.load(Ordering::Relaxed) != room {
            word.store(room, Ordering::SeqCst);
        }
    }

    /// Whether the sender has not rung in vain too often.
    pub(super) fn is_heard(&self) -> bool {
        self.credit.load(Ordering::Relaxed) >= 0
    }

    /// How many frames wait to be fetched. Where that is more than there can
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

    /// The next frame, which is there; `None` if it cannot be one.
    pub(super) fn frame(&self) -> Option<Sections<'_>> {
        let (length, body) = frame(self.fetched.load(Ordering::Relaxed));
        let length = self.window.atomic(length).load(Ordering::Relaxed);
        let good = (1..=LONGEST).contains(&length);
        good.then(|| self.window.piece(body, length).ok()).flatten()
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
        let word = self.window.atomic(word::FETCHED);
        word.store(fetched, Ordering::SeqCst);
    }

    /// Throws away whatever waits.
    pub(super) fn drop_all(&self) {
        self.fetched.store(self.posted(), Ordering::Relaxed);
        self.make_room();
    }

    /// The sender has gone: what waits is fetched, and then this is forgotten.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// He has not, for he has called again.
    pub(super) fn stay(&self) {
        self.leaving.store(false, Ordering::SeqCst);
    }

    /// Whether that has been said.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// The word on which we sleep.
    pub(super) fn doorbell(&self) -> &AtomicU32 {
        self.window.atomic(word::ASLEEP)
    }

    /// From here on the sender rings when so many frames wait.
    pub(super) fn fall_asleep(&self, enough: u32) {
        self.doorbell().store(enough, Ordering::SeqCst);
    }

    /// From here on he need not. `woken`: he is the one who has woken us.
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
        self.window.atomic(word::POSTED).load(Ordering::SeqCst)
    }
}

fn identity(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}
