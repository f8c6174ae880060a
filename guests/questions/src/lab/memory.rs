//! Physical memory by its address.
//!
//! No Rust object is in this memory. It has words and bytes that the Host
//! reads, too.

#![expect(unsafe_code, reason = "reaches memory by its address")]

use lg_abi::page::{DEFAULT_PAGE_OFFSET, PAGE_SIZE};
use lg_guest::frame::Phys;
use lg_guest::one_cpu::OneCpu;

/// The first page that [`page`] allocates. Below it are the boot parameters,
/// the command line, and unused memory.
pub(crate) const FIRST: u32 = 0x2_0000;

/// The address at which the image begins.
const IMAGE: u32 = 0x10_0000;

/// The physical address of a page of the lab, which was zero.
pub(crate) type Page = u32;

/// The next free page.
pub(crate) fn page() -> Page {
    static NEXT: OneCpu<u32> = OneCpu::new(FIRST);
    NEXT.with(|next| {
        let page = *next;
        assert!(page < IMAGE, "the lab is out of pages");
        *next += PAGE_SIZE;
        page
    })
}

unsafe extern "C" {
    /// The page that the kit shares with the Host.
    static lguest_data: u8;
}

/// Physical address of the field at `offset` of the shared page.
pub(crate) fn shared(offset: u32) -> u32 {
    linear(&raw const lguest_data as usize as u32) + offset
}

/// The physical address of virtual address `at` of the kernel's image.
pub(crate) fn linear(at: u32) -> u32 {
    at.wrapping_sub(va(0))
}

/// The kernel's virtual address of physical address `at`.
pub(crate) const fn va(at: u32) -> u32 {
    at.wrapping_add(DEFAULT_PAGE_OFFSET)
}

/// The word at physical address `at`.
pub(crate) fn peek(at: u32) -> u32 {
    // SAFETY: all memory is mapped (the kit's rule 2), and no Rust object is in
    // pages of the lab.
    unsafe { Phys(at).ptr::<u32>().read_volatile() }
}

/// Stores a word at physical address `at`.
pub(crate) fn poke(at: u32, word: u32) {
    // SAFETY: as in `peek`.
    unsafe { Phys(at).ptr::<u32>().write_volatile(word) }
}

/// Stores bytes at physical address `at`.
pub(crate) fn write(at: u32, bytes: &[u8]) {
    for (&byte, at) in bytes.iter().zip(at..) {
        // SAFETY: as in `peek`.
        unsafe { Phys(at).ptr::<u8>().write_volatile(byte) }
    }
}

/// The bytes at physical address `at`, as they are now.
pub(crate) fn bytes(at: u32, len: usize) -> &'static [u8] {
    // SAFETY: as in `peek`. The Host may write there later. A new call reads
    // the new bytes.
    unsafe { core::slice::from_raw_parts(Phys(at).ptr::<u8>(), len) }
}

/// The word at virtual address `at`, which must be mapped.
pub(crate) fn load(at: u32) -> u32 {
    // SAFETY: the caller has mapped it, and no Rust object is there.
    unsafe { (at as usize as *const u32).read_volatile() }
}

/// Stores a word at virtual address `at`, which must be mapped.
pub(crate) fn store(at: u32, word: u32) {
    // SAFETY: as in `load`.
    unsafe { (at as usize as *mut u32).write_volatile(word) }
}
