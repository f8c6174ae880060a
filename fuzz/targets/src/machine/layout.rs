//! Where everything is in the machine's memory.
//!
//! A target reads and writes the same places as the Guest that it plays.

use lg_abi::page::PAGE_SIZE;

/// Views that the machine has processes for.
pub const VIEWS: usize = 3;

/// Bytes of physical memory.
pub const LIMIT: u32 = 64 * PAGE_SIZE;

/// The page of a network, whose outbox the views have.
pub const NETWORK: u32 = LIMIT - PAGE_SIZE;

/// The address at which the kernel maps physical memory.
pub const PAGE_OFFSET: u32 = 0xC000_0000;

/// The first page directory; there are [`VIEWS`] and one more, each in a page
/// of its own.
pub const DIRECTORY: u32 = 0x1000;

/// The page table for the kernel's addresses, which all directories share.
pub const KERNEL_TABLE: u32 = 0x5000;

/// The page table for addresses below 4 MiB of the first directory; the others
/// follow.
pub const USER_TABLE: u32 = 0x6000;

/// With PAE, the page directory for the kernel's GiB, which all pointer tables
/// share.
pub const KERNEL_DIRECTORY: u32 = 0x3_0000;

/// With PAE, the page directory for the first GiB of the first pointer table;
/// the others follow.
pub const USER_DIRECTORY: u32 = 0x3_1000;

/// With PAE, the page table for addresses from 2 MiB to 4 MiB of the first
/// pointer table; the others follow.
pub const SECOND_TABLE: u32 = 0x3_5000;

/// With PAE, the page table for the kernel's addresses from 2 MiB to 4 MiB.
pub const SECOND_KERNEL_TABLE: u32 = 0x3_9000;

/// `lguest_data`.
pub const DATA: u32 = 0xB000;

/// The kernel's stack ends here.
pub const STACK: u32 = PAGE_OFFSET + 0xE000;

/// The kernel's code; its page is below the stack's.
pub const CODE: u32 = 0xF000;
