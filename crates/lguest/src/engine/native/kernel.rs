//! The futex calls of the kernel.
//!
//! [`lg_wire::turns`] has the steps by which processes wait for each other. Its
//! waits and wake-ups are these calls.

use lg_wire::turns::Futex;
use rustix::thread::futex;
use std::sync::atomic::AtomicU32;

/// The kernel of the machine.
pub(super) struct Kernel;

impl Futex for Kernel {
    type Word = AtomicU32;

    fn wait(word: &AtomicU32, value: u32) {
        // Woken, interrupted, or too late to sleep: the caller looks again.
        let _ = futex::wait(word, futex::Flags::empty(), value, None);
    }

    fn wake(word: &AtomicU32) {
        // This cannot fail on memory that is mapped.
        let _ = futex::wake(word, futex::Flags::empty(), 1);
    }
}
