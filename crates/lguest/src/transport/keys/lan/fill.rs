//! How a frame gets into a buffer of its receiver, whichever way it came.
//!
//! The sender's Launcher fills a buffer of a peer, and the thread that fetches
//! posted frames fills one of its own Guest. Both know the binding from a port,
//! and neither believes it: each word of a list is read once and checked.

use super::super::dma::{DmaSections, set_used_len, used_len};
use super::port::Claim;
use crate::memory::{Region, Section, SectionsIn};
use lg_abi::dma::Dma;

/// How many buffers of one array are looked at for a free one. Guests empty
/// them in order, so the first look nearly always decides.
// MASTERY: an array longer than this that is emptied out of order can have a
// free buffer that is not found. Without a bound, a Guest could bind a million
// full ones and keep its peers busy.
const SEARCH: u32 = 256;

/// What became of a frame that was offered.
pub(super) enum Offer {
    /// So many bytes were taken.
    Taken(u32),
    /// No buffer is free; at this address there may soon be one.
    Full(Option<u32>),
    /// The buffer at this address breaks the rules.
    Bad(u32),
    /// The key is not bound any more.
    Gone,
}

impl Claim {
    /// The address of buffer `i` from the cursor on, with `num` of them.
    fn buffer(&self, i: u32) -> u32 {
        let number = self.cursor.wrapping_add(i) % self.num;
        // Past the end of memory either way, if this wraps.
        number
            .checked_mul(Dma::SIZE)
            .and_then(|offset| self.dmas.checked_add(offset))
            .unwrap_or(u32::MAX)
    }

    /// Copies `from` into the first free buffer in `memory`. Nothing has been
    /// checked yet. `note` is called with the pieces that were written to.
    pub(super) fn fill(
        &self,
        memory: &Region,
        from: SectionsIn<'_>,
        note: impl Fn(&[Section]),
    ) -> Offer {
        for mut addr in (0..self.num.min(SEARCH)).map(|i| self.buffer(i)) {
            match used_len(memory, addr) {
                Err(_) => return Offer::Bad(addr),
                Ok(0) => {}
                Ok(_) => continue,
            }
            // It may have been freed after an earlier one that was found full;
            // then this frame would overtake the next.
            if used_len(memory, self.buffer(0)) == Ok(0) {
                addr = self.buffer(0);
            }
            let Ok(into) = DmaSections::read(memory, addr) else {
                return Offer::Bad(addr);
            };
            let Ok(bytes) = from.copy(into.sections()) else {
                return Offer::Bad(addr);
            };
            note(into.list());
            // The sender's own `used_len` should come before this. But the
            // sender stands still until the end, so it cannot see a difference.
            let word = set_used_len(memory, addr, bytes);
            let Ok(word) = word.and_then(|()| Section::new(memory, addr, 4))
            else {
                return Offer::Bad(addr);
            };
            note(&[word]);
            return Offer::Taken(bytes);
        }
        Offer::Full((self.num > 0).then(|| self.buffer(0)))
    }

    /// Whether the Guest has emptied the buffers up to the end of the array,
    /// if the next one is its first. A driver looks through the array from its
    /// beginning, so what lies there overtakes what lies at the end.
    pub(super) fn is_in_order(&self, memory: &Region) -> bool {
        let begins = self.num > 0 && self.cursor.is_multiple_of(self.num);
        !begins || used_len(memory, self.buffer(self.num - 1)) == Ok(0)
    }

    /// Whether the next buffer is free, and in order.
    pub(super) fn is_free(&self, memory: &Region) -> bool {
        self.num > 0
            && used_len(memory, self.buffer(0)) == Ok(0)
            && self.is_in_order(memory)
    }

    /// The bytes that every buffer can take, as far as they are good.
    pub(super) fn room(&self, memory: &Region) -> u32 {
        let buffers = (0..self.num.min(SEARCH)).map(|i| self.buffer(i));
        let room = |addr| {
            let list = DmaSections::read(memory, addr).ok()?;
            Some(list.sections().total())
        };
        buffers.filter_map(room).min().unwrap_or(0)
    }
}
