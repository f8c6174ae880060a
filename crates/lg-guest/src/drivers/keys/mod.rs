//! Drivers for the devices of 2007: keys and pages.
//!
//! A device fills buffers that are bound to its keys, and gets what is sent to
//! them. A disk and a network also have a page that both sides write.

pub(super) mod buffers;
pub(super) mod console;
pub(super) mod disk;
pub(super) mod net;
