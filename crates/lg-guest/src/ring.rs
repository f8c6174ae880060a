//! The asynchronous ring: hypercalls that can wait until the next real one.
//!
//! Entering the Host costs far more than the average hypercall does. Some
//! hypercalls need no answer and are not urgent: a page-table entry, or the
//! stack for the next trap. The Guest only writes these down, and the Host
//! carries them out, in order, before the next direct call. This module is the
//! bookkeeping: which entry is next, and whether the Host is done with it.
//! [`crate::hcall`] uses it where a call may wait.
//!
//! ```no_run
//! # #![cfg_attr(target_arch = "x86", no_std)]
//! # #![cfg_attr(target_arch = "x86", no_main)]
//! use lg_guest::ring::Cursor;
//!
//! fn main() {
//!     let mut cursor = Cursor::new();
//!     // The status of each entry: the Host has done it.
//!     assert_eq!(cursor.claim(|_| 0xFF), Some(0));
//!     assert_eq!(cursor.claim(|_| 0xFF), Some(1));
//!     assert_eq!(cursor.claim(|_| 0), None);
//! }
//! ```

use lg_abi::shared::{HCALL_DONE, LHCALL_RING_SIZE};

/// Where the next call goes. The Host keeps a cursor of its own, and starts at
/// zero as we do: both visit the entries in the same order.
#[derive(Debug, Default)]
pub struct Cursor(usize);

impl Cursor {
    /// At the first entry.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// The entry to use, or `None` if the Host has not done it yet: the ring
    /// is full. `status` reads the state of one entry.
    pub fn claim(&mut self, status: impl Fn(usize) -> u8) -> Option<usize> {
        let entry = self.0;
        if status(entry) != HCALL_DONE {
            return None;
        }
        self.0 = (entry + 1) % LHCALL_RING_SIZE;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lg_abi::shared::HCALL_PENDING;

    #[test]
    fn entries_are_used_in_order_and_around() {
        let mut cursor = Cursor::new();
        for round in 0..3 * LHCALL_RING_SIZE {
            assert_eq!(
                cursor.claim(|_| HCALL_DONE),
                Some(round % LHCALL_RING_SIZE)
            );
        }
    }

    #[test]
    fn a_full_ring_gives_nothing_until_the_host_has_worked() {
        let mut status = [HCALL_DONE; LHCALL_RING_SIZE];
        let mut cursor = Cursor::new();
        while let Some(entry) = cursor.claim(|entry| status[entry]) {
            status[entry] = HCALL_PENDING;
        }
        assert!(status.iter().all(|&s| s == HCALL_PENDING));
        // The Host does them from its own cursor on: the first comes first.
        status[0] = HCALL_DONE;
        assert_eq!(cursor.claim(|entry| status[entry]), Some(0));
        status[0] = HCALL_PENDING;
        assert_eq!(cursor.claim(|entry| status[entry]), None);
    }
}
