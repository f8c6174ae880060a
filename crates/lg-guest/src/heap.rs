//! The heap: the memory of `Box`, `Vec` and the like.
//!
//! A row of frames, taken at the start, given out by a list of holes. The row
//! is never touched before it is used, so its size costs nothing.

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

/// Takes its memory. Once, after the frames were handed over.
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

// SAFETY: `Heap` gives out blocks as asked for, which overlap with nothing. No
// interrupt handler allocates; one that did would find the user process taken.
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
