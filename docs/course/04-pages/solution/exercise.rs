//! Exercise 4: what the processor does with an address.
//!
//! The upper ten bits of an address choose an entry of the directory. The
//! entry names a table. The next ten bits choose an entry there, which names
//! the page. The last twelve bits are the place in the page.

use crate::PRESENT;

/// The physical address that `address` stands for, or `None` if there is no
/// page. `directory` is the physical address of the directory, and `read`
/// returns the word at a physical address.
pub fn physical(
    read: impl Fn(u32) -> u32,
    directory: u32,
    address: u32,
) -> Option<u32> {
    let follow = |table: u32, index: u32| {
        let entry = read(table + index * 4);
        (entry & PRESENT != 0).then_some(entry & 0xFFFF_F000)
    };
    let table = follow(directory, address >> 22)?;
    let page = follow(table, (address >> 12) & 1023)?;
    Some(page | (address & 0xFFF))
}
