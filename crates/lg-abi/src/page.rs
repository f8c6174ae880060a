//! Pages, and what the bits of a page-table entry mean.
//!
//! A Guest is an i386 without PAE: two levels of tables, 1024 entries each,
//! 4 bytes an entry (Intel SDM volume 3, "32-bit paging").

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
    fn pages_rounds_up_and_does_not_overflow() {
        assert_eq!(pages(0), 0);
        assert_eq!(pages(1), 1);
        assert_eq!(pages(4096), 1);
        assert_eq!(pages(u32::MAX), 1 << 20);
    }
}
