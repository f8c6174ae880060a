//! A port, mapped: what each Launcher on the LAN may do with its words.
//!
//! The lock is a word with the ticket of its holder, and the wait for it is
//! bounded. A holder that was killed keeps it until the port's owner, which
//! has given out the tickets, sees the end of that connection and removes the
//! ticket. A file lock would be freed by the kernel, but costs two system
//! calls a frame.

#![expect(unsafe_code, reason = "words shared with other Launchers")]

use crate::memory::{SealedMemory, SealedMemoryError};
use lg_abi::dma::LGUEST_MAX_DMA;
use lg_wire::port::PortPage;
use rustix::thread::futex;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The number of a holder of a port's lock. The owner's own is [`OWNER`].
pub(in super::super) type Ticket = u32;

/// The ticket of the port's owner. Zero is no ticket.
pub(in super::super) const OWNER: Ticket = 1;

/// How long a sender waits for a lock. It is held for one copy, so the wait is
/// longer only when its holder has been stopped or killed there.
pub(super) const PATIENCE: Duration = Duration::from_millis(1);

/// The port of another Launcher, or our own, mapped.
pub(in super::super) struct SharedPort {
    memory: SealedMemory,
}

impl SharedPort {
    /// Maps the port in `file`.
    pub(in super::super) fn open(
        file: BorrowedFd<'_>,
    ) -> Result<Self, SealedMemoryError> {
        let memory = SealedMemory::open(file)?;
        Ok(Self { memory })
    }

    /// The first binding on key `offset` of the LAN's page.
    pub(in super::super) fn find(&self, offset: u32) -> Option<usize> {
        let keys = &self.words().keys;
        keys.iter()
            .position(|key| key.load(Ordering::Acquire) == offset)
    }

    /// Where binding `index` has its buffers, if it is (still) on `offset`:
    /// nothing in it has been checked.
    pub(super) fn binding(&self, index: usize, offset: u32) -> Option<Claim> {
        let words = self.words();
        let bound = &words.bindings[index];
        (words.keys[index].load(Ordering::Acquire) == offset).then(|| Claim {
            dmas: bound.dmas.load(Ordering::Relaxed),
            num: bound.num.load(Ordering::Relaxed),
            cursor: bound.cursor.load(Ordering::Relaxed),
        })
    }

    /// Takes the lock for `ticket`. If it is held, a patient caller waits for
    /// [`PATIENCE`] at most before it gets `None`.
    pub(in super::super) fn lock(
        &self,
        ticket: Ticket,
        patient: bool,
    ) -> Option<Locked<'_>> {
        let words = self.words();
        let take = || {
            words
                .lock
                .compare_exchange(
                    0,
                    ticket,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                )
                .is_ok()
        };
        if !take() {
            let deadline = Instant::now() + PATIENCE;
            loop {
                if take() {
                    break;
                }
                if !patient || Instant::now() > deadline {
                    return None;
                }
                rustix::thread::sched_yield();
            }
        }
        Some(Locked { port: self, ticket })
    }

    /// Something has arrived for binding `index`, or needs room there: its
    /// owner has to raise the interrupt. `always` wakes the owner even where
    /// another sender should have done so, but may have been killed before.
    /// Returns whether that took a system call.
    pub(in super::super) fn ring(&self, index: usize, always: bool) -> bool {
        let words = self.words();
        words.arrived.fetch_or(1 << index, Ordering::SeqCst);
        let wake = words.asleep.swap(0, Ordering::SeqCst) == 1 || always;
        if wake {
            // This cannot fail, because the word is mapped.
            let _ = futex::wake(&words.asleep, futex::Flags::empty(), 1);
        }
        wake
    }

    /// The owner's buffer at `dma` breaks the rules. The next such report may
    /// replace this one, and says the same of the same Guest.
    pub(in super::super) fn blame(&self, dma: u32) {
        let words = self.words();
        words.blamed.store(dma, Ordering::SeqCst);
        words.blames.store(1, Ordering::SeqCst);
        self.ring(LGUEST_MAX_DMA - 1, true);
    }

    /// Whether the owner has not read the last report yet.
    #[cfg(test)]
    pub(in super::super) fn blames(&self) -> bool {
        self.words().blames.load(Ordering::SeqCst) != 0
    }

    /// Sets a cursor, as a hostile owner could.
    #[cfg(test)]
    pub(in super::super) fn set_cursor(&self, index: usize, cursor: u32) {
        let words = self.words();
        let bound = &words.bindings[index];
        bound.cursor.store(cursor, Ordering::Relaxed);
    }

    /// The words in the page.
    pub(super) fn words(&self) -> &PortPage {
        let size = size_of::<PortPage>().try_into().unwrap_or(u32::MAX);
        let page = self.memory.region().pointer(0, size);
        let page = page.expect("memory is a page at least");
        // SAFETY: the bytes are there, aligned as pages are, and mapped for as
        // long as `self` lives; atomic integers may be written by any process
        // at any time.
        unsafe { &*page.cast::<PortPage>() }
    }
}

/// The lock of a port, held.
pub(in super::super) struct Locked<'p> {
    port: &'p SharedPort,
    ticket: Ticket,
}

impl Locked<'_> {
    /// Where binding `index` has its buffers, if it is (still) on `offset`.
    pub(in super::super) fn binding(
        &self,
        index: usize,
        offset: u32,
    ) -> Option<Claim> {
        self.port.binding(index, offset)
    }

    /// A buffer of binding `index` has been filled.
    pub(in super::super) fn advance(&self, index: usize) {
        let cursor = &self.port.words().bindings[index].cursor;
        let next = cursor.load(Ordering::Relaxed).wrapping_add(1);
        cursor.store(next, Ordering::Relaxed);
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Only if it still holds our ticket: the owner may have freed it
        // because it thinks that this process has ended.
        let _ = self.port.words().lock.compare_exchange(
            self.ticket,
            0,
            Ordering::Release,
            Ordering::Relaxed,
        );
    }
}

/// A binding as a port has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Claim {
    /// Physical address of the array.
    pub(in super::super) dmas: u32,
    /// How many `lguest_dma`s it has.
    pub(in super::super) num: u32,
    /// Transfers so far.
    pub(in super::super) cursor: u32,
}
