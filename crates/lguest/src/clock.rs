//! The time-stamp counter, read once: when did we start?
//!
//! The Guest that is part of the Launcher tells how long everything took, from
//! the Launcher's first instruction on. It can read the same counter.

#![expect(unsafe_code, reason = "an instruction without a safe name")]

/// The time-stamp counter now.
#[must_use]
pub fn time_stamp() -> u64 {
    // SAFETY: every x86-64 has this instruction, and Linux lets us use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
