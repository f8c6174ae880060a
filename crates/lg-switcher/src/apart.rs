//! Pages that stay mappings of their own, and how many of them there may be.
//!
//! To hide one page among pages whose frames follow each other, the kernel
//! splits their mapping, and merges it again when the page is shown: 5.5 us
//! instead of 1.2. Every other page has a flag that means nothing for a shared
//! mapping. Neighbours that differ in it are never merged.
//!
//! A process has a bounded number of mappings. A Guest that reads a large file
//! would use them up, and its Host would unmap everything and have it fault
//! again. So only pages of a few pieces of 4 MiB have the flag, those that were
//! used first: small programs have all of their code there.

use lg_abi::page::{ENTRIES, PAGE_SHIFT};
use lg_host::address::GuestVirt;

/// The flag.
const MAP_NORESERVE: usize = 0x4000;

/// Pieces whose pages may be mappings of their own. These are half of the
/// mappings that a process has where `vm.max_map_count` was not changed.
const MOST: u32 = 32;

const PIECES: usize = 1024;

/// The pieces of 4 MiB whose pages stay mappings of their own.
pub(crate) struct Apart {
    /// Only pages below this address.
    below: u32,
    pieces: [u64; PIECES / 64],
    most: u32,
}

impl Apart {
    /// Of pages below this address only.
    #[must_use]
    pub(crate) fn new(below: u32) -> Self {
        Self {
            below,
            pieces: [0; PIECES / 64],
            most: MOST,
        }
    }

    /// The flags of the mapping of the page at `va`, which is to be read only.
    pub(crate) fn flags(&mut self, va: GuestVirt) -> usize {
        if va.0 >= self.below || !self.admits(va.page_number() / ENTRIES) {
            return 0;
        }
        (va.page_number() as usize % 2) * MAP_NORESERVE
    }

    /// Whether pages of this piece stay apart: one that was used, or the next
    /// one if there are not too many.
    fn admits(&mut self, piece: u32) -> bool {
        let (word, bit) = (piece as usize / 64, 1 << (piece % 64));
        if self.pieces[word] & bit != 0 {
            return true;
        }
        let used: u32 = self.pieces.iter().map(|word| word.count_ones()).sum();
        let admits = used < self.most;
        if admits {
            self.pieces[word] |= bit;
        }
        admits
    }

    /// These pages are not mapped any more.
    pub(crate) fn unmapped(&mut self, va: GuestVirt, pages: u32) {
        let first = va.page_number();
        for piece in first.div_ceil(ENTRIES)..(first + pages) / ENTRIES {
            self.pieces[piece as usize / 64] &= !(1 << (piece % 64));
        }
    }

    /// The process has no room for another mapping. What is mapped is going to
    /// be unmapped. After that, fewer pages stay apart.
    pub(crate) fn no_room(&mut self) {
        self.most /= 2;
    }
}

const _: () = assert!(PIECES == (1 << 32) / (ENTRIES << PAGE_SHIFT) as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use lg_abi::page::PAGE_SIZE;

    const KERNEL: u32 = 0xC000_0000;

    /// How many mappings the kernel makes of pages whose frames follow each
    /// other, as `vm.max_map_count` counts them.
    fn mappings(apart: &mut Apart, from: u32, pages: u32) -> usize {
        let va = (0..pages).map(|page| GuestVirt(from + page * PAGE_SIZE));
        let flags: Vec<usize> = va.map(|va| apart.flags(va)).collect();
        1 + flags.windows(2).filter(|two| two[0] != two[1]).count()
    }

    #[test]
    fn a_small_program_has_all_of_its_pages_apart() {
        let mut apart = Apart::new(KERNEL);
        assert_eq!(mappings(&mut apart, 0x0804_8000, 500), 500);
        assert_eq!(mappings(&mut apart, 0xB7E0_0000, 500), 500);
        assert_eq!(mappings(&mut apart, KERNEL, 500), 1, "the kernel's");
        assert_eq!(mappings(&mut Apart::new(0), 0x0804_8000, 500), 1);
    }

    /// A Guest that reads 2 GiB of a file, more than twice over.
    #[test]
    fn large_maps_leave_half_of_the_mappings_of_a_process() {
        const DEFAULT: usize = 65_530;
        let mut apart = Apart::new(KERNEL);
        let pages = 2 << 18;
        for _ in 0..3 {
            let used = mappings(&mut apart, 0x1000_0000, pages);
            assert!(used <= DEFAULT / 2 + 10, "{used}");
        }
        assert_eq!(mappings(&mut apart, 0x0804_8000, 500), 1);
        // The next program begins anew, like one whose pieces have gone.
        apart.unmapped(GuestVirt(0), KERNEL >> PAGE_SHIFT);
        assert_eq!(mappings(&mut apart, 0x0804_8000, 500), 500);
    }

    #[test]
    fn a_piece_with_pages_left_counts() {
        let mut apart = Apart::new(KERNEL);
        mappings(&mut apart, 0, MOST * ENTRIES);
        apart.unmapped(GuestVirt(PAGE_SIZE), 2 * ENTRIES - 2);
        assert_eq!(mappings(&mut apart, 0x8000_0000, 100), 1);
        apart.unmapped(GuestVirt(PAGE_SIZE), 2 * ENTRIES - 1);
        assert_eq!(mappings(&mut apart, 0x8000_0000, 100), 100);
        apart.unmapped(GuestVirt(0), 1 << 20);
        assert_eq!(apart.pieces, [0; PIECES / 64]);
    }

    #[test]
    fn where_there_are_fewer_mappings_fewer_pages_stay_apart() {
        let mut apart = Apart::new(KERNEL);
        let pages = 2 * MOST * ENTRIES;
        let before = mappings(&mut apart, 0, pages);
        apart.no_room();
        apart.unmapped(GuestVirt(0), KERNEL >> PAGE_SHIFT);
        assert!(mappings(&mut apart, 0, pages) <= before / 2 + 1);
        for _ in 0..10 {
            apart.no_room();
        }
        apart.unmapped(GuestVirt(0), KERNEL >> PAGE_SHIFT);
        assert_eq!(mappings(&mut apart, 0, pages), 1);
    }
}
