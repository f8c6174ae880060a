//! Pages, and what the bits of a page-table entry mean.
//!
//! The tables of a Guest have one of two [`Format`]s. Most constants here are
//! those of the first one, with two levels. Entries of both formats have the
//! same flags in the same bits, so one type [`Pte`] serves for both.

/// Bytes in a page.
pub const PAGE_SIZE: u32 = 4096;

/// How far a page number is shifted to make an address.
pub const PAGE_SHIFT: u32 = 12;

/// Entries in a page directory, and in a page table.
pub const ENTRIES: u32 = 1024;

/// How far a page-directory index is shifted to make an address.
pub const DIRECTORY_SHIFT: u32 = 22;

/// Bytes that one page-directory entry covers: 4 MiB.
pub const DIRECTORY_SPAN: u32 = 1 << DIRECTORY_SHIFT;

/// Where the Switcher begins: the top 4 MiB belong to it, and a Guest that
/// accesses them is killed.
pub const SWITCHER_ADDR: u32 = 0xFFC0_0000;

/// The page-directory index that belongs to the Switcher.
pub const SWITCHER_INDEX: u32 = SWITCHER_ADDR >> DIRECTORY_SHIFT;

/// Where most kernels of this kind map physical memory: 3 GiB.
pub const DEFAULT_PAGE_OFFSET: u32 = 0xC000_0000;

/// One page-table or page-directory entry, as the Guest wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Pte(pub u32);

impl Pte {
    /// The page is there.
    pub const PRESENT: u32 = 1 << 0;
    /// Writes are allowed.
    pub const WRITE: u32 = 1 << 1;
    /// User mode may use it.
    pub const USER: u32 = 1 << 2;
    /// Write-through caching: refused here.
    pub const WRITE_THROUGH: u32 = 1 << 3;
    /// No caching.
    pub const CACHE_DISABLE: u32 = 1 << 4;
    /// The page was used.
    pub const ACCESSED: u32 = 1 << 5;
    /// The page was written to.
    pub const DIRTY: u32 = 1 << 6;
    /// A page of 4 MiB (in a directory), or PAT (in a table): refused here.
    pub const SIZE: u32 = 1 << 7;
    /// Kept across address spaces.
    pub const GLOBAL: u32 = 1 << 8;

    /// All that a page-directory entry may have set besides its frame.
    pub const DIRECTORY_FLAGS: u32 =
        Self::PRESENT | Self::WRITE | Self::USER | Self::ACCESSED | Self::DIRTY;

    /// An entry for page number `pfn` with `flags` (the low twelve bits).
    #[must_use]
    pub const fn new(pfn: u32, flags: u32) -> Self {
        Self(pfn << PAGE_SHIFT | flags & (PAGE_SIZE - 1))
    }

    /// The page number that this entry names.
    #[must_use]
    pub const fn pfn(self) -> u32 {
        self.0 >> PAGE_SHIFT
    }

    /// The physical address of the page that this entry names.
    #[must_use]
    pub const fn frame(self) -> u32 {
        self.0 & !(PAGE_SIZE - 1)
    }

    /// The low twelve bits.
    #[must_use]
    pub const fn flags(self) -> u32 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// Whether every bit of `flags` is set.
    #[must_use]
    pub const fn has(self, flags: u32) -> bool {
        self.0 & flags == flags
    }
}

impl core::fmt::Debug for Pte {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Pte({:#010x})", self.0)
    }
}

/// The index into the page directory of virtual address `va`.
#[must_use]
pub const fn directory_index(va: u32) -> u32 {
    va >> DIRECTORY_SHIFT
}

/// The index into its page table of virtual address `va`.
#[must_use]
pub const fn table_index(va: u32) -> u32 {
    (va >> PAGE_SHIFT) & (ENTRIES - 1)
}

/// `bytes` rounded up to whole pages, as a number of pages.
#[must_use]
pub const fn pages(bytes: u32) -> u32 {
    bytes.div_ceil(PAGE_SIZE)
}

/// The format of page tables (Intel SDM volume 3, "32-bit paging" and "PAE
/// paging").
///
/// With PAE, cr3 does not hold the address of a page directory but that of a
/// *pointer table*, with a pointer for each GiB to one of four page
/// directories. The pointer table then stands for the address space: what is
/// said of "a page directory's address" elsewhere is its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Format {
    /// Two levels, with 1024 entries of 4 bytes in a table.
    #[default]
    TwoLevels = 0,
    /// Three levels, with 512 entries of 8 bytes in a table.
    Pae = 1,
}

impl Format {
    /// Pointers in a pointer table.
    pub const POINTERS: u32 = 4;

    /// How far the index of a pointer is shifted to make an address.
    pub const POINTER_SHIFT: u32 = 30;

    /// The format with this number. Unknown numbers give two levels.
    #[must_use]
    #[inline]
    pub const fn by_number(number: u32) -> Self {
        if number == Self::Pae as u32 {
            Self::Pae
        } else {
            Self::TwoLevels
        }
    }

    /// Bytes of an entry.
    #[must_use]
    #[inline]
    pub const fn entry_size(self) -> u32 {
        match self {
            Self::TwoLevels => 4,
            Self::Pae => 8,
        }
    }

    /// Entries in a page table, and in a page directory.
    #[must_use]
    #[inline]
    pub const fn entries(self) -> u32 {
        PAGE_SIZE / self.entry_size()
    }

    /// Bytes that one page-directory entry covers: 4 MiB or 2 MiB.
    #[must_use]
    #[inline]
    pub const fn table_span(self) -> u32 {
        self.entries() << PAGE_SHIFT
    }

    /// Bytes of the table at cr3.
    #[must_use]
    #[inline]
    pub const fn top_size(self) -> u32 {
        match self {
            Self::TwoLevels => PAGE_SIZE,
            Self::Pae => Self::POINTERS * self.entry_size(),
        }
    }

    /// Where the entry for `va` is in its page directory.
    #[must_use]
    #[inline]
    pub const fn directory_offset(self, va: u32) -> u32 {
        va / self.table_span() % self.entries() * self.entry_size()
    }

    /// Where the entry for `va` is in its page table.
    #[must_use]
    #[inline]
    pub const fn table_offset(self, va: u32) -> u32 {
        (va >> PAGE_SHIFT) % self.entries() * self.entry_size()
    }

    /// Where the pointer for `va` is in a pointer table.
    #[must_use]
    #[inline]
    pub const fn pointer_offset(va: u32) -> u32 {
        (va >> Self::POINTER_SHIFT) * Self::Pae.entry_size()
    }
}

/// Stands for a page directory's address: there is none yet, and virtual
/// addresses are physical ones. Kernels since Linux 3.1 start like this. No
/// directory can have this address, because it is not a multiple of 32.
pub const LINEAR: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_apart_into_what_it_was_made_of() {
        let pte = Pte::new(0x12345, Pte::PRESENT | Pte::DIRTY);
        assert_eq!(pte.pfn(), 0x12345);
        assert_eq!(pte.frame(), 0x1234_5000);
        assert_eq!(pte.flags(), 0x41);
        assert!(pte.has(Pte::DIRTY) && !pte.has(Pte::DIRTY | Pte::WRITE));
    }

    #[test]
    fn an_address_is_its_two_indices_and_an_offset() {
        let va = 0xC012_3456;
        let back = directory_index(va) << DIRECTORY_SHIFT
            | table_index(va) << PAGE_SHIFT
            | va & (PAGE_SIZE - 1);
        assert_eq!(back, va);
        assert_eq!(directory_index(SWITCHER_ADDR), SWITCHER_INDEX);
    }

    #[test]
    fn an_address_is_its_indices_in_either_format() {
        for va in [0, 0x0012_3456, 0x8020_0FFF, 0xC07F_F000, u32::MAX] {
            let two = Format::TwoLevels;
            assert_eq!(two.directory_offset(va), directory_index(va) * 4);
            assert_eq!(two.table_offset(va), table_index(va) * 4);
            let pae = Format::Pae;
            let back = (Format::pointer_offset(va) / 8) << 30
                | (pae.directory_offset(va) / 8) << 21
                | (pae.table_offset(va) / 8) << PAGE_SHIFT
                | va & (PAGE_SIZE - 1);
            assert_eq!(back, va);
        }
        for format in [Format::TwoLevels, Format::Pae] {
            assert_eq!(Format::by_number(format as u32), format);
        }
        assert_eq!(Format::TwoLevels.table_span(), DIRECTORY_SPAN);
        assert_eq!(Format::Pae.table_span(), 2 << 20);
        assert_eq!(Format::Pae.top_size(), 32);
    }

    #[test]
    fn pages_rounds_up_and_does_not_overflow() {
        assert_eq!(pages(0), 0);
        assert_eq!(pages(1), 1);
        assert_eq!(pages(4096), 1);
        assert_eq!(pages(u32::MAX), 1 << 20);
    }
}
