//! A port: one page in which a Launcher shows where its Guest receives.
//!
//! Every Launcher on a LAN maps the port of every other. It holds the
//! bindings of the Guest that lie in the LAN's page, a lock so that two
//! senders do not fill one buffer, and a word with a bit for each binding
//! that something has arrived for. What is in it is not trusted: a sender
//! checks every address against the memory that it names, and the receiver
//! takes from it only which of its own interrupts to raise.
//!
//! The lock is a word with the ticket of its holder, and the wait for it is
//! bounded. A holder that was killed keeps it until the port's owner, which
//! has given out the tickets, sees the end of that connection and removes the
//! ticket. A file lock would be freed by the kernel, but costs two system
//! calls a frame.

#![expect(unsafe_code, reason = "words shared with other Launchers")]

use super::doorbell;
use super::inbox::Inbox;
use crate::engine::Binding;
use crate::memory::{SealedMemory, SealedMemoryError, sealed_file};
use lg_abi::dma::LGUEST_MAX_DMA;
use lg_abi::page::PAGE_SIZE;
use lg_wire::port::{NO_KEY, PortPage};
use rustix::thread::futex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The number of a holder of a port's lock. The owner's own is [`OWNER`].
pub(super) type Ticket = u32;

/// The ticket of the port's owner. Zero is no ticket.
pub(super) const OWNER: Ticket = 1;

/// How long a sender waits for a lock. It is held for one copy, so the wait is
/// longer only when its holder has been stopped or killed there.
const PATIENCE: Duration = Duration::from_millis(1);

/// A port that we own.
pub(super) struct Port {
    shared: SharedPort,
    file: OwnedFd,
    /// The interrupt of each binding, which no other process can write.
    irqs: [AtomicU8; LGUEST_MAX_DMA],
}

impl Port {
    /// A port without bindings.
    pub(super) fn create() -> Result<Self, SealedMemoryError> {
        let file = sealed_file("lguest-port", u64::from(PAGE_SIZE))?;
        let shared = SharedPort::open(file.as_fd())?;
        for key in &shared.words().keys {
            key.store(NO_KEY, Ordering::Relaxed);
        }
        Ok(Self {
            shared,
            file,
            irqs: Default::default(),
        })
    }

    /// The file, to hand to other Launchers.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Shows the bindings `now` that lie in the page at `page`. Waits for a
    /// sender that is filling a buffer, so that when this returns no copy is
    /// under way into one that is gone; but see [`PATIENCE`].
    ///
    /// A binding that stays keeps its place, and so its cursor and its bit.
    pub(super) fn show(&self, page: u32, now: &[Binding]) {
        let _lock = self.shared.lock(OWNER, true);
        let words = self.shared.words();
        let mut new: Vec<&Binding> = now.iter().collect();
        for (i, key) in words.keys.iter().enumerate() {
            let bound = &words.bindings[i];
            let kept = new.iter().position(|b| {
                b.key.wrapping_sub(page) == key.load(Ordering::Relaxed)
                    && b.dmas == bound.dmas.load(Ordering::Relaxed)
                    && b.num == bound.num.load(Ordering::Relaxed)
                    && b.irq == self.irqs[i].load(Ordering::Relaxed)
            });
            match kept {
                Some(at) => drop(new.remove(at)),
                None => {
                    key.store(NO_KEY, Ordering::Relaxed);
                    self.irqs[i].store(0, Ordering::Relaxed);
                }
            }
        }
        let mut new = new.into_iter();
        for (i, key) in words.keys.iter().enumerate() {
            if key.load(Ordering::Relaxed) != NO_KEY {
                continue;
            }
            let Some(binding) = new.next() else { break };
            let bound = &words.bindings[i];
            bound.dmas.store(binding.dmas, Ordering::Relaxed);
            bound.num.store(binding.num, Ordering::Relaxed);
            bound.cursor.store(0, Ordering::Relaxed);
            self.irqs[i].store(binding.irq, Ordering::Relaxed);
            key.store(binding.key.wrapping_sub(page), Ordering::Release);
        }
    }

    /// Which interrupts to raise for what has arrived.
    pub(super) fn arrived(&self) -> impl Iterator<Item = u8> + '_ {
        let bits = self.shared.words().arrived.swap(0, Ordering::SeqCst);
        self.irqs
            .iter()
            .enumerate()
            .filter(move |(i, _)| bits & 1 << i != 0)
            .map(|(_, irq)| irq.load(Ordering::Relaxed))
            .filter(|irq| *irq != 0)
    }

    /// The buffer that a sender could not use, by what it says.
    pub(super) fn blamed(&self) -> Option<u32> {
        let words = self.shared.words();
        let news = words.blames.load(Ordering::SeqCst) != 0
            && words.blames.swap(0, Ordering::SeqCst) != 0;
        news.then(|| words.blamed.load(Ordering::SeqCst))
    }

    /// Whether something has arrived whose interrupt has not been raised.
    pub(super) fn has_arrived(&self) -> bool {
        self.shared.words().arrived.load(Ordering::SeqCst) != 0
    }

    /// Every interrupt there is to raise.
    pub(super) fn all(&self) -> impl Iterator<Item = u8> + '_ {
        let irqs = self.irqs.iter().map(|irq| irq.load(Ordering::Relaxed));
        irqs.filter(|irq| *irq != 0)
    }

    /// Sleeps until something has arrived, here or in one of `inboxes`, or until
    /// `time` is over. May return earlier.
    pub(super) fn sleep(&self, inboxes: &[Arc<Inbox>], time: Option<Duration>) {
        let words = self.shared.words();
        words.asleep.store(1, Ordering::SeqCst);
        for inbox in inboxes {
            inbox.fall_asleep(1);
        }
        let nothing = words.arrived.load(Ordering::SeqCst) == 0
            && inboxes.iter().all(|inbox| inbox.waiting() == 0);
        let rung = nothing.then(|| self.rest(1, inboxes, 1, &[], time));
        words.asleep.store(0, Ordering::SeqCst);
        for (i, inbox) in inboxes.iter().enumerate() {
            inbox.wake_up(rung == Some(Some(i)));
        }
    }

    /// Waits, so that more frames arrive before their interrupt: until `time` is
    /// over, `enough` frames wait in one of `inboxes` (0 = any number may), or
    /// `own` is rung, which is 1 until then. A sender that fills buffers itself
    /// does not end this wait, unless it finds no buffer.
    pub(super) fn nap(
        &self,
        time: Duration,
        inboxes: &[Arc<Inbox>],
        enough: u32,
        own: Option<&AtomicU32>,
    ) {
        let inboxes = if enough == 0 { &[] } else { inboxes };
        for inbox in inboxes {
            inbox.fall_asleep(enough);
        }
        let own = own.map(|word| (word, 1));
        let rung = self.rest(0, inboxes, enough, own.as_slice(), Some(time));
        for (i, inbox) in inboxes.iter().enumerate() {
            inbox.wake_up(rung == Some(i));
        }
    }

    /// Sleeps while all these words are what they were set to. Answers the
    /// inbox whose sender has ended the sleep, if one has.
    fn rest(
        &self,
        asleep: u32,
        inboxes: &[Arc<Inbox>],
        enough: u32,
        own: &[(&AtomicU32, u32)],
        time: Option<Duration>,
    ) -> Option<usize> {
        let doorbells = inboxes.iter().map(|inbox| (inbox.doorbell(), enough));
        let port = (&self.shared.words().asleep, asleep);
        let others = own.iter().copied();
        let all: Vec<_> = std::iter::once(port)
            .chain(doorbells)
            .chain(others)
            .collect();
        // Woken, interrupted, and too late to sleep are nearly the same.
        let woken = doorbell::wait(&all, time)?.checked_sub(1)?;
        (woken < inboxes.len()).then_some(woken)
    }

    /// How many transfers there have been, to all bindings; wraps around.
    pub(super) fn transfers(&self) -> u32 {
        let bindings = &self.shared.words().bindings;
        bindings.iter().fold(0, |sum, bound| {
            sum.wrapping_add(bound.cursor.load(Ordering::Relaxed))
        })
    }

    /// Ends [`Self::sleep`], also if it is only about to begin.
    pub(super) fn nudge(&self) {
        self.shared.ring(LGUEST_MAX_DMA - 1, true);
    }

    /// Which binding is on the key at `offset`, and its interrupt.
    pub(super) fn find(&self, offset: u32) -> Option<(usize, u8)> {
        let index = self.shared.find(offset)?;
        Some((index, self.irqs[index].load(Ordering::Relaxed)))
    }

    /// The binding on the key at `offset`.
    pub(super) fn claim(&self, offset: u32) -> Option<Claim> {
        self.shared.binding(self.shared.find(offset)?, offset)
    }

    /// Takes the lock, unless it is held.
    pub(super) fn try_lock(&self) -> Option<Locked<'_>> {
        self.shared.lock(OWNER, false)
    }

    /// The holder of `ticket` is gone: frees the lock if it holds that.
    pub(super) fn revoke(&self, ticket: Ticket) {
        let lock = &self.shared.words().lock;
        let _ = lock.compare_exchange(
            ticket,
            0,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
    }
}

/// The port of another Launcher, or our own, mapped.
pub(super) struct SharedPort {
    memory: SealedMemory,
}

impl SharedPort {
    /// Maps the port in `file`.
    pub(super) fn open(
        file: BorrowedFd<'_>,
    ) -> Result<Self, SealedMemoryError> {
        let memory = SealedMemory::open(file)?;
        Ok(Self { memory })
    }

    /// The first binding on key `offset` of the LAN's page.
    pub(super) fn find(&self, offset: u32) -> Option<usize> {
        let keys = &self.words().keys;
        keys.iter()
            .position(|key| key.load(Ordering::Acquire) == offset)
    }

    /// Where binding `index` has its buffers, if it is (still) on `offset`:
    /// nothing in it has been checked.
    fn binding(&self, index: usize, offset: u32) -> Option<Claim> {
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
    pub(super) fn lock(
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
    /// Answers whether that took a system call.
    pub(super) fn ring(&self, index: usize, always: bool) -> bool {
        let words = self.words();
        words.arrived.fetch_or(1 << index, Ordering::SeqCst);
        let wake = words.asleep.swap(0, Ordering::SeqCst) == 1 || always;
        if wake {
            // Cannot fail: the word is mapped, whatever other processes write.
            let _ = futex::wake(&words.asleep, futex::Flags::empty(), 1);
        }
        wake
    }

    /// The owner's buffer at `dma` breaks the rules. The next such report may
    /// replace this one, and says the same of the same Guest.
    pub(super) fn blame(&self, dma: u32) {
        let words = self.words();
        words.blamed.store(dma, Ordering::SeqCst);
        words.blames.store(1, Ordering::SeqCst);
        self.ring(LGUEST_MAX_DMA - 1, true);
    }

    /// Whether the owner has still to look at the last report.
    #[cfg(test)]
    pub(super) fn blames(&self) -> bool {
        self.words().blames.load(Ordering::SeqCst) != 0
    }

    /// Sets a cursor, as a lying owner could.
    #[cfg(test)]
    pub(super) fn set_cursor(&self, index: usize, cursor: u32) {
        let words = self.words();
        let bound = &words.bindings[index];
        bound.cursor.store(cursor, Ordering::Relaxed);
    }

    /// The words in the page.
    fn words(&self) -> &PortPage {
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
pub(super) struct Locked<'p> {
    port: &'p SharedPort,
    ticket: Ticket,
}

impl Locked<'_> {
    /// Where binding `index` has its buffers, if it is (still) on `offset`.
    pub(super) fn binding(&self, index: usize, offset: u32) -> Option<Claim> {
        self.port.binding(index, offset)
    }

    /// A buffer of binding `index` has been filled.
    pub(super) fn advance(&self, index: usize) {
        let cursor = &self.port.words().bindings[index].cursor;
        let next = cursor.load(Ordering::Relaxed).wrapping_add(1);
        cursor.store(next, Ordering::Relaxed);
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Only if it still holds our ticket: an owner that takes us for dead
        // may have freed it.
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
pub(super) struct Claim {
    /// Physical address of the array.
    pub(super) dmas: u32,
    /// How many `lguest_dma`s it has.
    pub(super) num: u32,
    /// Transfers so far.
    pub(super) cursor: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u32 = 0x5000;

    fn binding(key: u32, dmas: u32, irq: u8) -> Binding {
        let key = PAGE + key;
        Binding {
            key,
            dmas,
            num: 8,
            irq,
        }
    }

    #[test]
    fn what_is_shown_is_found_until_it_is_gone() {
        let port = Port::create().unwrap();
        let (a, b) = (binding(4, 0x100, 2), binding(8, 0x200, 3));
        port.show(PAGE, &[a, b]);
        let peer = SharedPort::open(port.file()).unwrap();
        let at = peer.find(8).unwrap();
        let claim = peer.lock(7, true).unwrap().binding(at, 8).unwrap();
        assert_eq!((claim.dmas, claim.num, claim.cursor), (0x200, 8, 0));
        port.show(PAGE, &[a]);
        assert_eq!(peer.find(8), None);
        assert!(peer.lock(7, true).unwrap().binding(at, 8).is_none());
        assert!(peer.find(4).is_some());
    }

    #[test]
    fn a_binding_that_stays_keeps_its_cursor_and_its_bit() {
        let port = Port::create().unwrap();
        let (a, b) = (binding(4, 0x100, 2), binding(8, 0x200, 3));
        port.show(PAGE, &[a, b]);
        let at = port.shared.find(4).unwrap();
        port.shared.lock(7, true).unwrap().advance(at);
        port.show(PAGE, &[binding(12, 0x300, 5), a]);
        assert_eq!(port.shared.find(4), Some(at));
        let claim = port.shared.lock(7, true).unwrap().binding(at, 4).unwrap();
        assert_eq!(claim.cursor, 1);
    }

    #[test]
    fn rings_become_the_owners_interrupts_and_no_others() {
        let port = Port::create().unwrap();
        port.show(PAGE, &[binding(4, 0x100, 2)]);
        let at = port.shared.find(4).unwrap();
        port.shared.ring(at, false);
        port.shared.ring(at, false);
        port.shared.ring(31, false);
        assert_eq!(port.arrived().collect::<Vec<_>>(), [2]);
        assert_eq!(port.arrived().count(), 0);
    }

    #[test]
    fn a_lock_is_waited_for_but_not_for_long() {
        let port = Port::create().unwrap();
        let held = port.shared.lock(7, true).unwrap();
        let start = Instant::now();
        assert!(port.shared.lock(8, true).is_none());
        assert!(start.elapsed() >= PATIENCE);
        drop(held);
        assert!(port.shared.lock(8, true).is_some());
    }

    #[test]
    fn only_the_lock_of_a_dead_holder_is_revoked() {
        let port = Port::create().unwrap();
        std::mem::forget(port.shared.lock(7, true).unwrap());
        port.revoke(8);
        assert!(port.shared.lock(9, true).is_none());
        port.revoke(7);
        assert!(port.shared.lock(9, true).is_some());
    }

    #[test]
    fn a_ring_ends_the_sleep() {
        let port = Port::create().unwrap();
        port.show(PAGE, &[binding(4, 0x100, 2)]);
        std::thread::scope(|s| {
            let sleeper = s.spawn(|| {
                loop {
                    if let Some(irq) = port.arrived().next() {
                        return irq;
                    }
                    port.sleep(&[], None);
                }
            });
            port.shared.ring(0, false);
            assert_eq!(sleeper.join().unwrap(), 2);
        });
    }
}
