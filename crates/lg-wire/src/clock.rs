//! The clock of the processor time that a process has used.
//!
//! Linux computes the clock's number from the number of the process. The C
//! library does the same in `clock_getcpuclockid`, which also checks that the
//! process exists.

/// The number of the clock of `process`, for `clock_gettime`.
#[must_use]
pub const fn clock_of(process: i32) -> i32 {
    /// The time in which it was on a processor (`CPUCLOCK_SCHED`).
    const SCHEDULED: i32 = 2;
    !process << 3 | SCHEDULED
}

#[cfg(test)]
mod tests {
    use super::clock_of;

    #[test]
    fn clocks_are_numbered_as_the_c_library_numbers_them() {
        // glibc's MAKE_PROCESS_CPUCLOCK, for processes 1 and 4711.
        assert_eq!(clock_of(1), -14);
        assert_eq!(clock_of(4711), -37694);
    }
}
