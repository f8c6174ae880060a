//! `,restrict`: the Guest reaches what `,allow` names, and nothing else.
//!
//! Published ports reach the Guest.
//! passt makes a connection for the Guest when the Guest sends the first
//! segment of one, and a socket for each datagram that is not for its own DHCP
//! server. So a frame of the Guest gets to passt only if it belongs to one of
//! these: an allowed end, a published port whose connection or datagram came
//! from outside, DHCP, the search for neighbours. Frames that passt could
//! understand in another way than this file are lost ([`super::packet`]). What
//! is checked is the copy that is sent.
//!
//! passt of 2023 takes the latest sender of a packet for the Guest's address,
//! unless it is link-local, and sends some datagrams for the gateway to that
//! address. So packets come from the Guest's own addresses, and these lead to
//! no machine. Those of IPv6 have a prefix that passt tells the Guest.
//!
//! The socket that passt has for a datagram takes datagrams of everybody. So
//! frames to the Guest are checked, too: they are for a published port, from an
//! allowed end, or of passt itself. Such a socket may have the number of a
//! published port: that passt opens one by IPv6 for the Guest's datagram from
//! there does not publish the port by IPv6.

use super::packet::{ICMP_V6, Packet, TCP, UDP, packet};
use crate::devices::net::ethernet::Version;
use crate::machine::config::Published;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Senders of datagrams that are remembered, for answers.
const REMEMBERED: usize = 4096;

/// Ports of DHCP servers, of IPv4 and of IPv6. passt answers what is sent to
/// them, by its own version of IP only: with the other one these ports are like
/// any others.
const DHCP: u16 = 67;
const DHCP_V6: u16 = 547;

/// Ports of DHCP clients, to which passt answers.
const DHCP_CLIENT: u16 = 68;
const DHCP_V6_CLIENT: u16 = 546;

/// The Guest's address of IPv4.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// How the Guest's addresses of IPv6 begin: it gets one from passt, and makes
/// others itself. This is a prefix of private networks (RFC 4193), which passt
/// is told by the Launcher.
const PREFIX: [u16; 4] = [0xFD6C, 0x6775, 0x6573, 0x0074];

/// The gateways, as passt is told: this machine's loopback interface.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 2);

/// Messages by which neighbours and routers are found.
const NEIGHBOURS: std::ops::RangeInclusive<u8> = 133..=136;

/// What a restricted Guest may send and receive.
pub(super) struct Guard {
    /// What is published: versions of IP, protocols and ports of the Guest, and
    /// whether only this machine may send there.
    published: BTreeMap<(Version, u8, u16), bool>,
    /// What the Guest may reach.
    allowed: BTreeSet<End>,
    /// The senders of datagrams to published ports, the latest at the end.
    senders: VecDeque<Sender>,
}

/// A port of another machine, or of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct End {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Whether it takes UDP instead of TCP.
    pub(super) udp: bool,
}

/// The two ends of a datagram to the Guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sender {
    address: IpAddr,
    port: u16,
    /// The port of the Guest.
    to: u16,
}

impl Guard {
    /// Admits what belongs to `published` ports and to `allowed` ends.
    pub(super) fn new(published: &[Published], allowed: &[End]) -> Self {
        let mut ports = BTreeMap::new();
        for Published {
            address,
            guest,
            udp,
            ..
        } in published
        {
            let version = match address {
                IpAddr::V4(_) => Version::V4,
                IpAddr::V6(_) => Version::V6,
            };
            let protocol = if *udp { UDP } else { TCP };
            let port = (version, protocol, *guest);
            // It may be published at several addresses.
            *ports.entry(port).or_insert(true) &= address.is_loopback();
        }
        Self {
            published: ports,
            allowed: allowed.iter().copied().collect(),
            senders: VecDeque::new(),
        }
    }

    /// Whether the Guest may send `frame`.
    pub(super) fn admits(&self, frame: &[u8]) -> bool {
        if is_arp(frame) {
            return true;
        }
        let Some(packet) = packet(frame) else {
            return false;
        };
        if !is_from_guest(&packet) {
            return false;
        }
        match (packet.version, packet.protocol, packet.ports()) {
            (version, TCP, Some((from, to))) => {
                self.allows(TCP, packet.to(), to)
                    || !packet.begins() && self.publishes(version, TCP, from)
            }
            (Version::V4, UDP, Some((_, DHCP)))
            | (Version::V6, UDP, Some((_, DHCP_V6))) => true,
            (_, UDP, Some((from, to))) => {
                let address = packet.to();
                let (port, to) = (to, from);
                self.allows(UDP, address, port)
                    || self.senders.contains(&Sender { address, port, to })
            }
            (Version::V6, ICMP_V6, _) => is_of_neighbours(&packet),
            _ => false,
        }
    }

    /// Whether the Guest gets `frame`, which passt has sent.
    pub(super) fn passes(&mut self, frame: &[u8]) -> bool {
        if is_arp(frame) {
            return true;
        }
        let Some(packet) = packet(frame) else {
            return false;
        };
        let address = packet.from();
        match (packet.version, packet.protocol, packet.ports()) {
            (version, TCP, Some((from, to))) => {
                self.publishes(version, TCP, to)
                    || !packet.begins() && self.allows(TCP, address, from)
            }
            (version, UDP, Some((port, to)))
                if self.takes_datagrams(version, to, address) =>
            {
                self.remember(Sender { address, port, to });
                true
            }
            (Version::V4, UDP, Some((DHCP, DHCP_CLIENT)))
            | (Version::V6, UDP, Some((DHCP_V6, DHCP_V6_CLIENT))) => true,
            (_, UDP, Some((port, _))) => self.allows(UDP, address, port),
            (Version::V6, ICMP_V6, _) => is_of_neighbours(&packet),
            _ => false,
        }
    }

    fn publishes(&self, version: Version, protocol: u8, port: u16) -> bool {
        self.published.contains_key(&(version, protocol, port))
    }

    /// Whether a published port takes datagrams of this sender. If it is
    /// published at a loopback address, only this machine can send there. Some
    /// versions of passt close such a socket, and then open one for everybody.
    fn takes_datagrams(
        &self,
        version: Version,
        port: u16,
        sender: IpAddr,
    ) -> bool {
        let only_ours = self.published.get(&(version, UDP, port));
        let is_ours = sender == GATEWAY || sender == GATEWAY_V6;
        only_ours.is_some_and(|&only_ours| is_ours || !only_ours)
    }

    fn allows(&self, protocol: u8, address: IpAddr, port: u16) -> bool {
        let udp = protocol == UDP;
        self.allowed.contains(&End { address, port, udp })
    }

    fn remember(&mut self, sender: Sender) {
        if self.senders.back() == Some(&sender) {
            return;
        }
        self.senders.retain(|known| *known != sender);
        if self.senders.len() == REMEMBERED {
            self.senders.pop_front();
        }
        self.senders.push_back(sender);
    }
}

fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 6])
}

/// Whether the sender is the Guest. One without an address asks for one.
fn is_from_guest(packet: &Packet<'_>) -> bool {
    let from = packet.from();
    let is_its_own = match from {
        IpAddr::V4(from) => from == GUEST,
        IpAddr::V6(from) => {
            from.is_unicast_link_local() || from.segments()[..4] == PREFIX
        }
    };
    is_its_own || from.is_unspecified()
}

fn is_of_neighbours(packet: &Packet<'_>) -> bool {
    let kind = packet.payload.first();
    kind.is_some_and(|kind| NEIGHBOURS.contains(kind))
}

#[cfg(test)]
mod tests;
