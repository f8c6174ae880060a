//! The header of an Ethernet frame, and the IP packet behind it.
//!
//! A VLAN device of Linux puts a tag in front of the type (IEEE 802.1Q), and
//! one on top of another puts two. Such devices leave checksums and segments to
//! the device below them, so tags are skipped here.

use std::ops::RangeInclusive;

/// Bytes of a header without tags: two addresses and a type. A shorter frame is
/// none.
pub const HEADER: usize = 14;

/// The most bytes of a packet that an interface may have. Every network of
/// today takes the smallest one.
pub const MTUS: RangeInclusive<u16> = 576..=9000;

/// Whether an interface can have this Ethernet address.
#[must_use]
pub fn is_of_one(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// Bytes of a tag, and how many of them a frame may have.
const TAG: usize = 4;
const TAGS: usize = 2;

/// The version of IP of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    V4,
    V6,
}

/// The version of IP of the packet in `frame`, by the header, and where the
/// packet begins.
pub(super) fn packet(frame: &[u8]) -> Option<(Version, usize)> {
    let kind = |at: usize| frame.get(at - 2..at);
    let is_tag =
        |at: usize| matches!(kind(at), Some([0x81, 0x00] | [0x88, 0xA8]));
    let mut places = (HEADER..).step_by(TAG).take(1 + TAGS);
    let at = places.find(|&at| !is_tag(at))?;
    let version = match kind(at)? {
        [0x08, 0x00] => Version::V4,
        [0x86, 0xDD] => Version::V6,
        _ => return None,
    };
    Some((version, at))
}

/// `frame` with so many tags, of both types in turn.
#[cfg(test)]
pub(super) fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(HEADER - 2);
    let kinds = [[0x81, 0x00, 0, 5], [0x88, 0xA8, 0x20, 6]];
    let tags: Vec<u8> = (0..tags).rev().flat_map(|n| kinds[n % 2]).collect();
    [addresses, &tags, rest].concat()
}
