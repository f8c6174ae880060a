//! The registers of a virtio device on a PCI bus (virtio 1.0, section 4.1.4).
//!
//! Offsets are from the beginning of BAR 0, which has all groups one behind the
//! other.

use crate::gen2::device::{FORMATS_2_6_25, Formats};

/// The common registers.
pub const COMMON: u32 = 0x00;

/// How many bytes they have.
pub const COMMON_BYTES: u32 = 0x38;

/// u16: the number of a queue is written here when it has something.
pub const NOTIFY: u32 = 0x38;

/// u8: why there was an interrupt. Reading clears it.
pub const ISR: u32 = 0x3A;

/// In [`ISR`]: a queue has something.
pub const ISR_QUEUE: u32 = 1;

/// In [`ISR`]: the registers of the device have changed.
pub const ISR_CONFIG: u32 = 2;

/// The registers that depend on the type of the device.
pub const DEVICE: u32 = 0x3C;

/// Offsets of the common registers.
pub mod common {
    /// u32: which word of features [`DEVICE_FEATURE`] shows.
    pub const DEVICE_FEATURE_SELECT: u32 = 0x00;
    /// u32: what the device offers.
    pub const DEVICE_FEATURE: u32 = 0x04;
    /// u32: which word of features [`DRIVER_FEATURE`] is.
    pub const DRIVER_FEATURE_SELECT: u32 = 0x08;
    /// u32: what the driver accepts.
    pub const DRIVER_FEATURE: u32 = 0x0C;
    /// u16: not used.
    pub const MSIX_CONFIG: u32 = 0x10;
    /// u16: how many queues there are.
    pub const NUM_QUEUES: u32 = 0x12;
    /// u8: the progress of the driver.
    pub const DEVICE_STATUS: u32 = 0x14;
    /// u8: changes with the registers of the device.
    pub const CONFIG_GENERATION: u32 = 0x15;
    /// u16: which queue the following registers are of.
    pub const QUEUE_SELECT: u32 = 0x16;
    /// u16: how many descriptors it has.
    pub const QUEUE_SIZE: u32 = 0x18;
    /// u16: not used.
    pub const QUEUE_MSIX_VECTOR: u32 = 0x1A;
    /// u16: 1 = the driver uses it.
    pub const QUEUE_ENABLE: u32 = 0x1C;
    /// u16: which place to notify.
    pub const QUEUE_NOTIFY_OFF: u32 = 0x1E;
    /// u64: where its descriptors are.
    pub const QUEUE_DESC: u32 = 0x20;
    /// u64: where its available ring is.
    pub const QUEUE_DRIVER: u32 = 0x28;
    /// u64: where its used ring is.
    pub const QUEUE_DEVICE: u32 = 0x30;
}

/// In the status: the driver has accepted features.
pub const STATUS_FEATURES_OK: u8 = 8;

/// The feature that every device offers and every driver must accept: this
/// version of virtio.
pub const FEATURE_VERSION_1: u64 = 1 << 32;

/// In the place of an interrupt vector: none.
pub const NO_VECTOR: u32 = 0xFFFF;

/// A console: it prints what is written to [`EMERGENCY_WRITE`].
pub const CONSOLE_HAS_EMERGENCY_WRITE: u32 = 1 << 2;

/// Bytes of a console's registers: columns and rows (2 each), ports (4), and
/// the emergency write (4).
pub const CONSOLE_BYTES: u8 = 12;

/// u32, in the registers of a console: a character to print.
pub const EMERGENCY_WRITE: u32 = 8;

/// What headers look like. That of a frame ends with the number of buffers that
/// it takes (u16).
pub const FORMATS: Formats = Formats {
    net_header: FORMATS_2_6_25.net_header + 2,
    ..FORMATS_2_6_25
};
