//! A member of a network of 2007 that has no kernel: the Launcher itself.
//!
//! For the network it is like a Guest: memory with the network's page, and
//! buffers that are bound to a key. Other Launchers fill the buffers, and a
//! hostile one may write anything there. So every word is read once and
//! checked, and the memory has only frames in it.

use crate::engine::{Binding, BoundDma, RequestError, Requests};
use crate::memory::GuestMemory;
use lg_abi::device::net_key_offset;
use lg_abi::dma::Dma;
use lg_abi::page::PAGE_SIZE;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many buffers there are. Linux 2.6.23 binds as many.
const BUFFERS: u32 = 64;

/// The addresses of the lists of the buffers, and of the buffers: a page for
/// each.
const LISTS: u32 = PAGE_SIZE;
const FRAMES: u32 = 4 * PAGE_SIZE;

/// Bytes of the member's memory, without the network's page after it.
const RAM: u32 = FRAMES + BUFFERS * PAGE_SIZE;

/// The longest frame that can arrive.
pub(super) const FRAME_MOST: u32 = PAGE_SIZE;

/// The interrupt that the network raises. The number has no meaning here.
const IRQ: u8 = 1;

/// The Launcher as a member of a network.
pub(super) struct Member {
    memory: GuestMemory,
    guest: Arc<dyn Requests>,
    slot: u32,
    /// Can be read when frames have arrived.
    bell: OwnedFd,
    /// The buffer that is filled next.
    next: AtomicU32,
}

/// A frame that has arrived, in one of the buffers.
pub(super) struct Arrived {
    buffer: u32,
    bytes: usize,
}

impl Arrived {
    /// Its length.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Member {
    /// Where the network's page is in the member's memory.
    pub(super) const PAGE: u32 = RAM;

    /// A member in `slot`, on behalf of `guest`, with empty buffers.
    pub(super) fn new(guest: Arc<dyn Requests>, slot: u32) -> io::Result<Self> {
        let memory = GuestMemory::new(RAM, 1)?;
        for buffer in 0..BUFFERS {
            let mut list = Dma::default();
            list.addr[0] = FRAMES + buffer * PAGE_SIZE;
            list.len[0] = FRAME_MOST.try_into().unwrap_or(u16::MAX);
            memory
                .write_object(LISTS + buffer * Dma::SIZE, &list)
                .map_err(io::Error::other)?;
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            memory,
            guest,
            slot,
            bell: eventfd(0, flags)?,
            next: AtomicU32::new(0),
        })
    }

    /// The file that can be read when frames have arrived.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Clears the bell, so that the next frame rings it again.
    pub(super) fn silence(&self) {
        // If there is nothing to read, the bell has not rung.
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
    }

    /// Copies the next frame, in the order in which buffers are filled.
    pub(super) fn next(
        &self,
        frame: &mut [u8; FRAME_MOST as usize],
    ) -> Option<Arrived> {
        let first = self.next.load(Ordering::Relaxed);
        let numbers = (first..first + BUFFERS).map(|n| n % BUFFERS);
        for buffer in numbers {
            let used = LISTS + buffer * Dma::SIZE;
            let bytes = self.memory.read_object::<u32>(used).unwrap_or(0);
            if bytes == 0 {
                continue;
            }
            let bytes = bytes.min(FRAME_MOST) as usize;
            let at = FRAMES + buffer * PAGE_SIZE;
            self.memory.read(at, &mut frame[..bytes]).ok()?;
            return Some(Arrived { buffer, bytes });
        }
        None
    }

    /// The buffer of `arrived` may be filled again.
    pub(super) fn free(&self, arrived: Arrived) {
        let used = LISTS + arrived.buffer * Dma::SIZE;
        // It is in our memory.
        let _ = self.memory.write_last(used, 0);
        let next = (arrived.buffer + 1) % BUFFERS;
        self.next.store(next, Ordering::Relaxed);
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
        // It is full only if it has rung very often and was not read.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        Ok(())
    }

    fn bindings_in(&self, page: u32) -> Vec<Binding> {
        vec![Binding {
            key: page + net_key_offset(self.slot),
            dmas: LISTS,
            num: BUFFERS,
            irq: IRQ,
        }]
    }

    fn kill(&self, reason: String) {
        self.guest.kill(reason);
    }

    fn stay_close(&self, at: &mut Option<usize>) {
        self.guest.stay_close(at);
    }
}

const _: () = assert!(LISTS + BUFFERS * Dma::SIZE <= FRAMES);
