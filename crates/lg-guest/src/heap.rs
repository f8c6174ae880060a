//! The heap: the memory of `Box`, `Vec` and the like.
//!
//! A row of frames is taken at the start. A list of holes keeps its free parts.
//! Unused frames are never touched, so the size of the row costs nothing.
//!
//! ```no_run
//! # #![no_std]
//! # #![no_main]
//! use lg_guest::{heap, println};
//!
//! extern crate alloc;
//!
//! fn describe() {
//!     let list = alloc::vec![0; 1000];
//!     let (used, free) = heap::usage();
//!     println!("{} bytes of {}", used, used + free);
//!     drop(list);
//! }
//! ```

#![expect(unsafe_code, reason = "the global allocator")]

use crate::frame;
use crate::one_cpu::OneCpu;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use lg_abi::page::{PAGE_SHIFT, PAGE_SIZE};
use linked_list_allocator::Heap;

/// The heap has a quarter of the memory, within these limits, in pages.
const LEAST: u32 = 256 << 10 >> PAGE_SHIFT;
const MOST: u32 = 64 << 20 >> PAGE_SHIFT;

struct KernelHeap(OneCpu<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(OneCpu::new(Heap::empty()));

/// Takes the heap's memory. Called once, after `frame` has its frames.
pub(crate) fn init() {
    let pages = (frame::available() / 4).clamp(LEAST, MOST);
    let start = frame::alloc_row(pages).expect("memory for the heap");
    let bytes = (pages * PAGE_SIZE) as usize;
    HEAP.0.with(|heap| {
        // SAFETY: the row of frames is ours for good, and mapped (crate
        // rule 2).
        unsafe { heap.init(start.ptr(), bytes) }
    });
}

/// Bytes in use, and bytes free.
pub fn usage() -> (usize, usize) {
    HEAP.0.with(|heap| (heap.used(), heap.free()))
}

// SAFETY: `Heap` returns blocks of the layout asked for, and none overlap. No
// interrupt handler allocates; one that did would panic in `OneCpu::with`.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.0.with(|heap| heap.allocate_first_fit(layout));
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else {
            return;
        };
        self.0.with(|heap| {
            // SAFETY: the caller had it from `alloc`, with this layout.
            unsafe { heap.deallocate(block, layout) }
        });
    }
}
