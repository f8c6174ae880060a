//! The system calls that a kernel of the kit has ready.
//!
//! The number is in eax, arguments are in ebx, ecx and edx, and the result
//! comes in eax. Traps go through vector 0x80. A kernel may have others: the
//! numbers from [`FIRST_OWN`] on are its own.

/// Ends the program; first argument = its result.
pub const EXIT: u32 = 0;

/// Prints; arguments = address, bytes. Result: how many bytes were printed, at
/// most [`WRITE_MAX`], or [`FAILED`].
pub const WRITE: u32 = 1;

/// Lets others run.
pub const YIELD: u32 = 2;

/// Sleeps; first argument = microseconds.
pub const SLEEP: u32 = 3;

/// Does nothing.
pub const NOTHING: u32 = 4;

/// The first number that the kit never gives to a call.
pub const FIRST_OWN: u32 = 64;

/// The most that [`WRITE`] prints at a time.
pub const WRITE_MAX: usize = 256;

/// The result of an invalid call.
pub const FAILED: u32 = u32::MAX;
