//! The first instructions on i386, the heap, and the end by a panic.
//!
//! The kernel puts the number of arguments and their addresses on the stack.
//! The heap is one piece of address space; its pages cost memory once they are
//! used. Where the kernel does not give as much, it is smaller.
#![expect(unsafe_code, reason = "the first instructions, and the heap")]

extern crate alloc;

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use lg_agent::sys::{self, Memory};
use linked_list_allocator::Heap;

/// Sizes of the heap, in bytes: the first that the kernel gives.
const SIZES: [usize; 3] = [256 << 20, 64 << 20, 8 << 20];

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov eax, esp",
    "and esp, -16",
    "sub esp, 12",
    "push eax",
    "call {start}",
    "ud2",
    start = sym start,
);

// What `core` and `alloc` of this target expect of a C library and of an
// unwinder. Nothing unwinds: a panic ends the program.
global_asm!(
    ".globl strlen, _Unwind_Resume, rust_eh_personality",
    "strlen:",
    "mov eax, [esp + 4]",
    "2:",
    "cmp byte ptr [eax], 0",
    "je 3f",
    "inc eax",
    "jmp 2b",
    "3:",
    "sub eax, [esp + 4]",
    "ret",
    "_Unwind_Resume:",
    "rust_eh_personality:",
    "ud2",
);

/// # Safety
///
/// `stack` is what the kernel has put on the stack: a number, and so many
/// addresses of strings.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    for size in SIZES {
        if let Ok(memory) = Memory::new(size) {
            let memory = core::mem::ManuallyDrop::new(memory);
            // SAFETY: there is one thread, and nobody else has this memory.
            unsafe { HEAP.begin(memory.start(), size) };
            break;
        }
    }
    // SAFETY: as the caller says.
    let count = unsafe { *stack };
    let mut arguments: Vec<CString> = Vec::new();
    for n in 1..=count {
        // SAFETY: so many addresses follow.
        let address = unsafe { *stack.wrapping_add(n) };
        let string: *const c_char = core::ptr::with_exposed_provenance(address);
        // SAFETY: it is a string of the kernel's.
        arguments.push(unsafe { CStr::from_ptr(string) }.into());
    }
    sys::exit(lg_agent::main(&arguments))
}

/// The heap of a program with one thread. Wardens do not allocate.
struct OwnHeap(UnsafeCell<Heap>);

// SAFETY: there is one thread.
unsafe impl Sync for OwnHeap {}

impl OwnHeap {
    /// # Safety
    ///
    /// The memory is writable, and nobody else's. Nothing was allocated.
    unsafe fn begin(&self, at: *mut u8, size: usize) {
        // SAFETY: there is one thread, and no other reference.
        let heap = unsafe { &mut *self.0.get() };
        // SAFETY: as the caller says.
        unsafe { heap.init(at, size) };
    }
}

// SAFETY: the heap behind it keeps what the trait asks for, and there is one
// thread.
unsafe impl GlobalAlloc for OwnHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: there is one thread, and no other reference.
        let heap = unsafe { &mut *self.0.get() };
        let made = heap.allocate_first_fit(layout);
        made.map_or(core::ptr::null_mut(), |at| at.as_ptr())
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: there is one thread, and no other reference.
        let heap = unsafe { &mut *self.0.get() };
        if let Some(at) = core::ptr::NonNull::new(at) {
            // SAFETY: the caller has it from `alloc`, with this layout.
            unsafe { heap.deallocate(at, layout) };
        }
    }
}

#[global_allocator]
static HEAP: OwnHeap = OwnHeap(UnsafeCell::new(Heap::empty()));

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    lg_agent::say(&alloc::format!("{info}"));
    sys::exit(134)
}
