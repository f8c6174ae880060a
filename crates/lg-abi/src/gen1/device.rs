//! The bus: sixteen descriptors in one page, and what each device's page holds.
//!
//! The descriptor page lies just above the top of memory. Each descriptor
//! names a device's type, features, status and pages; the interrupt of the
//! device is its index plus one (docs/abi.md, section 7).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Descriptors in the descriptor page.
pub const LGUEST_MAX_DEVICES: usize = super::dma::LGUEST_MAX_DMA / 2;

/// The type of an empty descriptor.
pub const LGUEST_DEVICE_T_NONE: u16 = 0;
/// A console; it has no page.
pub const LGUEST_DEVICE_T_CONSOLE: u16 = 1;
/// A network; its page is an array of [`Net`].
pub const LGUEST_DEVICE_T_NET: u16 = 2;
/// A disk; its page is a [`BlockPage`].
pub const LGUEST_DEVICE_T_BLOCK: u16 = 3;

/// Net feature: frames on this network need no checksums.
pub const LGUEST_NET_F_NOCSUM: u16 = 0x4000;
/// Any device: its interrupt comes at fairly random times.
pub const LGUEST_DEVICE_F_RANDOMNESS: u16 = 0x8000;

/// Guest: the device was seen.
pub const LGUEST_DEVICE_S_ACKNOWLEDGE: u16 = 1;
/// Guest: there is a driver for it.
pub const LGUEST_DEVICE_S_DRIVER: u16 = 2;
/// Guest: the driver works.
pub const LGUEST_DEVICE_S_DRIVER_OK: u16 = 4;
/// Host: the device has gone away.
pub const LGUEST_DEVICE_S_REMOVED: u16 = 8;
/// Guest: the driver has acknowledged the removal.
pub const LGUEST_DEVICE_S_REMOVED_ACK: u16 = 16;
/// Guest: something failed.
pub const LGUEST_DEVICE_S_FAILED: u16 = 128;

/// `struct lguest_device_desc`: one device on the bus.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct DeviceDescriptor {
    /// `LGUEST_DEVICE_T_*`.
    pub kind: u16,
    /// `LGUEST_DEVICE_F_*`, and bits that depend on the type.
    pub features: u16,
    /// `LGUEST_DEVICE_S_*`: only ever set, never cleared.
    pub status: u16,
    /// How many pages the device has.
    pub num_pages: u16,
    /// Number of the first of them.
    pub pfn: u32,
}

impl DeviceDescriptor {
    /// Bytes of a descriptor.
    pub const SIZE: u32 = 12;
    /// Offset of `status`.
    pub const STATUS_OFFSET: u32 = 4;
}

const _: () = assert!(
    size_of::<DeviceDescriptor>() == DeviceDescriptor::SIZE as usize
        && core::mem::offset_of!(DeviceDescriptor, status)
            == DeviceDescriptor::STATUS_OFFSET as usize
        && core::mem::offset_of!(DeviceDescriptor, pfn) == 8
);

/// The interrupt of the device at `index` of the descriptor page.
#[must_use]
pub const fn device_irq(index: u8) -> u8 {
    index + 1
}

/// Bytes in a sector.
pub const SECTOR_SIZE: u32 = 512;

/// `struct lguest_block_page`: the request that a disk is working on.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct BlockPage {
    /// [`BLOCK_READ`] or [`BLOCK_WRITE`].
    pub kind: u32,
    /// First sector.
    pub sector: u32,
    /// Bytes expected to be moved.
    pub bytes: u32,
    /// [`BLOCK_PENDING`], [`BLOCK_DONE`] or [`BLOCK_ERROR`].
    pub result: u32,
    /// Sectors on the disk.
    pub num_sectors: u32,
}

impl BlockPage {
    /// Offset of `result`.
    pub const RESULT_OFFSET: u32 = 12;
}

const _: () = assert!(
    size_of::<BlockPage>() == 20
        && core::mem::offset_of!(BlockPage, result)
            == BlockPage::RESULT_OFFSET as usize
        && core::mem::offset_of!(BlockPage, num_sectors) == 16
);

/// In [`BlockPage::kind`]: from the disk to the Guest.
pub const BLOCK_READ: u32 = 0;
/// In [`BlockPage::kind`]: from the Guest to the disk.
pub const BLOCK_WRITE: u32 = 1;
/// In [`BlockPage::result`]: not done yet.
pub const BLOCK_PENDING: u32 = 0;
/// In [`BlockPage::result`]: done, all bytes were moved.
pub const BLOCK_DONE: u32 = 1;
/// In [`BlockPage::result`]: done, with an error.
pub const BLOCK_ERROR: u32 = 2;

/// `struct lguest_net`: one slot of a network's page.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Net {
    /// The Ethernet address, zero = slot not in use. The multicast bit (bit 0
    /// of the first byte) means that the slot accepts every frame.
    pub mac: [u8; 6],
}

const _: () = assert!(size_of::<Net>() == 6);

/// Slots in a network's page.
pub const NET_SLOTS: u32 = crate::page::PAGE_SIZE / 6;

/// In [`Net::mac`]`[0]`: this slot is promiscuous.
pub const NET_PROMISC: u8 = 1;

/// The key of slot `slot`, as an offset into the network's page.
#[must_use]
pub const fn net_key_offset(slot: u32) -> u32 {
    slot * super::dma::KEY_ALIGN
}

/// The longest Ethernet frame, without its checksum.
pub const NET_FRAME_MAX: u32 = 1514;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_from_the_header() {
        assert_eq!(LGUEST_MAX_DEVICES, 16);
        assert_eq!(NET_SLOTS, 682);
        assert!(net_key_offset(NET_SLOTS - 1) < crate::page::PAGE_SIZE);
        assert_eq!(device_irq(0), 1);
    }
}
