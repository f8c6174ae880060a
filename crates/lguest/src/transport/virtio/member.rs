//! A member of a network of 2007 that has no kernel: the Launcher itself.
//!
//! For the network it is like a Guest: memory with the network's page, and
//! buffers that are bound to a key. Other Launchers fill the buffers, and a
//! hostile one may write anything there. So every word is read once and
//! checked, and the memory has only frames in it.
//!
//! The thread that finds frames takes them into the Guest's memory itself, by
//! a [`TakeInput`]. What it cannot take (the Guest has no buffer) is taken by
//! the thread that waits for input, which the bell wakes.
//!
//! A second key has longer buffers. What goes there are frames with a header of
//! virtio in front, which may lack a checksum or be many segments. No Guest of
//! 2007 knows this key.

use crate::devices::net::offload::HEADER;
use crate::engine::{Binding, BoundDma, RequestError, Requests};
use crate::memory::{GuestMemory, Region, Section};
use crate::transport::TakeInput;
use lg_abi::device::{NET_SLOTS, net_key_offset};
use lg_abi::dma::{Dma, LGUEST_MAX_DMA_SECTIONS};
use lg_abi::gen2::device::NET_HEADER;
use lg_abi::page::PAGE_SIZE;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// How many buffers there are. Linux 2.6.23 binds as many.
const BUFFERS: u32 = 64;

/// The addresses of the lists of the buffers, and of the buffers: a page for
/// each. Then the same for the long ones.
const LISTS: u32 = PAGE_SIZE;
const FRAMES: u32 = 3 * PAGE_SIZE;
const LONG_LISTS: u32 = FRAMES + BUFFERS * PAGE_SIZE;
const LONG_FRAMES: u32 = LONG_LISTS + 2 * PAGE_SIZE;

/// Pages and bytes of a long buffer: what a list can have.
const LONG_PAGES: u32 = 16;
const LONG: u32 = LONG_PAGES * PAGE_SIZE;

/// Bytes of the member's memory, without the network's page after it. What is
/// never used of it is not there.
const RAM: u32 = LONG_FRAMES + BUFFERS * LONG;

/// The most bytes that can arrive, with a header.
pub(super) const MOST: usize = LONG as usize;

/// The two keys of a member: its buffers, and its long buffers.
const KEYS: [Buffers; 2] = [
    Buffers {
        lists: LISTS,
        frames: FRAMES,
        bytes: PAGE_SIZE,
    },
    Buffers {
        lists: LONG_LISTS,
        frames: LONG_FRAMES,
        bytes: LONG,
    },
];

/// The one of them whose frames have a header.
const WITH_HEADER: usize = 1;

/// The buffers of a key.
#[derive(Clone, Copy)]
struct Buffers {
    /// Where their lists are.
    lists: u32,
    /// Where they are.
    frames: u32,
    /// Bytes of each.
    bytes: u32,
}

/// The offset of the key of the long buffers of the member in `slot`: behind
/// those of all slots. The page ends before that of many a slot.
pub(super) fn long_key(slot: u32) -> Option<u32> {
    let offset = net_key_offset(NET_SLOTS + slot);
    (offset < PAGE_SIZE).then_some(offset)
}

/// The interrupt that the network raises. The number has no meaning here.
const IRQ: u8 = 1;

/// The Launcher as a member of a network.
pub(super) struct Member {
    memory: GuestMemory,
    guest: Arc<dyn Requests>,
    slot: u32,
    /// Can be read when frames have arrived.
    bell: OwnedFd,
    /// Whether it has rung.
    rung: AtomicBool,
    /// Takes frames that have arrived, once there is a thread for it.
    take: OnceLock<TakeInput>,
    /// The buffer that is filled next, of each key.
    next: [AtomicU32; 2],
    /// The key that is looked at first.
    turn: AtomicUsize,
}

/// A frame that has arrived, in one of the buffers.
pub(super) struct Arrived {
    /// The header in front of it, where there is one.
    pub(super) header: Option<[u8; HEADER]>,
    /// Where the frame is in the member's memory. A hostile Launcher may
    /// change it at any time.
    pub(super) frame: Section,
    /// Its key and its buffer, for [`Member::free`].
    pub(super) place: (usize, u32),
}

impl Member {
    /// Where the network's page is in the member's memory.
    pub(super) const PAGE: u32 = RAM;

    /// A member in `slot`, on behalf of `guest`, with empty buffers.
    pub(super) fn new(guest: Arc<dyn Requests>, slot: u32) -> io::Result<Self> {
        let memory = GuestMemory::new(RAM, 1)?;
        for key in KEYS {
            for buffer in 0..BUFFERS {
                let mut list = Dma::default();
                let pages = (key.bytes / PAGE_SIZE) as usize;
                let first = key.frames + buffer * key.bytes;
                let pages = (first..).step_by(PAGE_SIZE as usize).take(pages);
                for (section, page) in pages.enumerate() {
                    list.addr[section] = page;
                    list.len[section] =
                        PAGE_SIZE.try_into().unwrap_or(u16::MAX);
                }
                memory
                    .write_object(key.lists + buffer * Dma::SIZE, &list)
                    .map_err(io::Error::other)?;
            }
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            memory,
            guest,
            slot,
            bell: eventfd(0, flags)?,
            rung: AtomicBool::new(false),
            take: OnceLock::new(),
            next: Default::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// The file that can be read when frames have arrived.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Clears the bell, so that the next frame rings it again.
    pub(super) fn silence(&self) {
        if self.rung.swap(false, Ordering::SeqCst) {
            // If there is nothing to read, it was read already.
            let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
        }
    }

    /// The thread that finds frames takes them by this.
    pub(super) fn let_take(&self, take: TakeInput) {
        // If there is one already, it stays.
        let _ = self.take.set(take);
    }

    /// The next frame, in the order in which the buffers of a key are filled.
    /// It stays until its place is [freed](Self::free). The keys take turns, so
    /// that frames to one do not keep those to the other waiting.
    pub(super) fn next(&self) -> Option<Arrived> {
        let first = self.turn.load(Ordering::Relaxed);
        let mut keys = (first..first + KEYS.len()).map(|key| key % KEYS.len());
        keys.find_map(|key| self.next_of(key))
    }

    fn next_of(&self, key: usize) -> Option<Arrived> {
        let of = KEYS[key];
        let first = self.next[key].load(Ordering::Relaxed);
        let mut numbers = (first..first + BUFFERS).map(|n| n % BUFFERS);
        let mut buffer = numbers.find(|&n| self.used(key, n) != 0)?;
        // Several may have been filled while this looked: then the first of
        // them was found empty, and full is one behind it.
        if self.used(key, first) != 0 {
            buffer = first;
        }
        let bytes = self.used(key, buffer);
        let (mut at, mut bytes) =
            (of.frames + buffer * of.bytes, bytes.min(of.bytes));
        let mut header = None;
        if key == WITH_HEADER {
            let mut first = [0; HEADER];
            self.memory.read(at, &mut first).ok()?;
            at += NET_HEADER;
            bytes = bytes.saturating_sub(NET_HEADER);
            header = Some(first);
        }
        Some(Arrived {
            header,
            frame: self.memory.section(at, bytes).ok()?,
            place: (key, buffer),
        })
    }

    /// How many bytes have arrived in a buffer.
    fn used(&self, key: usize, buffer: u32) -> u32 {
        let used = KEYS[key].lists + buffer * Dma::SIZE;
        self.memory.read_object(used).unwrap_or(0)
    }

    /// The buffer in this place may be filled again.
    pub(super) fn free(&self, (key, buffer): (usize, u32)) {
        let used = KEYS[key].lists + buffer * Dma::SIZE;
        // It is in our memory.
        let _ = self.memory.write_last(used, 0);
        let next = (buffer + 1) % BUFFERS;
        self.next[key].store(next, Ordering::Relaxed);
        self.turn.store((key + 1) % KEYS.len(), Ordering::Relaxed);
    }

    /// The memory that [`Arrived::frame`] is in.
    pub(super) fn region(&self) -> &Region {
        self.memory.region()
    }
}

impl Requests for Member {
    fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    fn get_dma(&self, _: u32) -> Result<Option<BoundDma>, RequestError> {
        Ok(None)
    }

    fn irq(&self, _: u8) -> Result<(), RequestError> {
        if self.take.get().is_some_and(|take| take()) {
            return Ok(());
        }
        // It is full only if it has rung very often and was not read.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        // After that, so that no ring stays unread.
        self.rung.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn bindings_in(&self, page: u32) -> Vec<Binding> {
        let offsets = [Some(net_key_offset(self.slot)), long_key(self.slot)];
        let binding = |(of, offset): (Buffers, Option<u32>)| {
            Some(Binding {
                key: page + offset?,
                dmas: of.lists,
                num: BUFFERS,
                irq: IRQ,
            })
        };
        KEYS.into_iter().zip(offsets).filter_map(binding).collect()
    }

    fn kill(&self, reason: String) {
        self.guest.kill(reason);
    }

    fn stay_close(&self, at: &mut Option<usize>) {
        self.guest.stay_close(at);
    }
}

const _: () = {
    assert!(LISTS + BUFFERS * Dma::SIZE <= FRAMES);
    assert!(LONG_LISTS + BUFFERS * Dma::SIZE <= LONG_FRAMES);
    assert!(LONG_PAGES as usize == LGUEST_MAX_DMA_SECTIONS);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::virtio::testing::guest;

    /// Another Launcher has put a frame into this buffer.
    fn fill(member: &Member, key: usize, buffer: u32) {
        let used = KEYS[key].lists + buffer * Dma::SIZE;
        member.memory.write(used, &60_u32.to_le_bytes()).unwrap();
    }

    #[test]
    fn frames_that_arrive_meanwhile_stay_in_their_order() {
        const FRAMES: u32 = 50_000;
        let member = Member::new(guest(0), 3).unwrap();
        let at = |buffer: u32| KEYS[0].frames + buffer * KEYS[0].bytes;
        let mut numbers = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..FRAMES {
                    let buffer = n % BUFFERS;
                    while member.used(0, buffer) != 0 {
                        std::thread::yield_now();
                    }
                    member.memory.write(at(buffer), &n.to_le_bytes()).unwrap();
                    fill(&member, 0, buffer);
                }
            });
            // It looks all the time, so that frames arrive meanwhile.
            let mut looks = 0;
            while numbers.len() < FRAMES as usize {
                looks += 1;
                if looks % 1000 == 0 {
                    std::thread::yield_now();
                }
                let Some(arrived) = member.next() else {
                    continue;
                };
                let at = arrived.frame.addr();
                numbers.push(member.memory.read_object::<u32>(at).unwrap());
                member.free(arrived.place);
            }
        });
        let in_order: Vec<_> = (0..FRAMES).collect();
        assert!(numbers == in_order);
    }

    #[test]
    fn a_flood_to_one_key_does_not_keep_the_other_waiting() {
        let member = Member::new(guest(0), 3).unwrap();
        for flooded in [0, 1] {
            let other = 1 - flooded;
            (0..BUFFERS).for_each(|buffer| fill(&member, flooded, buffer));
            let start = member.next[other].load(Ordering::Relaxed);
            (start..start + 3).for_each(|n| fill(&member, other, n % BUFFERS));
            let mut left = 3;
            for _ in 0..2 * 3 {
                let arrived = member.next().unwrap();
                let (key, buffer) = arrived.place;
                assert_eq!(arrived.header.is_some(), key == WITH_HEADER);
                member.free(arrived.place);
                match key == other {
                    true => left -= 1,
                    // The sender does not stop.
                    false => fill(&member, flooded, buffer),
                }
            }
            assert_eq!(left, 0, "key {flooded} was flooded");
            while let Some(arrived) = member.next() {
                member.free(arrived.place);
            }
        }
    }
}
