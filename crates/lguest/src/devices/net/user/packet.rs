//! IP packets in frames, as far as filters look at them.
//!
//! A packet that passt could understand in another way is none here: fragments,
//! packets behind a VLAN tag or cut off, and those of IPv6 with a header before
//! the segment or datagram, which have another protocol here.

use crate::devices::net::ethernet::{self, Version};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP_V6: u8 = 58;

/// In the flags of a segment: it is the first one; it answers.
pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// A packet without options that could hide anything.
pub(super) struct Packet<'f> {
    pub(super) version: Version,
    pub(super) protocol: u8,
    /// From, to: IPv4 addresses with twelve zeroes in front.
    pub(super) addresses: [[u8; 16]; 2],
    pub(super) payload: &'f [u8],
    /// The frame up to the end of the packet. A sender may put any bytes
    /// behind.
    pub(super) frame: &'f [u8],
}

impl Packet<'_> {
    pub(super) fn from(&self) -> IpAddr {
        self.address(self.addresses[0])
    }

    pub(super) fn to(&self) -> IpAddr {
        self.address(self.addresses[1])
    }

    fn address(&self, bytes: [u8; 16]) -> IpAddr {
        let [.., a, b, c, d] = bytes;
        match self.version {
            Version::V4 => Ipv4Addr::new(a, b, c, d).into(),
            Version::V6 => Ipv6Addr::from(bytes).into(),
        }
    }

    /// Whether it begins a connection: the first segment of TCP does.
    pub(super) fn begins(&self) -> bool {
        self.protocol == TCP
            && self
                .payload
                .get(13)
                .is_some_and(|flags| flags & (SYN | ACK) == SYN)
    }

    /// The ports, from and to, of a segment or datagram with a whole header.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        let header = if self.protocol == TCP { 20 } else { 8 };
        let [a, b, c, d, ..] = self.payload.get(..header)? else {
            return None;
        };
        Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
    }
}

/// The IP packet in a frame, if it is whole.
pub(super) fn packet(frame: &[u8]) -> Option<Packet<'_>> {
    let (version, at) = ethernet::packet(frame)?;
    if at != ethernet::HEADER {
        return None; // behind a tag
    }
    match version {
        Version::V4 => packet_of_ipv4(frame, at),
        Version::V6 => packet_of_ipv6(frame, at),
    }
}

/// The packet of IPv4 at `at`.
fn packet_of_ipv4(frame: &[u8], at: usize) -> Option<Packet<'_>> {
    let ip = frame.get(at..)?;
    let header = ip.first_chunk::<20>()?;
    let start = usize::from(header[0] & 15) * 4;
    let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF;
    let whole = header[0] >> 4 == 4 && start >= 20 && fragment == 0;
    let address = |at: usize| {
        let mut address = [0; 16];
        address[12..].copy_from_slice(&header[at..at + 4]);
        address
    };
    Some(Packet {
        version: Version::V4,
        protocol: header[9],
        addresses: [address(12), address(16)],
        payload: ip.get(start..end).filter(|_| whole)?,
        frame: frame.get(..at + end)?,
    })
}

/// The packet of IPv6 at `at`.
fn packet_of_ipv6(frame: &[u8], at: usize) -> Option<Packet<'_>> {
    let ip = frame.get(at..)?;
    let header = ip.first_chunk::<40>()?;
    let end = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let address = |at: usize| {
        let mut address = [0; 16];
        address.copy_from_slice(&header[at..at + 16]);
        address
    };
    Some(Packet {
        version: Version::V6,
        protocol: header[6],
        addresses: [address(8), address(24)],
        payload: ip.get(40..end).filter(|_| header[0] >> 4 == 6)?,
        frame: frame.get(..at + end)?,
    })
}
