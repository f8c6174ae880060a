//! How much there can be of each thing that patches need.
//!
//! Everything has a fixed size because it lies in the state that the views
//! share. What does not fit goes on trapping.

/// The longest run of instructions that moves into a trampoline, in bytes.
pub const MAX_DISPLACED: usize = 24;

/// The longest patch in an accessor of devices, in bytes.
pub const MAX_ACCESSOR: usize = 12;

/// Hypercalls and accessors without trampolines that are remembered as such.
pub const MAX_REFUSED: usize = 16;

/// Sites in user code that are remembered as not to be patched.
pub const MAX_UNPATCHED: usize = 64;

/// Pages whose patched copies did not live long that are remembered.
pub const MAX_FLIPS: usize = 32;

/// How many direct calls there can be.
pub const MAX_DIRECT: usize = 48;
