//! Checksums of TCP and UDP, where a sender has left them out.
//!
//! On a network between Guests of 2007 no frame is damaged on its way, and
//! their kernels leave the checksums out. A receiver that expects checksums
//! drops such a frame. So the checksum is computed anew; a checksum that was
//! right stays the same.

use super::ethernet::{self, Version};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Puts the right checksum into a frame of TCP or UDP over IPv4 or IPv6. Any
/// other frame, and any fragment, stays as it is.
pub fn complete(frame: &mut [u8]) {
    let Some((version, at)) = ethernet::packet(frame) else {
        return;
    };
    let ip = &mut frame[at..];
    let found = match version {
        Version::V4 => segment_of_ipv4(ip),
        Version::V6 => segment_of_ipv6(ip),
    };
    let Some(Segment {
        protocol,
        addresses,
        range,
    }) = found
    else {
        return;
    };
    let field = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return,
    };
    let length = range.len() as u64;
    let segment = &mut ip[range];
    let Some(place) = segment.get_mut(field..field + 2) else {
        return;
    };
    if protocol == UDP && place == [0, 0] {
        return; // this sender uses none
    }
    place.fill(0);
    let pseudo = addresses + u64::from(protocol) + length;
    let mut sum = !folded(pseudo + sum(segment));
    if protocol == UDP && sum == 0 {
        sum = !0;
    }
    segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A segment of TCP or UDP in an IP packet.
struct Segment {
    protocol: u8,
    /// The sum of its addresses.
    addresses: u64,
    /// Where it is in the packet.
    range: std::ops::Range<usize>,
}

fn segment_of_ipv4(ip: &[u8]) -> Option<Segment> {
    let header = ip.first_chunk::<20>()?;
    let start = usize::from(header[0] & 15) * 4;
    let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF;
    let whole = header[0] >> 4 == 4 && fragment == 0;
    let fits = (20..=end).contains(&start) && end <= ip.len();
    (whole && fits).then(|| Segment {
        protocol: header[9],
        addresses: sum(&header[12..20]),
        range: start..end,
    })
}

fn segment_of_ipv6(ip: &[u8]) -> Option<Segment> {
    let header = ip.first_chunk::<40>()?;
    let end = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    (header[0] >> 4 == 6 && end <= ip.len()).then(|| Segment {
        protocol: header[6],
        addresses: sum(&header[8..40]),
        range: 40..end,
    })
}

/// The sum of big-endian halves, the last one padded with a zero.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    // 2^16 = 1 here, so words can be summed as they are.
    let words = words
        .iter()
        .map(|&word| u64::from(u32::from_be_bytes(word)));
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.sum::<u64>() + u64::from(u32::from_be_bytes(last))
}

/// `sum` in 16 bits, with the carries added again.
pub(super) fn folded(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    // The sum fits into 16 bits now.
    u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::net::ethernet::tagged;
    use proptest::prelude::*;

    /// A frame with this IPv4 protocol and payload, and checksum 0x1234.
    fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let total = u16::try_from(20 + payload.len()).unwrap();
        let mut frame = vec![1; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(payload);
        frame
    }

    /// The checksum of a segment by its definition, byte by byte.
    fn is_right(frame: &[u8], protocol: u8) -> bool {
        let segment = &frame[34..];
        let length = u16::try_from(segment.len()).unwrap();
        let mut all = frame[26..34].to_vec();
        all.extend([0, protocol]);
        all.extend(length.to_be_bytes());
        all.extend(segment);
        let mut sum = 0_u32;
        for pair in all.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum == 0xFFFF
    }

    #[test]
    fn a_known_datagram_gets_its_checksum() {
        let payload = [0, 53, 0, 54, 0, 11, 0x12, 0x34, b'a', b'b', b'c'];
        let mut frame = frame(UDP, &payload);
        complete(&mut frame);
        assert!(is_right(&frame, UDP));
        // 0x0A00 + 0x0001 + 0x0A00 + 0x0002 + 17 + 11 + 53 + 54 + 11 + "abc".
        assert_eq!(frame[40..42], [0x27, 0x08]);
    }

    #[test]
    fn what_is_neither_tcp_nor_udp_stays_as_it_is() {
        let payload = [7; 40];
        let mut fragment = frame(TCP, &payload);
        fragment[20] |= 0x20;
        let mut none = frame(UDP, &payload);
        none[40..42].fill(0);
        let cut = frame(TCP, &payload)[..50].to_vec();
        let arp = [&[1; 12][..], &[8, 6], &[0; 46]].concat();
        for frame in [frame(1, &payload), fragment, none, cut, arp] {
            let mut after = frame.clone();
            complete(&mut after);
            assert_eq!(after, frame);
        }
    }

    proptest! {
        #[test]
        fn every_segment_has_the_right_checksum_afterwards(
            tcp: bool,
            mut payload in proptest::collection::vec(any::<u8>(), 20..200),
        ) {
            payload[6] |= 1;
            let protocol = if tcp { TCP } else { UDP };
            let before = frame(protocol, &payload);
            let mut frame = before.clone();
            complete(&mut frame);
            prop_assert!(is_right(&frame, protocol));
            let once = frame.clone();
            complete(&mut frame);
            prop_assert_eq!(&frame, &once);
            // Tags change nothing.
            for tags in 1..=2 {
                let mut frame = tagged(&before, tags);
                complete(&mut frame);
                prop_assert_eq!(frame, tagged(&once, tags));
            }
        }

        #[test]
        fn no_frame_is_too_strange(
            mut frame in proptest::collection::vec(any::<u8>(), 0..100),
            kind in 0..3,
        ) {
            if let (Some(place), 1..) = (frame.get_mut(12..15), kind) {
                let six = [0x86, 0xDD, 0x60];
                place.copy_from_slice(
                    if kind == 1 { &[8, 0, 0x45] } else { &six }
                );
            }
            let length = frame.len();
            complete(&mut frame);
            prop_assert_eq!(frame.len(), length);
        }
    }
}
