//! Devices since Linux 2.6.24: descriptors on lguest's bus, and virtqueues.
//!
//! One page above RAM holds descriptors of different lengths, one behind the
//! other; a type of 0 ends them. The rings lie in the pages behind it. Each
//! virtqueue has its own interrupt (docs/abi.md, section 9). Linux 2.6.24 has
//! other descriptors and headers than later releases; [`Formats`] says which.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Descriptors in a virtqueue. Kernels take what the descriptor says.
pub const RING_SIZE: u16 = 256;

/// How the used ring is aligned (`LGUEST_VRING_ALIGN`).
pub const RING_ALIGN: u32 = 4096;

/// Types of devices, as virtio numbers them.
pub const TYPE_NET: u8 = 1;
/// A disk.
pub const TYPE_BLOCK: u8 = 2;
/// A console.
pub const TYPE_CONSOLE: u8 = 3;
/// A source of random numbers.
pub const TYPE_RANDOM: u8 = 4;
/// A folder, which is mounted by 9P.
pub const TYPE_9P: u8 = 9;

/// What descriptors and headers look like in some releases.
#[derive(Debug, PartialEq, Eq)]
pub struct Formats {
    /// Whether everything in a descriptor behind its three bytes is a list of
    /// [fields](Field), as in 2.6.24.
    pub fields: bool,
    /// Offset of the status in a descriptor.
    pub status: u32,
    /// Bytes of the header of a request to a disk.
    pub block_header: u32,
    /// Bytes of the header of a frame.
    pub net_header: u32,
}

/// Linux 2.6.24.
pub const FORMATS_2_6_24: Formats = Formats {
    fields: true,
    status: 2,
    block_header: 24,
    net_header: 8,
};

/// Since Linux 2.6.25.
pub const FORMATS_2_6_25: Formats = Formats {
    fields: false,
    status: STATUS,
    block_header: 16,
    net_header: NET_HEADER,
};

/// A field of a descriptor of Linux 2.6.24: its kind, the number of bytes (a
/// byte each), and those bytes. They are bytes that later releases have in the
/// configuration of the device.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// The kind of the field.
    pub kind: u8,
    /// Where its bytes are in the configuration of later releases.
    pub from: usize,
    /// How many bytes it has.
    pub len: usize,
}

/// The kind of a field that holds a [`Queue`].
pub const FIELD_QUEUE: u8 = 2;

/// The fields of a network: the Guest's Ethernet address.
pub const NET_FIELDS: &[Field] = &[Field {
    kind: 0x41,
    from: 0,
    len: 6,
}];

/// The fields of a disk: its sectors, and the most sections of a request.
pub const BLOCK_FIELDS: &[Field] = &[
    Field {
        kind: 0x41,
        from: 0,
        len: 8,
    },
    Field {
        kind: 0x43,
        from: 12,
        len: 4,
    },
];

/// The beginning of a descriptor since 2.6.25. Behind it come `num_vq`
/// [`Queue`]s, twice `feature_len` bytes (offered, then accepted), and
/// `config_len` bytes.
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
pub struct Descriptor {
    /// The type of the device.
    pub kind: u8,
    /// Virtqueues.
    pub num_vq: u8,
    /// Bytes of each set of feature bits.
    pub feature_len: u8,
    /// Bytes of configuration.
    pub config_len: u8,
    /// Guest: the progress of its driver.
    pub status: u8,
}

/// Bytes of a [`Descriptor`].
pub const DESCRIPTOR_SIZE: u32 = 5;

/// Offset of `status`.
pub const STATUS: u32 = 4;

/// In `status`: the driver is ready.
pub const STATUS_DRIVER_OK: u8 = 4;

/// In `status`: the driver has failed.
pub const STATUS_FAILED: u8 = 0x80;

/// A virtqueue in a descriptor.
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
pub struct Queue {
    /// How many descriptors the ring has.
    pub num: u16,
    /// Its interrupt.
    pub irq: u16,
    /// The page number of the ring, low and high half.
    pub pfn: [u16; 2],
}

const _: () = {
    assert!(size_of::<Descriptor>() == DESCRIPTOR_SIZE as usize);
    assert!(size_of::<Queue>() == 8);
};

/// Feature of a console: its configuration has columns and rows, u16 each.
pub const CONSOLE_SIZE: u32 = 0;
/// It has ports, and queues by which driver and device speak of them. Its
/// configuration has the most ports (u32), behind columns and rows.
pub const CONSOLE_MULTIPORT: u32 = 1;

/// A message about a port. The name of a port follows its message.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct PortMessage {
    /// The port.
    pub id: u32,
    /// `PORT_*`.
    pub event: u16,
    /// Yes (1) or no (0).
    pub value: u16,
}

/// Bytes of a [`PortMessage`].
pub const PORT_MESSAGE: u32 = 8;

const _: () = assert!(size_of::<PortMessage>() == PORT_MESSAGE as usize);

/// Messages about ports: the driver is ready.
pub const PORT_DEVICE_READY: u16 = 0;
/// There is this port.
pub const PORT_ADD: u16 = 1;
/// The driver is ready for this port.
pub const PORT_READY: u16 = 3;
/// One side has opened or closed it.
pub const PORT_OPEN: u16 = 6;
/// Its name.
pub const PORT_NAME: u16 = 7;

/// Features of a disk: its configuration limits the sections of a request.
pub const BLOCK_SEG_MAX: u32 = 2;
/// It is read-only.
pub const BLOCK_READ_ONLY: u32 = 5;
/// It supports [`BLOCK_FLUSH`].
pub const BLOCK_HAS_FLUSH: u32 = 9;

/// Requests to a disk: read.
pub const BLOCK_IN: u32 = 0;
/// Write.
pub const BLOCK_OUT: u32 = 1;
/// Makes earlier writes survive a loss of power.
pub const BLOCK_FLUSH: u32 = 4;
/// Reads a name of up to 20 bytes.
pub const BLOCK_GET_ID: u32 = 8;

/// Results of a request to a disk.
pub const BLOCK_OK: u8 = 0;
/// The request failed.
pub const BLOCK_IO_ERROR: u8 = 1;
/// The disk does not support this request.
pub const BLOCK_UNSUPPORTED: u8 = 2;

/// The header of a request to a disk; the data follow.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct BlockHeader {
    /// `BLOCK_*`.
    pub kind: u32,
    /// Not used.
    pub priority: u32,
    /// The first sector, low and high word.
    pub sector: [u32; 2],
}

const _: () = assert!(size_of::<BlockHeader>() == 16);

/// Feature bits, of a device or accepted by its driver.
pub type Features = u32;

/// Features of a network: the Guest may leave checksums out.
pub const NET_CHECKSUM: u32 = 0;
/// The Guest takes frames without their checksum.
pub const NET_GUEST_CHECKSUM: u32 = 1;
/// Its configuration has the most bytes of a packet, behind the address, a
/// status and a number of queues (u16 each). Linux since 4.8 accepts it.
pub const NET_MTU: u32 = 3;
/// Its configuration has the Guest's Ethernet address.
pub const NET_MAC: u32 = 5;
/// Its configuration has a status behind the address, whose first bit says
/// that the link is up. Only devices on a PCI bus offer it: on the older bus,
/// no driver learns of a change.
pub const NET_STATUS: u32 = 16;
/// Where the status is.
pub const NET_STATUS_AT: usize = 6;
/// The Guest takes frames that are many segments of TCP over IPv4 ...
pub const NET_GUEST_TCP4: u32 = 7;
/// ... and over IPv6.
pub const NET_GUEST_TCP6: u32 = 8;
/// The Guest may send such frames, of IPv4 ...
pub const NET_HOST_TCP4: u32 = 11;
/// ... and of IPv6.
pub const NET_HOST_TCP6: u32 = 12;
/// A frame to the Guest may have several buffers. Then the header of every
/// frame is longer.
pub const NET_MERGEABLE: u32 = 15;

/// Bytes in front of a frame: flags, kind of segmentation, four lengths.
pub const NET_HEADER: u32 = 10;

/// The same, with the number of buffers.
pub const NET_HEADER_WITH_COUNT: u32 = 12;

/// Feature bit of a folder: its configuration is a tag, by which it is mounted.
/// The bytes of the tag come first, as a half-word.
pub const SHARE_TAG: u32 = 0;
