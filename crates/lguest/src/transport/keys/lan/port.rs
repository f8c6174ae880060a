//! A port: one page in which a Launcher shows where its Guest receives.
//!
//! Every Launcher on a LAN maps the port of every other. It holds the
//! bindings of the Guest that lie in the LAN's page, a lock so that two
//! senders do not fill one buffer, and a word with a bit for each binding
//! that something has arrived for. What is in it is not trusted: a sender
//! checks every address against the memory that it names, and the receiver
//! takes from it only which of its own interrupts to raise.

mod mapped;
pub(super) use mapped::{Claim, Locked, OWNER, SharedPort, Ticket};

use super::doorbell;
use super::inbox::Inbox;
use crate::engine::Binding;
use crate::memory::{SealedMemoryError, sealed_file};
use lg_abi::dma::LGUEST_MAX_DMA;
use lg_abi::page::PAGE_SIZE;
use lg_wire::port::NO_KEY;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

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
    /// under way into one that is gone; but see [`mapped::PATIENCE`].
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

    /// Sleeps until something has arrived, here or in one of `inboxes`, or
    /// until `time` is over. May return earlier.
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

    /// Waits, so that more frames arrive before their interrupt: until `time`
    /// is over, `enough` frames wait in one of `inboxes` (0 = any number may),
    /// or `own` is rung, which is 1 until then. A sender that fills buffers
    /// itself does not end this wait, unless it finds no buffer.
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

    /// Sleeps while all these words are what they were set to. Returns the
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
        // It does not matter whether it was woken, was interrupted, or never
        // slept.
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

#[cfg(test)]
mod tests;
