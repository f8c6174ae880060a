//! BIND_DMA: which buffers wait for which key.
//!
//! The table is the Launcher's own: a Guest, or a Host that it has taken over,
//! asks for a binding by mailbox and cannot reach it otherwise. The arrays
//! that it names are in Guest memory and are not looked at before somebody
//! wants a buffer (spec section 5).

use super::BoundDma;
use crate::memory::{BadAddress, GuestMemory};
use lg_abi::dma::{BindCount, Dma, LGUEST_MAX_DMA};
use lg_abi::shared::LGUEST_IRQS;

/// An array of buffers that the Guest has bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// All bindings of a Guest.
#[derive(Default)]
pub(super) struct Bindings(Vec<Binding>);

impl Bindings {
    /// Carries out a BIND_DMA; answers whether it worked.
    pub(super) fn bind(&mut self, key: u32, dmas: u32, word: u32) -> bool {
        let BindCount { count: num, irq } = BindCount::from_word(word);
        if irq == 0 {
            let found =
                self.0.iter().position(|b| b.key == key && b.dmas == dmas);
            return found.map(|i| self.0.remove(i)).is_some();
        }
        if u32::from(irq) >= LGUEST_IRQS || self.0.len() >= LGUEST_MAX_DMA {
            return false;
        }
        self.0.push(Binding {
            key,
            dmas,
            num,
            irq,
        });
        true
    }

    /// The first free buffer bound to `key`.
    ///
    /// # Errors
    ///
    /// The Guest has bound memory that it does not have.
    pub(super) fn free_buffer(
        &self,
        memory: &GuestMemory,
        key: u32,
    ) -> Result<Option<BoundDma>, BadAddress> {
        for binding in self.0.iter().filter(|b| b.key == key) {
            for n in 0..binding.num {
                let offset = n.saturating_mul(Dma::SIZE);
                let addr = binding.dmas.saturating_add(offset);
                memory.section(addr, Dma::SIZE)?;
                if memory.read_object::<u32>(addr)? == 0 {
                    return Ok(Some(BoundDma {
                        addr,
                        irq: binding.irq,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// The bindings whose key lies in the page at `page`.
    pub(super) fn in_page(&self, page: u32) -> Vec<Binding> {
        let same_page = |b: &&Binding| {
            b.key / lg_abi::page::PAGE_SIZE == page / lg_abi::page::PAGE_SIZE
        };
        self.0.iter().filter(same_page).copied().collect()
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
