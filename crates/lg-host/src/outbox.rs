//! Posting frames for other Guests, without a request to the Launcher.
//!
//! To ask the Launcher for every frame costs two switches of processes, and one
//! more to wake the receiver. So the Host copies a frame into the receiver's
//! ring ([`lg_wire::outbox`]) and writes a word. The receiver looks at that
//! word again before it sleeps, so it must be woken only while it sleeps.
//!
//! Nothing is decided here that the Launcher would decide in another way.
//! Where anything is unusual (a ring that is closed or full, a list that breaks
//! the rules, a frame that is empty or too long) the Host asks the Launcher.

use crate::address::{GuestPhys, as_word};
use crate::fast_path;
use crate::host::Host;
use crate::kill::Kill;
use crate::memory::Memory;
use lg_abi::device::LGUEST_MAX_DEVICES;
use lg_abi::dma::{Dma, KEY_ALIGN};
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use lg_wire::outbox::{
    FRAMES, LONGEST, OUTBOX_SIZE, WAKE_WHEN_IDLE, frame, ring, word,
};

/// The outboxes of a Guest, one for each network's page.
pub struct Outboxes {
    memory: Memory,
    /// The numbers of these pages.
    pages: [u32; LGUEST_MAX_DEVICES],
    count: usize,
}

impl Outboxes {
    /// The outboxes in `memory`, one behind the other in the order of `pages`.
    ///
    /// # Panics
    ///
    /// When there are not as many: we are wrong.
    #[must_use]
    pub fn new(memory: Memory, pages: &[u32]) -> Self {
        assert!(as_word(pages.len()) * OUTBOX_SIZE <= memory.limit());
        let mut all = [0; LGUEST_MAX_DEVICES];
        all[..pages.len()].copy_from_slice(pages);
        Self {
            memory,
            pages: all,
            count: pages.len(),
        }
    }

    /// Where the outbox is of the network whose page `key` lies in.
    fn of(&self, key: u32) -> Option<u32> {
        let pages = &self.pages[..self.count];
        let outbox = pages.iter().position(|&page| page == key >> PAGE_SHIFT);
        outbox.map(|outbox| as_word(outbox) * OUTBOX_SIZE)
    }

    /// Whether the page at `frame` is a network's, which other Guests write to.
    pub(crate) fn is_networks(&self, frame: GuestPhys) -> bool {
        self.of(frame.0).is_some()
    }

    /// The ring of the receiver whose usual key is `key`.
    fn ring(&self, key: u32) -> Option<u32> {
        let ring = ring(key % PAGE_SIZE / KEY_ALIGN)?;
        self.of(key).map(|outbox| outbox + ring)
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Post {
    /// It is posted.
    Done,
    /// There is no room now: the Launcher waits for some, but not for long.
    Full,
    /// It cannot be posted.
    Never,
}

impl Host<'_> {
    /// Posts what is in `dma`, if the receiver at `key` has a ring that takes
    /// it.
    pub(crate) fn post(
        &mut self,
        key: u32,
        dma: GuestPhys,
    ) -> Result<Post, Kill> {
        let Some(ring) = self.outboxes.ring(key) else {
            return Ok(Post::Never);
        };
        if self.vm.slow_paths.get() & fast_path::OUTBOX != 0 {
            return Ok(Post::Never);
        }
        let (memory, counters) = (&self.outboxes.memory, &self.vm.counters);
        let at = |offset: u32| GuestPhys(ring + offset);
        let room = memory.load(at(word::ROOM))?.min(LONGEST);
        if room == 0 {
            return Ok(Post::Never);
        }
        let posted = memory.load(at(word::POSTED))?;
        let fetched = memory.load(at(word::FETCHED))?;
        if posted.wrapping_sub(fetched) >= FRAMES {
            counters.posts_refused.count();
            return Ok(Post::Full);
        }
        let (length, body) = frame(posted);
        let list: Dma = self.memory.object(dma)?;
        let mut total = 0;
        for section in list.checked(self.memory.limit()) {
            let Ok((from, bytes)) = section else {
                return Ok(Post::Never);
            };
            if bytes > room - total {
                return Ok(Post::Never);
            }
            let (from, to) = (GuestPhys(from), at(body + total));
            self.memory.copy_to(from, memory, to, bytes)?;
            total += bytes;
        }
        if total == 0 {
            return Ok(Post::Never);
        }
        memory.store(at(length), total)?;
        memory.store(at(word::POSTED), posted.wrapping_add(1))?;
        self.store(dma, total)?;
        counters.posts.count();
        // Both sides write a word and then read the other's, in one order for
        // all. So the receiver sees the frame, or we see that it sleeps.
        let asleep = at(word::ASLEEP);
        let enough = memory.load(asleep)?;
        let waiting = posted.wrapping_sub(fetched).wrapping_add(1);
        let ring = enough != 0 && waiting >= enough;
        if ring && memory.swap(asleep, 0)? != 0 {
            counters.post_rings.count();
            self.world.ring(asleep.0);
        }
        Ok(Post::Done)
    }
}

impl Host<'_> {
    /// The Guest has nothing to do: wakes the thread that fetches its frames,
    /// if that sleeps. Frames may come at once, and their interrupt with them.
    pub(crate) fn let_fetch(&mut self) -> Result<(), Kill> {
        for outbox in 0..as_word(self.outboxes.count) {
            let memory = &self.outboxes.memory;
            let wake = GuestPhys(outbox * OUTBOX_SIZE + WAKE_WHEN_IDLE);
            if memory.load(wake)? != 0 && memory.swap(wake, 0)? != 0 {
                self.vm.counters.fetch_rings.count();
                self.world.ring(wake.0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
