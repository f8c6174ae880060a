//! The filter between a restricted Guest and passt.
//!
//! The Guest and passt send any frames, mostly such as get through. A frame
//! that gets through belongs to an allowed end or to a published port, as this
//! file reads it: byte by byte, and with nothing of the filter's.

use crate::input::Input;
use lguest::devices::net::user::fuzzing::{Filter, Sent};
use lguest::machine::config::Published;
use std::net::{IpAddr, Ipv6Addr};

/// Published ports of the Guest: to connections at all addresses, to datagrams
/// at a loopback address of IPv4.
const CONNECTIONS: u16 = 80;
const DATAGRAMS: u16 = 53;

/// The port of the allowed ends: of TCP by the first address, of UDP by the
/// second, and of both by the third.
const ALLOWED: u16 = 443;
const HOSTS: [[u8; 4]; 3] = [[192, 0, 2, 7], [192, 0, 2, 8], [10, 0, 2, 2]];
const SIX: [u8; 16] = [0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

/// The Guest's addresses.
const GUEST: [u8; 4] = [10, 0, 2, 15];
const GUEST_SIX: Ipv6Addr =
    Ipv6Addr::new(0xFD6C, 0x6775, 0x6573, 0x74, 0, 0, 0, 0x15);

/// An end: its address, its port.
type End = (IpAddr, u16);

/// The ends that are allowed, and whether they take UDP.
fn allowed() -> Vec<(IpAddr, u16, bool)> {
    let four = |host: usize, udp| (HOSTS[host].into(), ALLOWED, udp);
    let six = (SIX.into(), ALLOWED, false);
    vec![
        four(0, false),
        four(1, true),
        four(2, false),
        four(2, true),
        six,
    ]
}

/// What a frame that got through has in it.
struct Seen {
    six: bool,
    protocol: u8,
    from: End,
    to: End,
    /// It begins a connection.
    begins: bool,
}

/// Sends frames in both directions.
///
/// # Panics
///
/// If one gets through that belongs to nothing.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let published = [
        ([0; 4].into(), CONNECTIONS, false),
        ([0; 16].into(), CONNECTIONS, false),
        ([127, 0, 0, 1].into(), DATAGRAMS, true),
    ];
    let published = published.map(|(address, guest, udp)| Published {
        address,
        host: guest,
        guest,
        udp,
    });
    let names = [("known.example".to_owned(), vec![SIX.into()])].into();
    let filter = Filter::new(&published, &allowed(), names);
    let mut filter = filter.expect("a descriptor can be had");
    let mut came: Vec<End> = Vec::new();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let out = input.bit();
        let frame = frame(&mut input);
        if out {
            match filter.guest_sends(&frame) {
                Sent::ToPasst => check_out(&frame, &came),
                Sent::ToNames => {
                    let seen = read(&frame).expect("it is a packet");
                    let server = ([10, 0, 2, 3].into(), 53);
                    assert_eq!((seen.protocol, seen.to), (17, server));
                }
                Sent::Nowhere => {}
            }
        } else if filter.passt_sends(&frame) {
            came.extend(check_in(&frame));
        }
        while let Some(answer) = filter.answer() {
            assert!(answer.len() <= 42 + 512, "an answer is too long");
        }
    }
}

fn is_allowed((address, port): End, udp: bool) -> bool {
    allowed().contains(&(address, port, udp))
}

/// A frame of the Guest has got to passt.
fn check_out(frame: &[u8], came: &[End]) {
    if frame[12..14] == [8, 6] {
        return;
    }
    let seen = read(frame).expect("it is a packet");
    let own = seen.from.1;
    let dhcp = if seen.six { 547 } else { 67 };
    assert!(is_guest(seen.from.0), "of another sender: {frame:?}");
    let right = match seen.protocol {
        6 => is_allowed(seen.to, false) || own == CONNECTIONS && !seen.begins,
        17 => {
            is_allowed(seen.to, true)
                || seen.to.1 == dhcp
                || own == DATAGRAMS && came.contains(&seen.to)
        }
        _ => is_search(frame),
    };
    assert!(right, "it has got out: {frame:?}");
}

/// Whether the Guest has this address, or none yet.
fn is_guest(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => [GUEST, [0; 4]].contains(&address.octets()),
        IpAddr::V6(address) => {
            let bytes = address.octets();
            bytes == [0; 16]
                || bytes[..8] == GUEST_SIX.octets()[..8]
                || bytes[0] == 0xFE && bytes[1] & 0xC0 == 0x80
        }
    }
}

/// A frame of passt's has got to the Guest. Returns the sender of a datagram to
/// a published port.
fn check_in(frame: &[u8]) -> Option<End> {
    if frame[12..14] == [8, 6] {
        return None;
    }
    let seen = read(frame).expect("it is a packet");
    let own = seen.to.1;
    let dhcp = if seen.six { (547, 546) } else { (67, 68) };
    let is_ours = seen.from.0 == IpAddr::from(HOSTS[2]);
    let right = match seen.protocol {
        6 => own == CONNECTIONS || is_allowed(seen.from, false) && !seen.begins,
        17 => {
            is_ours && own == DATAGRAMS
                || is_allowed(seen.from, true)
                || (seen.from.1, own) == dhcp
        }
        _ => is_search(frame),
    };
    assert!(right, "it has got in: {frame:?}");
    (seen.protocol == 17 && is_ours && own == DATAGRAMS).then_some(seen.from)
}

/// Whether it searches neighbours or routers by IPv6.
fn is_search(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xDD]
        && frame[20] == 58
        && (133..=136).contains(&frame[54])
}

/// Reads a packet without fragments, tags and headers between.
fn read(frame: &[u8]) -> Option<Seen> {
    let half = |at: usize| {
        let bytes = frame.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let six = match half(12)? {
        0x0800 => false,
        0x86DD => true,
        _ => return None,
    };
    let (start, protocol, from, to): (_, _, IpAddr, IpAddr) = if six {
        let address = |at: usize| -> Option<[u8; 16]> {
            frame.get(at..at + 16)?.try_into().ok()
        };
        (
            54,
            *frame.get(20)?,
            address(22)?.into(),
            address(38)?.into(),
        )
    } else {
        if half(20)? & 0x3FFF != 0 {
            return None;
        }
        let start = 14 + 4 * usize::from(frame[14] & 15);
        let address = |at: usize| -> Option<[u8; 4]> {
            frame.get(at..at + 4)?.try_into().ok()
        };
        (
            start,
            *frame.get(23)?,
            address(26)?.into(),
            address(30)?.into(),
        )
    };
    let has_ports = protocol == 6 || protocol == 17;
    let port = |at| if has_ports { half(at) } else { Some(0) };
    let flags = frame.get(start + 13).copied().unwrap_or(0);
    Some(Seen {
        six,
        protocol,
        from: (from, port(start)?),
        to: (to, port(start + 2)?),
        begins: protocol == 6 && flags & 0x12 == 2,
    })
}

/// A frame: mostly a whole one between ends that matter.
fn frame(input: &mut Input<'_>) -> Vec<u8> {
    const PORTS: [u16; 9] = [443, 80, 53, 67, 547, 5000, 0x8700, 68, 546];
    let six = input.bit();
    let protocol = [6, 17, 6, 17, 58, 1, 0, 4][usize::from(input.byte() % 8)];
    let host = |input: &mut Input<'_>| input.below(5) as usize;
    let (from, to) = (host(input), host(input));
    let port = |input: &mut Input<'_>| PORTS[input.below(9) as usize];
    let ports = [port(input), port(input)].map(u16::to_be_bytes).concat();
    let mut payload = [&ports[..], &[0, 20, 0, 0, 0, 0, 0, 0, 0x50]].concat();
    payload.push(input.byte());
    payload.resize(20, 0);
    if protocol == 17 {
        let length = input.below(40) as usize;
        payload.extend(input.bytes(length));
    }
    let bytes = u16::try_from(payload.len()).unwrap_or(0);
    let mut frame = vec![2; 12];
    if six {
        frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
        frame.extend(bytes.to_be_bytes());
        frame.extend([protocol, 64]);
        for host in [from, to] {
            let mut address = SIX;
            if let Some(four) = HOSTS.get(host) {
                address = [0; 16];
                address[12..].copy_from_slice(four);
            } else if host == 4 {
                address = GUEST_SIX.octets();
            }
            frame.extend(address);
        }
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + bytes).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        for host in [from, to] {
            let others = [[10, 0, 2, 3], GUEST];
            let mut all = HOSTS.iter().chain(&others);
            frame.extend(all.nth(host).unwrap_or(&GUEST));
        }
    }
    frame.extend(payload);
    // Some bytes are others, and some are missing.
    for _ in 0..input.byte() % 4 {
        let at = input.below(70) as usize % frame.len();
        frame[at] = input.byte();
    }
    if input.byte() % 8 == 7 {
        frame.truncate(input.below(70) as usize);
    }
    frame
}
