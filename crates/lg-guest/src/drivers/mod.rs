//! The drivers: console, disk, network, and the buffers that all three bind.
//!
//! A driver finds its device on the bus, sets its status step by step, and
//! speaks the device's protocol through DMA. All have the same shape: made from
//! a device, asked to do one thing at a time, told when their interrupt has
//! come.

pub mod buffers;
pub mod console;
pub mod disk;
pub mod net;
