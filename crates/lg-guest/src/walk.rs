//! Finding a page in page tables.
//!
//! Two levels, as the CPU does it: the upper ten bits of an address choose an
//! entry of the directory, which names a table, in which the next ten bits
//! choose the entry that names the page (Intel SDM volume 3, "32-bit paging").
//! Here memory is a function that reads a word, so that the walk can be
//! tested without memory.
//!
//! ```no_run
//! # #![cfg_attr(target_arch = "x86", no_std)]
//! # #![cfg_attr(target_arch = "x86", no_main)]
//! use lg_guest::walk;
//!
//! fn main() {
//!     // A directory at 0x1000, a table at 0x2000, and page 0 is at 0x5000.
//!     let memory = |at| match at {
//!         0x1000 => 0x2007,
//!         0x2000 => 0x5005,
//!         _ => 0,
//!     };
//!     let found = walk::user_address(memory, 0x1000, 0x123, 0);
//!     assert_eq!(found, Some(0x5123));
//! }
//! ```

use lg_abi::page::{Pte, directory_index, table_index};

/// Bytes of an entry.
pub const ENTRY_SIZE: u32 = crate::word(size_of::<Pte>());

/// The address of the entry for `va` in the directory at `directory`.
#[must_use]
pub const fn directory_entry(directory: u32, va: u32) -> u32 {
    directory + directory_index(va) * ENTRY_SIZE
}

/// The address of the entry for `va` in the table that `pde` names.
#[must_use]
pub const fn table_entry(pde: Pte, va: u32) -> u32 {
    pde.frame() + table_index(va) * ENTRY_SIZE
}

/// The entry for `va`, present or not, if there is a table for it at all.
pub fn entry(
    read: impl Fn(u32) -> u32,
    directory: u32,
    va: u32,
) -> Option<Pte> {
    let pde = Pte(read(directory_entry(directory, va)));
    pde.has(Pte::PRESENT)
        .then(|| Pte(read(table_entry(pde, va))))
}

/// The physical address that user mode reaches at `va`, by a read or (with
/// `Pte::WRITE`) by a write. `None` if the CPU would cause a page fault.
pub fn user_address(
    read: impl Fn(u32) -> u32,
    directory: u32,
    va: u32,
    access: u32,
) -> Option<u32> {
    let wanted = Pte::PRESENT | Pte::USER | access & Pte::WRITE;
    let pde = Pte(read(directory_entry(directory, va)));
    if !pde.has(wanted) {
        return None;
    }
    let pte = Pte(read(table_entry(pde, va)));
    pte.has(wanted)
        .then(|| pte.frame() | va & (lg_abi::page::PAGE_SIZE - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directory at 0x1000, one table at 0x2000 for the second 4 MiB, which
    /// maps 0x0040_3000 to 0x9000, read-only.
    fn memory(at: u32) -> u32 {
        match at {
            0x1004 => 0x2000 | Pte::PRESENT | Pte::WRITE | Pte::USER,
            0x1008 => 0x2000 | Pte::WRITE, // not present
            0x200C => 0x9000 | Pte::PRESENT | Pte::USER,
            0x2010 => 0xA000 | Pte::PRESENT | Pte::WRITE,
            _ => 0,
        }
    }

    #[test]
    fn an_address_is_found_through_both_levels() {
        assert_eq!(user_address(memory, 0x1000, 0x0040_3123, 0), Some(0x9123));
        assert_eq!(entry(memory, 0x1000, 0x0040_3123).unwrap().pfn(), 9);
    }

    #[test]
    fn accesses_that_the_tables_forbid_find_nothing() {
        let find = |va, access| user_address(memory, 0x1000, va, access);
        assert_eq!(find(0x0040_3123, Pte::WRITE), None); // read-only
        assert_eq!(find(0x0040_4000, 0), None); // the kernel's
        assert_eq!(find(0x0040_5000, 0), None); // no page
        assert_eq!(find(0x0080_3000, 0), None); // no table
        assert_eq!(entry(memory, 0x1000, 0x0040_5000), Some(Pte(0)));
        assert_eq!(entry(memory, 0x1000, 0x0080_3000), None);
    }
}
