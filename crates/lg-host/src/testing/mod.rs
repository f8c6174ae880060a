//! A pretended machine for the tests of this crate and for the fuzzer.
//!
//! It has memory, a mapper that only records, and a world in which nothing
//! happens. Only tests and the feature `testing` compile it.

#![expect(
    unsafe_code,
    reason = "gives a Vec to Memory, and makes zeroed state"
)]

mod machine;
mod mapper;
mod world;

pub use machine::Machine;
pub use mapper::{RecordingMapper, SharedMapper};
pub use world::{CALL_TRAMPOLINES, Pretended};

use crate::memory::{Memory, Region};
use crate::paging::ShadowMemory;
use crate::state::Vm;
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::boxed::Box;

/// Memory for a Guest. Words, so that it is aligned.
pub struct Ram(Box<[u32]>);

impl Ram {
    /// Zeroed memory, `bytes` long.
    #[must_use]
    pub fn new(bytes: u32) -> Self {
        Self(std::vec![0; bytes as usize / 4].into())
    }

    /// The memory as a Host sees it. It must not outlive `self`.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let bytes = u32::try_from(self.0.len() * 4).expect("it was a word");
        let base = core::ptr::NonNull::from(&*self.0).cast();
        // SAFETY: tests keep the `Ram` as long as the `Memory`, and touch it
        // only through the `Memory`.
        Memory::new(unsafe { Region::new(base, bytes) })
    }
}

/// A `T` whose every byte is zero. Pages of it that nothing touches cost
/// nothing.
///
/// # Safety
///
/// Zero must be right for a `T`, and a `T` must have a size.
unsafe fn zeroed<T>() -> Box<T> {
    let layout = Layout::new::<T>();
    // SAFETY: the caller says that it has a size.
    let at = unsafe { alloc_zeroed(layout) };
    if at.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: it was allocated with this layout, and zero is right.
    unsafe { Box::from_raw(at.cast()) }
}

/// A view's record, with nothing in it.
#[must_use]
pub fn record() -> Box<ShadowMemory> {
    // SAFETY: its documentation says that zero is right.
    unsafe { zeroed() }
}

/// What is known of a Guest before anything is known.
#[must_use]
pub fn state() -> Box<Vm> {
    // SAFETY: its module's documentation says that zero is right.
    unsafe { zeroed() }
}
