//! The drivers: console, disk, network, and the buffers that all three bind.
//!
//! Each takes one descriptor of the device page and gives the rest of the
//! Guest something to wait for.

pub mod buffers;
pub mod console;
pub mod disk;
pub mod net;
