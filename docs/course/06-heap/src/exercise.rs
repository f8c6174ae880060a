//! Exercise 6: a heap that takes memory back.
//!
//! It keeps a list of *holes*: ranges of addresses that are free. Two holes
//! that meet are one hole. Otherwise the memory would fall into pieces that
//! are too small for anything.

use alloc::vec::Vec;
use core::ops::Range;

/// A heap, by its holes.
pub struct Holes {
    /// In the order of their addresses. None is empty, and no two meet.
    holes: Vec<Range<u32>>,
}

impl Holes {
    /// A heap with the memory from `start` up to `end`.
    pub fn new(start: u32, end: u32) -> Self {
        let all = core::iter::once(start..end);
        Self {
            holes: all.collect(),
        }
    }

    /// Takes `size` bytes from the first hole that has them, at its beginning.
    /// Returns their address.
    pub fn take(&mut self, size: u32) -> Option<u32> {
        // To do. A hole that becomes empty is removed.
        let _ = size;
        None
    }

    /// Gives `size` bytes at `start` back.
    pub fn give(&mut self, start: u32, size: u32) {
        // To do. The new hole may meet the one before it, the one behind it, or
        // both.
        let _ = (start, size);
    }

    /// The holes.
    pub fn all(&self) -> &[Range<u32>] {
        &self.holes
    }
}
