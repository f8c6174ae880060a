//! How much memory a Guest needs: the least that is enough, and the most.
//!
//! A message that asks for more memory must name an amount that is enough. So
//! the number is found by trying: it is the least number of megabytes with
//! which everything fits, page tables included. If there is none, the message
//! says what is too large.

use crate::memory::MAX_RAM;
use lg_abi::page::{Format, PAGE_SHIFT, PAGE_SIZE, SWITCHER_ADDR};

/// Addresses that Linux keeps for mappings of its own, above those of its
/// memory (`VMALLOC_RESERVE`).
const KERNEL_MAPPINGS: u32 = 128 << 20;

/// What has to fit into memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// The first physical address above the kernel.
    pub(super) kernel_end: u64,
    /// The virtual address of physical address 0.
    pub(super) page_offset: u32,
    /// The format of the page tables.
    pub(super) paging: Format,
    /// Bytes of the initrd.
    pub(super) initrd: u64,
}

impl Demand {
    /// The least megabytes with which it fits, if there is such a number.
    pub(super) fn least_mb(&self) -> Option<u64> {
        let bytes = self.kernel_end + self.initrd;
        (bytes.div_ceil(1 << 20).max(1)..=u64::from(MAX_RAM >> 20))
            .find(|mb| self.fits(u32::try_from(mb << 20).unwrap_or(MAX_RAM)))
    }

    /// The most megabytes that an initrd beside this kernel may have, however
    /// much memory there is.
    pub(super) fn most_initrd_mb(&self) -> u64 {
        let fits = |mb: &u64| {
            let initrd = mb << 20;
            Self { initrd, ..*self }.least_mb().is_some()
        };
        // Sizes that fit are those below some size.
        let (mut fitting, mut above) = (0, u64::from(MAX_RAM >> 20) + 1);
        while above - fitting > 1 {
            let middle = fitting.midpoint(above);
            if fits(&middle) {
                fitting = middle;
            } else {
                above = middle;
            }
        }
        fitting
    }

    fn fits(&self, ram: u32) -> bool {
        let initrd = self.initrd.next_multiple_of(u64::from(PAGE_SIZE));
        let top = top_for_initrd(ram, self.page_offset, self.kernel_end);
        // Without an initrd the page tables are at the top of RAM.
        let top = if initrd == 0 { u64::from(ram) } else { top };
        let tables = page_table_bytes(ram, self.page_offset, self.paging);
        let tables = u64::from(tables);
        self.kernel_end + initrd + tables <= top
    }
}

/// The end of an initrd. It must be in RAM that the kernel maps from the start,
/// because Linux ignores an initrd above that. (The original puts it there all
/// the same.)
pub(super) fn top_for_initrd(ram: u32, page_offset: u32, end: u64) -> u64 {
    let mapped = (SWITCHER_ADDR - page_offset).saturating_sub(KERNEL_MAPPINGS);
    u64::from(ram).min(u64::from(mapped).max(end))
}

/// Bytes of RAM that the first page tables map: all below the Switcher or, with
/// PAE, what one page directory maps. A kernel soon makes tables of its own.
pub(super) fn mapped_at_first(
    ram: u32,
    page_offset: u32,
    paging: Format,
) -> u32 {
    let below_switcher = ram.min(SWITCHER_ADDR - page_offset);
    match paging {
        Format::TwoLevels => below_switcher,
        Format::Pae => below_switcher.min(1 << Format::POINTER_SHIFT),
    }
}

/// Bytes of the first page tables: tables for the part of RAM that is mapped, a
/// directory, and with PAE a page for the pointer table.
pub(super) fn page_table_bytes(
    ram: u32,
    page_offset: u32,
    paging: Format,
) -> u32 {
    let mapped = mapped_at_first(ram, page_offset, paging);
    let tables = mapped.div_ceil(paging.table_span());
    let others = match paging {
        Format::TwoLevels => 1,
        Format::Pae => 2,
    };
    (tables + others) << PAGE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(kernel_mb: u64, initrd_mb: u64) -> Demand {
        Demand {
            kernel_end: kernel_mb << 20,
            page_offset: 0xC000_0000,
            paging: Format::TwoLevels,
            initrd: initrd_mb << 20,
        }
    }

    #[test]
    fn the_least_is_enough_and_one_less_is_not() {
        for (kernel, initrd) in [(1, 0), (2, 1), (2, 300), (30, 850), (900, 0)]
        {
            let demand = demand(kernel, initrd);
            let least = demand.least_mb().unwrap();
            let ram = |mb| u32::try_from(mb << 20).unwrap();
            assert!(demand.fits(ram(least)), "{kernel} {initrd}: {least}");
            assert!(!demand.fits(ram(least - 1)), "{kernel} {initrd}");
            let paging = Format::Pae;
            let with_pae = Demand { paging, ..demand }.least_mb().unwrap();
            assert!(with_pae >= least, "{kernel} {initrd}: {with_pae}");
        }
    }

    #[test]
    fn what_can_never_fit_is_not_asked_for() {
        // With 3 GiB for programs, 892 MB of memory are mapped.
        for initrd in [890, 892, 900, 4000] {
            let demand = demand(2, initrd);
            assert_eq!(demand.least_mb(), None, "{initrd}");
            let most = demand.most_initrd_mb();
            assert_eq!(most, 889);
        }
        assert!(demand(2, 889).least_mb().is_some());
        assert_eq!(demand(4080, 0).least_mb(), None);
        assert_eq!(demand(4079, 0).least_mb(), Some(4080));
    }
}
