//! The drivers: console, disk, network, and the buffers that all three bind.
//!
//! Each driver takes one descriptor of the device page. Other code of the Guest
//! awaits its methods.

pub mod buffers;
pub mod console;
pub mod disk;
pub mod net;
