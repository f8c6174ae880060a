//! Lesson 1: hypercalls, the console, and the end.
//!
//! All of it is one instruction, `int $0x1f`, with a number and three arguments
//! in registers. Nothing here needs the guest kit.

#![no_std]
#![expect(unsafe_code, reason = "the hypercall instruction")]

pub mod exercise;

use core::arch::asm;
use core::cell::UnsafeCell;
use core::ffi::CStr;

/// Hypercalls, by their numbers.
pub const LGUEST_INIT: u32 = 1;
/// Ends the guest.
pub const CRASH: u32 = 2;
/// Moves data out of the guest.
pub const SEND_DMA: u32 = 13;

/// The console's key for SEND_DMA.
const CONSOLE: u32 = 0;

/// Physical address 0 is seen here.
pub const PAGE_OFFSET: u32 = 0xC000_0000;

/// Asks the Host. The result is in eax.
pub fn hypercall(number: u32, first: u32, second: u32, third: u32) -> u32 {
    let result;
    // SAFETY: the Host keeps all registers but eax. What it does with memory is
    // said where the call is made.
    unsafe {
        asm!(
            "int $0x1f",
            inout("eax") number => result,
            in("edx") first,
            in("ebx") second,
            in("ecx") third,
            options(att_syntax)
        );
    }
    result
}

/// The physical address of something in this kernel.
pub fn physical<T: ?Sized>(at: *const T) -> u32 {
    (at.cast::<u8>() as u32).wrapping_sub(PAGE_OFFSET)
}

/// The page that kernel and Host share.
#[repr(C, align(4096))]
struct Shared(UnsafeCell<[u8; 4096]>);

// SAFETY: there is one processor, and Rust code here never uses the page.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared(UnsafeCell::new([0; 4096]));

/// Tells the Host where the shared page is. The first hypercall, made once.
pub fn init() {
    hypercall(LGUEST_INIT, physical(&SHARED), 0, 0);
}

/// What is to be sent: up to sixteen sections of memory. Its layout is that of
/// `struct lguest_dma` in the C header of 2007.
#[repr(C)]
struct Dma {
    used_len: u32,
    addr: [u32; 16],
    len: [u16; 16],
}

/// Prints a text of one page at most. Returns how many bytes the console has
/// taken.
pub fn print(text: &[u8]) -> u32 {
    let text = &text[..text.len().min(4096)];
    let mut dma = Dma {
        used_len: 0,
        addr: [0; 16],
        len: [0; 16],
    };
    // A section must lie inside one page. A text of that size may need two.
    let start = physical(text.as_ptr());
    let bytes = text.len() as u32;
    let first = bytes.min(4096 - start % 4096);
    (dma.addr[0], dma.len[0]) = (start, first as u16);
    (dma.addr[1], dma.len[1]) = (start + first, (bytes - first) as u16);
    hypercall(SEND_DMA, CONSOLE, physical(&raw mut dma), 0);
    // SAFETY: the Host has written there, which the compiler does not see.
    unsafe { (&raw const dma.used_len).read_volatile() }
}

/// Ends the guest with a reason. "Power down" is a good one.
pub fn end(reason: &CStr) -> ! {
    hypercall(CRASH, physical(reason.as_ptr()), 0, 0);
    loop {
        // There is no way back from that call.
        core::hint::spin_loop();
    }
}
