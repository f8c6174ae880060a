//! BIND_DMA: which buffers wait for which key.
//!
//! The table is the Launcher's own: a Guest, or a Host that it has taken over,
//! asks for a binding by mailbox and cannot reach it otherwise. The arrays that
//! it names are in Guest memory and are not read before a buffer is needed
//! (docs/abi.md, section 5).
//!
//! A Guest may bind millions of buffers, and all of them may be full. One
//! search looks at [`SEARCH`] of them at most, because the same thread also
//! watches for ^C^C^C. The next search goes on from there.

use crate::memory::{BadAddress, GuestMemory};
use lg_abi::dma::{BindCount, Dma, LGUEST_MAX_DMA};
use lg_abi::shared::LGUEST_IRQS;
use serde::{Deserialize, Serialize};

/// How many buffers one search looks at. That takes about 0.1 ms.
const SEARCH: u32 = 1 << 14;

/// An array of buffers that the Guest has bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Physical address that it is bound to.
    pub key: u32,
    /// Physical address of the array.
    pub dmas: u32,
    /// `lguest_dma`s in it.
    pub num: u32,
    /// The interrupt to raise; never 0.
    pub irq: u8,
}

/// A free buffer that the Guest has bound: the answer to LHREQ_GETDMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundDma {
    /// Physical address of the `lguest_dma`.
    pub addr: u32,
    /// The interrupt to raise when it is filled.
    pub irq: u8,
}

/// All bindings of a Guest.
#[derive(Default)]
pub(super) struct Bindings {
    all: Vec<Entry>,
    /// How many buffers the searches have looked at.
    #[cfg(test)]
    looks: u32,
}

/// A binding, and where the next search in a long array begins.
struct Entry {
    binding: Binding,
    next: u32,
}

impl Bindings {
    /// Carries out a BIND_DMA. Returns whether it worked.
    pub(super) fn bind(&mut self, key: u32, dmas: u32, word: u32) -> bool {
        let BindCount { count: num, irq } = BindCount::from_word(word);
        if irq == 0 {
            let same = |b: &Binding| b.key == key && b.dmas == dmas;
            let found = self.all.iter().position(|e| same(&e.binding));
            return found.map(|i| self.all.remove(i)).is_some();
        }
        if u32::from(irq) >= LGUEST_IRQS || self.all.len() >= LGUEST_MAX_DMA {
            return false;
        }
        self.all.push(Entry {
            binding: Binding {
                key,
                dmas,
                num,
                irq,
            },
            next: 0,
        });
        true
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Binding> {
        self.all.iter().map(|entry| entry.binding).collect()
    }

    /// Puts `bindings` into the place of all that there are.
    pub(super) fn restore(&mut self, bindings: &[Binding]) {
        let entry = |&binding| Entry { binding, next: 0 };
        self.all = bindings.iter().map(entry).collect();
    }

    /// The first free buffer bound to `key`. If more than [`SEARCH`] buffers
    /// are bound to `key`, the search begins after those that the last search
    /// has looked at, and `None` does not mean that none is free.
    ///
    /// # Errors
    ///
    /// The Guest has bound memory that it does not have.
    pub(super) fn free_buffer(
        &mut self,
        memory: &GuestMemory,
        key: u32,
    ) -> Result<Option<BoundDma>, BadAddress> {
        let is_long = self.is_long(key);
        let bound = self.all.iter_mut().filter(|e| e.binding.key == key);
        let mut bound: Vec<&mut Entry> = bound.collect();
        let (mut looks, mut arrays) = (SEARCH, bound.len());
        for entry in &mut bound {
            let binding = entry.binding;
            let (from, count) = if is_long {
                // Each array gets an equal share of the search.
                let share = u32::try_from(arrays).map_or(0, |n| looks / n);
                (entry.next, share.min(binding.num))
            } else {
                (0, binding.num)
            };
            (looks, arrays) = (looks.saturating_sub(count), arrays - 1);
            for n in (from..from + count).map(|n| n % binding.num) {
                #[cfg(test)]
                {
                    self.looks += 1;
                }
                let offset = n.saturating_mul(Dma::SIZE);
                let addr = binding.dmas.saturating_add(offset);
                memory.section(addr, Dma::SIZE)?;
                if memory.read_object::<u32>(addr)? == 0 {
                    entry.next = (n + 1) % binding.num;
                    let irq = binding.irq;
                    return Ok(Some(BoundDma { addr, irq }));
                }
            }
            entry.next = (from + count).checked_rem(binding.num).unwrap_or(0);
        }
        Ok(None)
    }

    /// Whether some key has so many buffers that one search may miss some.
    pub(super) fn some_are_long(&self) -> bool {
        self.all.iter().any(|e| self.is_long(e.binding.key))
    }

    fn is_long(&self, key: u32) -> bool {
        let same = self.all.iter().filter(|e| e.binding.key == key);
        let total: u64 = same.map(|e| u64::from(e.binding.num)).sum();
        total > u64::from(SEARCH)
    }

    /// The bindings whose key lies in the page at `page`.
    pub(super) fn in_page(&self, page: u32) -> Vec<Binding> {
        let same_page = |b: &Binding| {
            b.key / lg_abi::page::PAGE_SIZE == page / lg_abi::page::PAGE_SIZE
        };
        let all = self.all.iter().map(|entry| entry.binding);
        all.filter(same_page).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(count: u32, irq: u8) -> u32 {
        BindCount { count, irq }.word()
    }

    #[test]
    fn the_first_free_buffer_is_found_and_full_ones_are_none() {
        let memory = GuestMemory::new(0x4000, 1).unwrap();
        let mut bindings = Bindings::default();
        assert!(bindings.bind(0x4000, 0x1000, word(3, 2)));
        memory.write_object(0x1000, &5_u32).unwrap();
        let found = bindings.free_buffer(&memory, 0x4000).unwrap();
        assert_eq!(
            found,
            Some(BoundDma {
                addr: 0x1064,
                irq: 2
            })
        );
        memory.write_object(0x1064, &1_u32).unwrap();
        memory.write_object(0x10C8, &1_u32).unwrap();
        assert_eq!(bindings.free_buffer(&memory, 0x4000), Ok(None));
        assert_eq!(bindings.free_buffer(&memory, 0), Ok(None));
        // The first free one is found, even if a later one was found before.
        for n in [2, 1, 0] {
            let addr = 0x1000 + n * Dma::SIZE;
            memory.write_object(addr, &0_u32).unwrap();
            let found = bindings.free_buffer(&memory, 0x4000).unwrap();
            assert_eq!(found.unwrap().addr, addr);
        }
    }

    /// Memory with `count` full buffers from 0 on.
    fn full(count: u32) -> GuestMemory {
        let size = (count * Dma::SIZE).next_multiple_of(0x1000);
        let memory = GuestMemory::new(size, 0).unwrap();
        for n in 0..count {
            memory.write_object(n * Dma::SIZE, &1_u32).unwrap();
        }
        memory
    }

    #[test]
    fn a_search_is_bounded_however_much_is_bound() {
        let count = 3 * SEARCH;
        let memory = full(count);
        for arrays in [1, 2, 31, 32] {
            let mut bindings = Bindings::default();
            for _ in 0..arrays {
                assert!(bindings.bind(0, 0, word(count, 1)));
            }
            assert!(bindings.some_are_long());
            for search in 1..4 {
                assert_eq!(bindings.free_buffer(&memory, 0), Ok(None));
                assert!(bindings.looks <= search * SEARCH, "{arrays}");
            }
        }
    }

    #[test]
    fn a_free_buffer_in_a_long_array_is_found_by_and_by() {
        let count = 3 * SEARCH + 7;
        let memory = full(count);
        let mut bindings = Bindings::default();
        assert!(bindings.bind(0, 0, word(count, 1)));
        assert!(bindings.bind(0, 4 * Dma::SIZE, word(5, 2)));
        for n in [count - 1, 0, SEARCH, 2] {
            let addr = n * Dma::SIZE;
            memory.write_object(addr, &0_u32).unwrap();
            let mut search = || bindings.free_buffer(&memory, 0).unwrap();
            let found = (0..8).find_map(|_| search());
            assert_eq!(found, Some(BoundDma { addr, irq: 1 }));
            memory.write_object(addr, &1_u32).unwrap();
        }
    }

    #[test]
    fn a_short_array_is_searched_whole() {
        let memory = full(SEARCH);
        let mut bindings = Bindings::default();
        assert!(bindings.bind(0, 0, word(SEARCH, 1)));
        assert!(!bindings.some_are_long());
        let last = (SEARCH - 1) * Dma::SIZE;
        memory.write_object(last, &0_u32).unwrap();
        let found = bindings.free_buffer(&memory, 0).unwrap();
        assert_eq!(found.unwrap().addr, last);
    }

    #[test]
    fn arrays_without_buffers_are_no_harm() {
        let memory = full(1);
        let mut bindings = Bindings::default();
        assert!(bindings.bind(0, 0, word(0, 1)));
        assert_eq!(bindings.free_buffer(&memory, 0), Ok(None));
        assert!(bindings.bind(0, 0, word(SEARCH + 1, 1)));
        memory.write_object(0, &0_u32).unwrap();
        assert!(bindings.free_buffer(&memory, 0).unwrap().is_some());
    }

    #[test]
    fn binding_fails_for_bad_interrupts_and_the_thirty_third_array() {
        let mut bindings = Bindings::default();
        assert!(!bindings.bind(0, 0, word(1, 32)));
        assert!(!bindings.bind(0, 0, word(1, 0)), "nothing to unbind");
        for n in 0..32 {
            assert!(bindings.bind(n * 4, 0x1000, word(1, 31)));
        }
        assert!(!bindings.bind(0, 0x1000, word(1, 1)));
        assert!(bindings.bind(8, 0x1000, word(0, 0)), "unbinds");
        assert!(bindings.bind(0, 0x1000, word(1, 1)));
    }

    #[test]
    fn an_array_outside_memory_is_noticed_when_it_is_used() {
        let memory = GuestMemory::new(0x4000, 0).unwrap();
        let mut bindings = Bindings::default();
        assert!(bindings.bind(0, 0x3FFF, word(1, 1)));
        assert!(bindings.free_buffer(&memory, 0).is_err());
        assert!(bindings.bind(4, u32::MAX, word(u32::MAX >> 8, 1)));
        assert!(bindings.free_buffer(&memory, 4).is_err());
    }
}
