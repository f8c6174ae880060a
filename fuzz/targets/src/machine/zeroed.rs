//! State that begins as zeroes.
//!
//! The kernel provides its pages on first use. An input takes microseconds, and
//! clearing megabytes for each would be most of the work.

#![expect(unsafe_code, reason = "a zeroed mapping is a value")]

use lg_host::address::as_word;
use lg_host::memory::{Memory, Region};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

/// A value in pages of its own, for types for which zero is valid. Pages that
/// are not used cost nothing.
///
/// # Invariants
///
/// 1. It points to a zeroed mapping of its own, large enough for a `T`.
pub(super) struct Zeroed<T>(NonNull<T>);

impl<T> Zeroed<T> {
    /// Only for `Vm` and `ShadowMemory`, for which zero is valid, and numbers.
    pub(super) fn new() -> Self {
        let (flags, rights) =
            (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping touches nothing that exists.
        let at = unsafe {
            mmap_anonymous(ptr::null_mut(), size_of::<T>(), rights, flags)
        };
        let at = at.expect("memory can be had");
        Self(NonNull::new(at.cast()).expect("mmap never returns null"))
    }
}

impl<const WORDS: usize> Zeroed<[Cell<u32>; WORDS]> {
    /// The words as memory of a Host. It must not outlive `self`.
    pub(super) fn memory(&self) -> Memory {
        let bytes = as_word(WORDS) * 4;
        // SAFETY: the words are there (invariant 1), and are touched only
        // through a `Memory`.
        Memory::new(unsafe { Region::new(self.0.cast(), bytes) })
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: invariant 1, and zero is a valid `T`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        // SAFETY: invariant 1; there are no references any more.
        let done = unsafe { munmap(self.0.as_ptr().cast(), size_of::<T>()) };
        done.expect("we mapped it ourselves");
    }
}
