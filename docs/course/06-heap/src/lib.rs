//! Lesson 6: the heap, and a panic that explains itself.
//!
//! A heap hands out pieces of memory. The simplest one never takes any back.

#![no_std]

extern crate alloc;

pub mod exercise;

use alloc::vec::Vec;

/// A heap that only hands out: all it knows is where the rest begins.
pub struct Bump {
    next: u32,
    end: u32,
}

impl Bump {
    /// A heap with the memory from `start` up to `end`.
    pub const fn new(start: u32, end: u32) -> Self {
        Self { next: start, end }
    }

    /// The address of `size` bytes, a multiple of `align` (a power of two), or
    /// `None` if there is no room.
    pub fn take(&mut self, size: u32, align: u32) -> Option<u32> {
        let start = self.next.checked_next_multiple_of(align)?;
        let next = start.checked_add(size)?;
        if next > self.end {
            return None;
        }
        self.next = next;
        Some(start)
    }
}

/// The prime numbers below `limit`.
pub fn primes(limit: usize) -> Vec<usize> {
    let mut is_prime = Vec::new();
    is_prime.resize(limit, true);
    let mut found = Vec::new();
    for number in 2..limit {
        if is_prime[number] {
            found.push(number);
            for multiple in (2 * number..limit).step_by(number) {
                is_prime[multiple] = false;
            }
        }
    }
    found
}

/// The prime number with this place among them.
pub fn nth_prime(place: usize) -> usize {
    primes(1000)[place]
}
