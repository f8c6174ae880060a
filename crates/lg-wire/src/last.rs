//! What a Guest did last, for an explanation of its end.
//!
//! The Host notes each hypercall here, and the registers when it ends the
//! Guest. The Launcher reads it after the Guest's end, and shows it to a
//! person. Nothing depends on it.

use crate::debug::{WORDS, Words};
use core::sync::atomic::{AtomicU32, Ordering};

/// How many hypercalls are kept.
pub const CALLS: usize = 16;

/// A hypercall: eax, which is its number, then ebx, ecx and edx.
pub type CallWords = [u32; 4];

/// What is noted. All zero is right at the beginning.
#[repr(C)]
pub struct Last {
    /// 1 = the words are those of the Guest's end.
    pub noted: AtomicU32,
    /// The registers ([`Words`]).
    pub words: [AtomicU32; WORDS],
    /// 1 = the Guest has ended because of an address.
    pub has_address: AtomicU32,
    /// The address.
    pub address: AtomicU32,
    /// How many calls there were.
    pub count: AtomicU32,
    /// The last of them: call `n` is at `n % CALLS`.
    pub calls: [[AtomicU32; 4]; CALLS],
}

/// A copy of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastWords {
    /// The registers, if they were noted.
    pub words: Option<Words>,
    /// The address that was the reason, if it was one.
    pub address: Option<u32>,
    /// How many calls there were.
    pub count: u32,
    /// The last of them, oldest first: the first `count` places of a short run
    /// are in use, and else all.
    pub calls: [CallWords; CALLS],
}

impl Last {
    /// Notes a call.
    #[inline]
    pub fn note_call(&self, call: CallWords) {
        let count = self.count.load(Ordering::Relaxed);
        for (to, from) in self.calls[count as usize % CALLS].iter().zip(call) {
            to.store(from, Ordering::Relaxed);
        }
        self.count.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    /// Notes the registers at the end, and the address that was the reason.
    pub fn note_end(&self, words: &Words, address: Option<u32>) {
        for (to, &from) in self.words.iter().zip(words) {
            to.store(from, Ordering::Relaxed);
        }
        let has_address = u32::from(address.is_some());
        self.address.store(address.unwrap_or(0), Ordering::Relaxed);
        self.has_address.store(has_address, Ordering::Relaxed);
        self.noted.store(1, Ordering::Release);
    }

    /// Copies it out, each word once.
    #[must_use]
    pub fn read(&self) -> LastWords {
        let read = |word: &AtomicU32| word.load(Ordering::Acquire);
        let noted = read(&self.noted) == 1;
        let words = self.words.each_ref().map(read);
        let address = read(&self.address);
        let has_address = read(&self.has_address) == 1;
        let count = read(&self.count);
        let mut calls = self.calls.each_ref().map(|c| c.each_ref().map(read));
        if count as usize > CALLS {
            calls.rotate_left(count as usize % CALLS);
        }
        LastWords {
            words: noted.then_some(words),
            address: (noted && has_address).then_some(address),
            count,
            calls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Last {
        Last {
            noted: AtomicU32::new(0),
            words: core::array::from_fn(|_| AtomicU32::new(0)),
            has_address: AtomicU32::new(0),
            address: AtomicU32::new(0),
            count: AtomicU32::new(0),
            calls: core::array::from_fn(|_| {
                core::array::from_fn(|_| AtomicU32::new(0))
            }),
        }
    }

    #[test]
    fn the_last_calls_are_kept_in_their_order() {
        let last = fresh();
        assert_eq!(last.read().words, None);
        for n in 0..20 {
            last.note_call([n, 0, 0, n]);
            let read = last.read();
            assert_eq!(read.count, n + 1);
            let kept = (read.count as usize).min(CALLS);
            assert_eq!(read.calls[kept - 1], [n, 0, 0, n]);
            let first = read.count - u32::try_from(kept).unwrap();
            assert_eq!(read.calls[0][0], first);
        }
        last.note_end(&[7; WORDS], Some(9));
        let read = last.read();
        assert_eq!((read.words, read.address), (Some([7; WORDS]), Some(9)));
    }
}
