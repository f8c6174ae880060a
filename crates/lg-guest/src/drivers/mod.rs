//! The drivers: console, disk, network, and the buffers that all three bind.

pub mod buffers;
pub mod console;
pub mod disk;
pub mod net;
