//! The header of an Ethernet frame, and the IP packet behind it.

/// Bytes of a header: two addresses and a type. A shorter frame is none.
pub const HEADER: usize = 14;

/// The version of IP of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

/// The version of IP of the packet in `frame`, by the header, and where the
/// packet begins.
pub(super) fn packet(frame: &[u8]) -> Option<(Version, usize)> {
    let version = match frame.get(HEADER - 2..HEADER)? {
        [0x08, 0x00] => Version::V4,
        [0x86, 0xDD] => Version::V6,
        _ => return None,
    };
    Some((version, HEADER))
}
