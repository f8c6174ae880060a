//! Frames of both directions, and what is right by a table of rules.

use super::super::packet::{ACK, SYN};
use super::*;
use crate::devices::net::ethernet::tagged;
use proptest::prelude::*;

const GUEST: [u8; 4] = super::GUEST.octets();
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

/// A frame of IPv6, from a link-local address to another one.
fn frame_v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut frame = vec![2; 12];
    frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([next, 255]);
    for last in [1, 2] {
        frame.extend([0xFE, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    frame.extend(payload);
    frame
}

fn datagram_v6(source: u16, port: u16) -> Vec<u8> {
    let ports = [source.to_be_bytes(), port.to_be_bytes()].concat();
    frame_v6(UDP, &[&ports[..], &[0, 8, 0, 0]].concat())
}

/// A Guest whose ports 53 for datagrams and 80 for connections are published.
fn guard() -> Guard {
    Guard::new(&[published(53, true), published(80, false)], &[])
}

/// A port that is published by IPv4, at all addresses.
fn published(guest: u16, udp: bool) -> Published {
    published_at([0; 4].into(), guest, udp)
}

fn published_at(address: IpAddr, guest: u16, udp: bool) -> Published {
    Published {
        address,
        host: 8080,
        guest,
        udp,
    }
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
    let closed = frame(UDP, (OTHER, 4000), (GUEST, 54), &[0, 8, 0, 0]);
    assert!(!guard.passes(&closed));
    assert!(!guard.admits(&datagram(54, OTHER, 4000)));
    let open = frame(UDP, (OTHER, 4000), (GUEST, 53), &[0, 8, 0, 0]);
    assert!(guard.passes(&open));
    assert!(guard.admits(&answer));
    assert!(!guard.admits(&datagram(53, OTHER, 4001)));
    assert!(!guard.admits(&datagram(54, OTHER, 4000)));
    assert!(!guard.admits(&datagram(53, [192, 0, 2, 8], 4000)));
    // Many senders push the first one out.
    for port in 0..u16::try_from(REMEMBERED).unwrap() {
        let to = (GUEST, 53);
        let one = frame(UDP, ([1; 4], port), to, &[0, 8, 0, 0]);
        assert!(guard.passes(&one));
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
fn an_answer_of_dhcp_is_for_a_port_of_its_clients() {
    let mut guard = guard();
    let four = |port| frame(UDP, (OTHER, DHCP), (GUEST, port), &[0, 8, 0, 0]);
    assert!(guard.passes(&four(68)));
    assert!(!guard.passes(&four(5000)));
    assert!(!guard.passes(&four(546)));
    assert!(guard.passes(&datagram_v6(DHCP_V6, 546)));
    assert!(!guard.passes(&datagram_v6(DHCP_V6, 5000)));
    assert!(!guard.passes(&datagram_v6(DHCP_V6, 68)));
}

#[test]
fn no_other_sender_is_the_guest() {
    assert_eq!(super::super::ADDRESSES[1], super::GUEST.to_string());
    let end = |udp| End {
        address: OTHER.into(),
        port: 443,
        udp,
    };
    let guard = Guard::new(&[published(80, false)], &[end(false), end(true)]);
    let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, ACK, 0, 0, 0, 0, 0, 0];
    let froms = [
        (GUEST, true),
        ([0; 4], true),
        (OTHER, false),
        ([10, 0, 2, 2], false),
        ([10, 0, 2, 16], false),
        ([127, 0, 0, 1], false),
        ([255; 4], false),
    ];
    for (from, right) in froms {
        let sent = |protocol, to| frame(protocol, (from, 80), to, &rest);
        for frame in [
            sent(TCP, (OTHER, 443)),
            sent(TCP, ([192, 0, 2, 8], 5000)),
            sent(UDP, (OTHER, 443)),
            sent(UDP, ([255; 4], DHCP)),
        ] {
            assert_eq!(guard.admits(&frame), right, "{from:?}: {frame:?}");
        }
    }
}

#[test]
fn no_other_sender_is_the_guest_by_ipv6() {
    let [_, told, _, gateway] = super::super::ADDRESSES_V6;
    let own: Ipv6Addr = told.parse().unwrap();
    assert_eq!(gateway, GATEWAY_V6.to_string());
    let to: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let end = |udp| End {
        address: to.into(),
        port: 443,
        udp,
    };
    let any = published_at([0_u8; 16].into(), 80, false);
    let guard = Guard::new(&[any], &[end(false), end(true)]);
    let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, ACK, 0, 0, 0, 0, 0, 0];
    let search = [u16::from_be_bytes([135, 0]), 0];
    for (from, right) in [
        (told, true),
        ("fd6c:6775:6573:74:5054:ff:fe12:3456", true),
        ("fe80::1", true),
        ("febf::1", true),
        ("::", true),
        ("::1", false),
        ("::10.0.2.15", false),
        ("::ffff:10.0.2.15", false),
        ("fd6c:6775:6573:75::15", false),
        ("fd00::7", false),
        ("fec0::1", false),
        ("2001:db8::7", false),
        ("ff02::1", false),
    ] {
        let from: Ipv6Addr = from.parse().unwrap();
        let from = from.octets();
        let sent = |protocol, own, (to, port): (Ipv6Addr, _)| {
            let to = (to.octets(), port);
            frame_between(protocol, (from, own), to, &rest)
        };
        for frame in [
            sent(TCP, 5000, (to, 443)),
            sent(TCP, 80, (own, 5000)),
            sent(UDP, 5000, (to, 443)),
            sent(UDP, 546, (own, DHCP_V6)),
            sent(ICMP_V6, search[0], (own, search[1])),
        ] {
            assert_eq!(guard.admits(&frame), right, "{from:?}: {frame:?}");
        }
    }
}

#[test]
fn a_port_is_published_by_its_own_version_of_ip_only() {
    let six = |from: [u8; 16], protocol, rest: &[u8]| {
        frame_between(protocol, (from, 5000), ([7; 16], 53), rest)
    };
    let four = |protocol, rest: &[u8]| {
        frame(protocol, (OTHER, 5000), (GUEST, 53), rest)
    };
    let first = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0, 0, 0, 0, 0, 0];
    let datagram = [0, 8, 0, 0];
    for version in [Version::V4, Version::V6] {
        let address = match version {
            Version::V4 => IpAddr::from([0_u8; 4]),
            Version::V6 => IpAddr::from([0_u8; 16]),
        };
        let of = |protocol| published_at(address, 53, protocol == UDP);
        // What the Guest sends from there to an allowed end opens nothing.
        let allowed = [[9; 16].into(), [192, 0, 2, 9].into()];
        let allowed = allowed.map(|address: IpAddr| End {
            address,
            port: 443,
            udp: true,
        });
        let mut guard = Guard::new(&[TCP, UDP].map(of), &allowed);
        for (protocol, rest) in [(TCP, &first[..]), (UDP, &datagram)] {
            let by_four = version == Version::V4;
            assert_eq!(guard.passes(&four(protocol, rest)), by_four);
            let others = six([8; 16], protocol, rest);
            assert_eq!(guard.passes(&others), !by_four);
        }
        let sent = |to| frame_between(UDP, (own_v6(1), 53), to, &datagram);
        let answers = guard.admits(&sent(([8; 16], 5000)));
        assert_eq!(answers, version == Version::V6);
        assert!(guard.admits(&sent(([9; 16], 443))));
    }
}

#[test]
fn a_loopback_address_publishes_to_this_machine_only() {
    let datagram = |from: IpAddr| match from {
        IpAddr::V4(from) => {
            let from = (from.octets(), 5000);
            frame(UDP, from, (GUEST, 53), &[0, 8, 0, 0])
        }
        IpAddr::V6(from) => {
            let from = (from.octets(), 5000);
            frame_between(UDP, from, ([7; 16], 53), &[0, 8, 0, 0])
        }
    };
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    for (at, gateway, other) in [
        ("127.0.0.1", "10.0.2.2", "192.0.2.7"),
        ("::1", "fe80::2", "2001:db8::7"),
    ] {
        let [at, gateway, other] = [at, gateway, other].map(address);
        let allowed = End {
            address: other,
            port: 5000,
            udp: true,
        };
        let ours = published_at(at, 53, true);
        let mut guard = Guard::new(&[ours], &[]);
        assert!(guard.passes(&datagram(gateway)));
        assert!(!guard.passes(&datagram(other)));
        // From an allowed end it is an answer.
        let mut guard = Guard::new(&[ours], &[allowed]);
        assert!(guard.passes(&datagram(other)));
        assert!(guard.senders.is_empty());
        // It may be published at another address, too.
        let all = match at {
            IpAddr::V4(_) => "0.0.0.0",
            IpAddr::V6(_) => "::",
        };
        let all = published_at(address(all), 53, true);
        let both = [[ours, all], [all, ours]];
        for published in both {
            let mut guard = Guard::new(&published, &[]);
            assert!(guard.passes(&datagram(gateway)));
            assert!(guard.passes(&datagram(other)));
        }
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
    let six = published_at([0_u8; 16].into(), 80, false);
    let guard = Guard::new(&[six], &[]);
    let mut first = [0; 20];
    first[1] = 80;
    first[13] = SYN;
    assert!(!guard.admits(&frame_v6(TCP, &first)));
    first[13] = ACK;
    assert!(guard.admits(&frame_v6(TCP, &first)));
    assert!(
        !guard.admits(&frame_v6(0, &first)),
        "a header before the segment"
    );
}

/// An address of the Guest's, by its last byte.
fn own_v6(last: u8) -> [u8; 16] {
    let [a, b, c, d] = PREFIX;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, last.into()).octets()
}

/// A frame of IPv6 with these ends.
fn frame_between(
    protocol: u8,
    (from, source): ([u8; 16], u16),
    (to, port): ([u8; 16], u16),
    rest: &[u8],
) -> Vec<u8> {
    let ports = [source.to_be_bytes(), port.to_be_bytes()].concat();
    let mut frame = frame_v6(protocol, &[&ports[..], rest].concat());
    frame[14 + 8..14 + 24].copy_from_slice(&from);
    frame[14 + 24..14 + 40].copy_from_slice(&to);
    frame
}

#[test]
fn an_address_is_allowed_in_its_own_version_of_ip_only() {
    let end = |address: IpAddr, udp| End {
        address,
        port: 443,
        udp,
    };
    let six = [0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let own = own_v6(1);
    let allowed = [end(OTHER.into(), false), end(six.into(), true)];
    let guard = Guard::new(&[], &allowed);
    let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0, 0, 0, 0, 0, 0];
    let first = |to| frame(TCP, (GUEST, 9), to, &rest);
    assert!(guard.admits(&first((OTHER, 443))));
    assert!(!guard.admits(&first((OTHER, 444))));
    assert!(!guard.admits(&first(([192, 0, 2, 8], 443))));
    assert!(!guard.admits(&datagram(9, OTHER, 443)));
    // What a kernel would take for the same address.
    for prefix in [[0; 12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]] {
        let mut mapped = [0; 16];
        mapped[..12].copy_from_slice(&prefix);
        mapped[12..].copy_from_slice(&OTHER);
        let frame = frame_between(TCP, (own, 9), (mapped, 443), &rest);
        assert!(!guard.admits(&frame), "{mapped:?}");
    }
    let rest = [0, 8, 0, 0];
    let frame = |to| frame_between(UDP, (own, 9), (to, 443), &rest);
    assert!(guard.admits(&frame(six)));
    assert!(!guard.admits(&frame([7; 16])));
}

/// A frame, by its parts.
#[derive(Clone, Debug)]
struct Parts {
    six: bool,
    protocol: u8,
    /// Ends by number, from and to.
    hosts: [u8; 2],
    ports: [u16; 2],
    flags: u8,
    fragment: u16,
    tags: usize,
    /// Bytes that are missing at the end.
    cut: usize,
}

/// The last one begins like a search for neighbours.
const PORTS: [u16; 9] = [53, 67, 68, 80, 443, 546, 547, 5000, 0x8700];

fn parts() -> impl Strategy<Value = Parts> {
    let port = || prop::sample::select(&PORTS[..]);
    let protocol = prop::sample::select(&[1_u8, TCP, TCP, UDP, UDP, 58, 0][..]);
    let kinds = (any::<bool>(), protocol, [0..3_u8, 0..3], [port(), port()]);
    let fragment = prop_oneof![6 => Just(0_u16), 1 => any::<u16>()];
    let tags = prop_oneof![8 => Just(0_usize), 1 => 1..3_usize];
    let cut = prop_oneof![8 => Just(0_usize), 1 => 1..60_usize];
    (kinds, any::<u8>(), fragment, tags, cut).prop_map(
        |((six, protocol, hosts, ports), flags, fragment, tags, cut)| Parts {
            six,
            protocol,
            hosts,
            ports,
            flags,
            fragment,
            tags,
            cut,
        },
    )
}

/// The address of a host; the first one is the Guest. Others of IPv6 end with
/// one of IPv4.
fn host(number: u8, six: bool) -> IpAddr {
    let four = [[10, 0, 2, 15], [192, 0, 2, 7], [192, 0, 2, 8]];
    let four = four[usize::from(number)];
    if !six {
        return four.into();
    }
    let mut all = own_v6(0);
    if number > 0 {
        all[..8].fill(0);
    }
    all[12..].copy_from_slice(&four);
    all.into()
}

impl Parts {
    fn frame(&self) -> Vec<u8> {
        let rest = [0, 20, 0, 1, 0, 0, 0, 0, 0x50, self.flags, 0, 0];
        let rest = [&rest[..], &[0; 4]].concat();
        let [from, to] = self.hosts.map(|number| host(number, self.six));
        let [source, port] = self.ports;
        let mut made = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ends = ((from.octets(), source), (to.octets(), port));
                let mut made = frame(self.protocol, ends.0, ends.1, &rest);
                made[20..22].copy_from_slice(&self.fragment.to_be_bytes());
                made
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ends = ((from.octets(), source), (to.octets(), port));
                frame_between(self.protocol, ends.0, ends.1, &rest)
            }
            _ => unreachable!(),
        };
        made = tagged(&made, self.tags);
        made.truncate(made.len().saturating_sub(self.cut));
        made
    }

    /// Whether it is a whole packet that everybody understands in one way.
    fn is_plain(&self) -> bool {
        let whole = self.six || self.fragment & 0x3FFF == 0;
        whole && self.tags == 0 && self.cut == 0
    }

    fn is_first(&self) -> bool {
        self.flags & SYN != 0 && self.flags & ACK == 0
    }

    fn is_search(&self) -> bool {
        let [kind, _] = self.ports[0].to_be_bytes();
        self.six && self.protocol == 58 && (133..=136).contains(&kind)
    }
}

proptest! {
    /// Host 1 is allowed with the port 443 of both protocols, by IPv4 or by
    /// IPv6. Ports 80 of TCP and 53 of UDP are published by one of the two.
    #[test]
    fn what_passes_is_what_the_rules_say(
        by_six in any::<bool>(),
        to_six in any::<bool>(),
        frames in prop::collection::vec((any::<bool>(), parts()), 1..40),
    ) {
        let end = |udp| End { address: host(1, by_six), port: 443, udp };
        let all: IpAddr = match to_six {
            true => [0_u8; 16].into(),
            false => [0_u8; 4].into(),
        };
        let published = [(80, false), (53, true)];
        let published = published.map(|(port, udp)| {
            published_at(all, port, udp)
        });
        let mut guard = Guard::new(&published, &[end(false), end(true)]);
        let mut came: Vec<(bool, u8, u16)> = Vec::new();
        for (out, parts) in frames {
            let far = usize::from(out);
            let (host, port) = (parts.hosts[far], parts.ports[far]);
            let own = parts.ports[1 - far];
            let allowed = host == 1 && port == 443 && parts.six == by_six;
            let (server, client) = match parts.six {
                true => (547, 546),
                false => (67, 68),
            };
            let dhcp = port == server && (out || own == client);
            let own_address = !out || parts.hosts[0] == 0;
            let to = |port| own == port && parts.six == to_six;
            let right = parts.is_plain() && own_address
                && match (parts.protocol, out) {
                (TCP, true) => allowed || to(80) && !parts.is_first(),
                (TCP, false) => to(80) || allowed && !parts.is_first(),
                (UDP, true) => {
                    let answers = own == 53
                        && came.contains(&(parts.six, host, port));
                    allowed || dhcp || answers
                }
                (UDP, false) => to(53) || allowed || dhcp,
                _ => parts.is_search(),
            };
            let frame = parts.frame();
            let found = match out {
                true => guard.admits(&frame),
                false => guard.passes(&frame),
            };
            prop_assert_eq!(found, right, "{:?}", parts);
            if found && !out && parts.protocol == UDP && to(53) {
                came.push((parts.six, host, port));
            }
        }
    }
}
