//! `,restrict`: the Guest reaches nothing, and published ports reach the Guest.
//!
//! passt makes a connection for the Guest when the Guest sends the first
//! segment of one, and a socket for each datagram that is not for its own DHCP
//! server. So no first segment gets to passt, and no datagram but an answer or
//! one for that server. Frames that passt could understand in another way than
//! this file (fragments, tunnels, VLAN tags, other protocols) are lost, too.
//! What is checked is the copy that is sent.

use crate::devices::net::ethernet::{self, Version};
use crate::machine::config::Published;
use std::collections::VecDeque;

/// Senders of datagrams that are remembered, for answers.
const REMEMBERED: usize = 4096;

pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;

/// In the flags of a segment: it is the first one; it answers.
const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// Ports of DHCP servers, of IPv4 and of IPv6. passt answers what is sent to
/// them, by its own version of IP only: with the other one these ports are like
/// any others.
const DHCP: u16 = 67;
const DHCP_V6: u16 = 547;

/// Messages by which neighbours and routers are found.
const NEIGHBOURS: std::ops::RangeInclusive<u8> = 133..=136;

/// What a restricted Guest may send.
pub(super) struct Guard {
    /// Ports of the Guest that take datagrams.
    ports: Vec<u16>,
    /// The senders of datagrams to these ports, the latest at the end.
    senders: VecDeque<Sender>,
}

/// The two ends of a datagram to the Guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sender {
    address: [u8; 16],
    port: u16,
    /// The port of the Guest.
    to: u16,
}

/// A packet without options that could hide anything.
pub(super) struct Packet<'f> {
    version: Version,
    pub(super) protocol: u8,
    /// From, to: IPv4 addresses with twelve zeroes in front.
    pub(super) addresses: [[u8; 16]; 2],
    pub(super) payload: &'f [u8],
}

impl Guard {
    /// Admits answers to datagrams that come by the `published` ports.
    pub(super) fn new(published: &[Published]) -> Self {
        let datagrams = published.iter().filter(|published| published.udp);
        Self {
            ports: datagrams.map(|published| published.guest).collect(),
            senders: VecDeque::new(),
        }
    }

    /// passt has sent `frame` to the Guest.
    pub(super) fn saw(&mut self, frame: &[u8]) {
        let Some(packet) = packet(frame) else { return };
        let Some((port, to)) =
            packet.ports().filter(|_| packet.protocol == UDP)
        else {
            return;
        };
        if !self.ports.contains(&to) {
            return;
        }
        let [address, _] = packet.addresses;
        let sender = Sender { address, port, to };
        if self.senders.back() == Some(&sender) {
            return;
        }
        self.senders.retain(|known| *known != sender);
        if self.senders.len() == REMEMBERED {
            self.senders.pop_front();
        }
        self.senders.push_back(sender);
    }

    /// Whether the Guest may send `frame`.
    pub(super) fn admits(&self, frame: &[u8]) -> bool {
        const ARP: [u8; 2] = [8, 6];
        if frame.get(12..14) == Some(&ARP[..]) {
            return true;
        }
        let Some(packet) = packet(frame) else {
            return false;
        };
        match (packet.version, packet.protocol, packet.ports()) {
            (_, TCP, Some(_)) => packet
                .payload
                .get(13)
                .is_some_and(|flags| flags & (SYN | ACK) != SYN),
            (Version::V4, UDP, Some((_, DHCP)))
            | (Version::V6, UDP, Some((_, DHCP_V6))) => true,
            (_, UDP, Some((to, port))) => {
                let [_, address] = packet.addresses;
                self.senders.contains(&Sender { address, port, to })
            }
            (Version::V6, ICMP_V6, _) => packet
                .payload
                .first()
                .is_some_and(|kind| NEIGHBOURS.contains(kind)),
            _ => false,
        }
    }
}

impl Packet<'_> {
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
        Version::V4 => packet_of_ipv4(&frame[at..]),
        Version::V6 => packet_of_ipv6(&frame[at..]),
    }
}

fn packet_of_ipv4(ip: &[u8]) -> Option<Packet<'_>> {
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
    })
}

fn packet_of_ipv6(ip: &[u8]) -> Option<Packet<'_>> {
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::net::ethernet::tagged;

    const GUEST: [u8; 4] = [10, 0, 2, 15];
    const OTHER: [u8; 4] = [192, 0, 2, 7];

    /// A frame of IPv4, from `from` to `to`.
    fn frame(
        protocol: u8,
        (from, source): ([u8; 4], u16),
        (to, port): ([u8; 4], u16),
        rest: &[u8],
    ) -> Vec<u8> {
        let total = u16::try_from(24 + rest.len()).unwrap();
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(from);
        frame.extend(to);
        frame.extend(source.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame.extend(rest);
        frame
    }

    fn segment(flags: u8) -> Vec<u8> {
        let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0];
        frame(TCP, (GUEST, 80), (OTHER, 5000), &rest)
    }

    fn datagram(source: u16, to: [u8; 4], port: u16) -> Vec<u8> {
        frame(UDP, (GUEST, source), (to, port), &[0, 8, 0, 0])
    }

    /// A frame of IPv6.
    fn frame_v6(next: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap();
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([next, 255]);
        frame.extend([0xFE; 32]);
        frame.extend(payload);
        frame
    }

    fn datagram_v6(source: u16, port: u16) -> Vec<u8> {
        let ports = [source.to_be_bytes(), port.to_be_bytes()].concat();
        frame_v6(UDP, &[&ports[..], &[0, 8, 0, 0]].concat())
    }

    /// A Guest whose port 53 for datagrams is published.
    fn guard() -> Guard {
        Guard::new(&[
            Published {
                address: [127, 0, 0, 1].into(),
                host: 5353,
                guest: 53,
                udp: true,
            },
            Published {
                address: [127, 0, 0, 1].into(),
                host: 8080,
                guest: 80,
                udp: false,
            },
        ])
    }

    #[test]
    fn segments_are_admitted_but_for_the_first_one_of_a_connection() {
        let guard = guard();
        for flags in 0..=u8::MAX {
            let first = flags & (SYN | ACK) == SYN;
            assert_eq!(guard.admits(&segment(flags)), !first, "{flags:#x}");
        }
        let answer = segment(SYN | ACK);
        for cut in 0..answer.len() {
            assert!(!guard.admits(&answer[..cut]), "{cut} bytes of one");
        }
    }

    #[test]
    fn only_answers_to_datagrams_are_admitted() {
        let mut guard = guard();
        let answer = datagram(53, OTHER, 4000);
        assert!(!guard.admits(&answer));
        // One to a port that is not published opens nothing.
        guard.saw(&frame(UDP, (OTHER, 4000), (GUEST, 54), &[0, 8, 0, 0]));
        assert!(!guard.admits(&datagram(54, OTHER, 4000)));
        guard.saw(&frame(UDP, (OTHER, 4000), (GUEST, 53), &[0, 8, 0, 0]));
        assert!(guard.admits(&answer));
        assert!(!guard.admits(&datagram(53, OTHER, 4001)));
        assert!(!guard.admits(&datagram(54, OTHER, 4000)));
        assert!(!guard.admits(&datagram(53, [192, 0, 2, 8], 4000)));
        // Many senders push the first one out.
        for port in 0..u16::try_from(REMEMBERED).unwrap() {
            let to = (GUEST, 53);
            guard.saw(&frame(UDP, ([1; 4], port), to, &[0, 8, 0, 0]));
        }
        assert!(!guard.admits(&answer));
        assert_eq!(guard.senders.len(), REMEMBERED);
    }

    #[test]
    fn a_port_of_dhcp_is_open_by_its_own_version_of_ip_only() {
        let guard = guard();
        assert!(guard.admits(&datagram(68, [255; 4], DHCP)));
        assert!(guard.admits(&datagram_v6(546, DHCP_V6)));
        assert!(!guard.admits(&datagram(5000, OTHER, DHCP_V6)));
        assert!(!guard.admits(&datagram(546, [10, 0, 2, 2], DHCP_V6)));
        assert!(!guard.admits(&datagram_v6(68, DHCP)));
        // Messages of ICMPv6 in IPv4.
        for kind in NEIGHBOURS {
            let port = (GUEST, u16::from_be_bytes([kind, 0]));
            assert!(!guard.admits(&frame(ICMP_V6, port, (OTHER, 0), &[0; 8])));
        }
    }

    #[test]
    fn nothing_else_is_admitted_but_the_search_for_neighbours() {
        let guard = guard();
        let arp = [&[2; 12][..], &[8, 6], &[0; 46]].concat();
        assert!(guard.admits(&arp));
        let mut fragment = segment(ACK);
        fragment[20] |= 0x20;
        let mut later = segment(ACK);
        later[21] = 1;
        let mut short = segment(ACK);
        short[14] = 0x44;
        let mut long = segment(ACK);
        long[17] += 1;
        let ping = frame(1, (GUEST, 0x800), (OTHER, 0), &[0; 8]);
        let tunnel = frame(4, (GUEST, 0), (OTHER, 0), &[0; 40]);
        let tagged = tagged(&segment(ACK), 1);
        for frame in [fragment, later, short, long, ping, tunnel, tagged] {
            assert!(!guard.admits(&frame), "{frame:?}");
        }
        for kind in 0..=u8::MAX {
            let neighbour = NEIGHBOURS.contains(&kind);
            let frame = frame_v6(ICMP_V6, &[kind, 0, 0, 0]);
            assert_eq!(guard.admits(&frame), neighbour, "{kind}");
        }
        let mut first = [0; 20];
        first[13] = SYN;
        assert!(!guard.admits(&frame_v6(TCP, &first)));
        first[13] = ACK;
        assert!(guard.admits(&frame_v6(TCP, &first)));
        assert!(
            !guard.admits(&frame_v6(0, &first)),
            "a header before the segment"
        );
    }
}
