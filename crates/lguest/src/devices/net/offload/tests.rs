//! Headers of hostile Guests, and segments against a simple oracle.

use super::super::ethernet::tagged;
use super::*;
use proptest::prelude::*;

const ALL: [Takes; 5] = [
    Takes {
        checksum: false,
        tcp4: false,
        tcp6: false,
        whole: false,
    },
    Takes {
        checksum: true,
        tcp4: false,
        tcp6: false,
        whole: false,
    },
    Takes {
        checksum: true,
        tcp4: true,
        tcp6: false,
        whole: false,
    },
    Takes::HEADERS,
    Takes {
        checksum: false,
        tcp4: false,
        tcp6: false,
        whole: true,
    },
];

/// The sum by its definition, byte by byte.
fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// The sum of addresses, protocol and length of the TCP segment in `frame`.
fn pseudo(frame: &[u8], v6: bool) -> u16 {
    let (addresses, tcp) = if v6 { (22..54, 54) } else { (26..34, 34) };
    let mut bytes = frame[addresses].to_vec();
    let length = u32::try_from(frame.len() - tcp).unwrap();
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, TCP]);
    slow_sum(&bytes)
}

/// Whether the TCP segment in `frame` has the right checksum.
fn is_right(frame: &[u8], v6: bool) -> bool {
    let tcp = if v6 { 54 } else { 34 };
    let sum = slow_sum(&frame[tcp..]);
    (u32::from(pseudo(frame, v6)) + u32::from(sum)).is_multiple_of(0xFFFF)
}

/// A long frame of TCP as a Guest hands it over, and its header.
fn long_frame(
    v6: bool,
    data: &[u8],
    size: u16,
    flags: u8,
) -> (Vec<u8>, [u8; HEADER]) {
    let mut frame = vec![2; 12];
    let tcp = 32 + data.len();
    if v6 {
        frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(tcp).unwrap().to_be_bytes());
        frame.extend([TCP, 64]);
        frame.extend([0xFD; 16]);
        frame.extend([0xFE; 16]);
    } else {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(u16::try_from(20 + tcp).unwrap().to_be_bytes());
        frame.extend([0xFF, 0xFE, 0x40, 0, 64, TCP, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    }
    let start = frame.len();
    // Ports, a sequence number that wraps around, an answer, 32 bytes.
    frame.extend([1, 2, 3, 4, 0xFF, 0xFF, 0xFF, 0x00, 5, 6, 7, 8]);
    frame.extend([0x80, flags, 0x10, 0, 0, 0, 0, 0]);
    frame.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    frame.extend(data);
    let sum = pseudo(&frame, v6);
    frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
    let mut header = [0; HEADER];
    header[0] = NEEDS_CHECKSUM;
    header[1] = if v6 { TCP6 } else { TCP4 };
    header[4..6].copy_from_slice(&size.to_le_bytes());
    let start = u16::try_from(start).unwrap();
    header[6..8].copy_from_slice(&start.to_le_bytes());
    header[8] = 16;
    (frame, header)
}

/// The same frame and header, with so many tags.
fn with_tags(
    frame: &[u8],
    mut header: [u8; HEADER],
    tags: usize,
) -> (Vec<u8>, [u8; HEADER]) {
    header[6] += u8::try_from(4 * tags).unwrap();
    (tagged(frame, tags), header)
}

/// What a receiver of `takes` gets.
fn given(
    frame: &[u8],
    offload: Offload,
    takes: Takes,
) -> Vec<(Vec<u8>, Offload)> {
    let mut all = Vec::new();
    let mut frame = frame.to_vec();
    offload.fit(&mut frame, takes, &mut |frame, offload| {
        all.push((frame.to_vec(), offload));
    });
    all
}

/// The segments by their definition, each field by hand.
fn oracle(frame: &[u8], v6: bool, size: usize) -> Vec<Vec<u8>> {
    let (ip, tcp) = (14, if v6 { 54 } else { 34 });
    let (headers, data) = frame.split_at(tcp + 32);
    let count = data.len().div_ceil(size);
    let segment = |n: usize| {
        let part = &data[n * size..data.len().min((n + 1) * size)];
        let mut s = [headers, part].concat();
        let long = u16::try_from(s.len() - ip).unwrap();
        if v6 {
            s[18..20].copy_from_slice(&(long - 40).to_be_bytes());
        } else {
            s[16..18].copy_from_slice(&long.to_be_bytes());
            let id = 0xFFFE_u16.wrapping_add(u16::try_from(n).unwrap());
            s[18..20].copy_from_slice(&id.to_be_bytes());
            s[24..26].fill(0);
            let sum = !slow_sum(&s[14..34]);
            s[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let first = 0xFFFF_FF00_u32;
        let number = first.wrapping_add(u32::try_from(n * size).unwrap());
        s[tcp + 4..tcp + 8].copy_from_slice(&number.to_be_bytes());
        if n + 1 < count {
            s[tcp + 13] &= !0x09;
        }
        if n > 0 {
            s[tcp + 13] &= !0x80;
        }
        let sum = pseudo(&s, v6);
        s[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
        let sum = !slow_sum(&s[tcp..]);
        s[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
        s
    };
    (0..count).map(segment).collect()
}

#[test]
fn a_header_is_what_it_was() {
    let data = [7; 5000];
    for (v6, takes) in [(false, Takes::HEADERS), (true, Takes::HEADERS)] {
        let (frame, mut header) = long_frame(v6, &data, 1448, 0x10);
        let offload = Offload::read(header, &frame).unwrap();
        let given = given(&frame, offload, takes);
        assert_eq!(given, [(frame.clone(), offload)]);
        // The hint is the true length of the headers now.
        header[2] = if v6 { 86 } else { 66 };
        assert_eq!(offload.header(), header);
        assert_eq!(Offload::read(header, &frame), Ok(offload));
    }
    assert_eq!(Offload::default().header(), [0; HEADER]);
    assert_eq!(Offload::read([0; HEADER], &[]), Ok(Offload::default()));
}

#[test]
fn only_the_kernel_of_this_machine_vouches_for_checksums() {
    let mut header = [0; HEADER];
    header[0] = VALID;
    let frame = [7; 60];
    let by_guest = Offload::read(header, &frame).unwrap();
    assert_eq!(by_guest.header(), [0; HEADER]);
    let by_kernel = Offload::read_of_kernel(header, &frame).unwrap();
    assert_eq!(by_kernel, Offload::VALID);
    assert_eq!(by_kernel.header(), header);
}

#[test]
fn a_receiver_of_whole_segments_gets_one_with_its_checksum() {
    let (frame, header) = long_frame(false, &[7; 60_000], 1448, 0x18);
    let offload = Offload::read(header, &frame).unwrap();
    let given = given(&frame, offload, ALL[4]);
    assert_eq!(given.len(), 1);
    let (whole, left) = &given[0];
    assert_eq!(*left, Offload::default());
    assert_eq!(whole[66..], frame[66..]);
    assert!(is_right(whole, false));
}

#[test]
fn headers_that_do_not_fit_are_refused() {
    let (frame, good) = long_frame(false, &[7; 5000], 1448, 0x10);
    assert!(Offload::read(good, &frame).is_ok());
    for (at, bytes) in [
        (0, &[0][..]),    // segments without a checksum
        (1, &[2]),        // an unknown kind
        (1, &[3]),        // UDP, which is not offered
        (1, &[TCP6]),     // another version
        (2, &[0, 0x80]),  // headers longer than the frame
        (4, &[47, 0]),    // segments that are too small
        (6, &[35]),       // a checksum of something else
        (6, &[34, 0x80]), // beyond the frame
        (8, &[6]),        // the field of UDP
        (8, &[16, 0x80]), // beyond the frame
    ] {
        let mut header = good;
        header[at..at + bytes.len()].copy_from_slice(bytes);
        let found = Offload::read(header, &frame);
        assert_eq!(found, Err(BadHeader), "byte {at}");
    }
    // A TCP header that is longer than the frame, or shorter than one.
    for length in [0x40, 0xF0] {
        let mut frame = frame[..80].to_vec();
        frame[46] = length;
        assert_eq!(Offload::read(good, &frame), Err(BadHeader));
    }
    // More tags than there may be, and a packet that begins behind its header.
    let (three, header) = with_tags(&frame, good, 3);
    assert_eq!(Offload::read(header, &three), Err(BadHeader));
    let (two, _) = with_tags(&frame, good, 2);
    assert_eq!(Offload::read(good, &two), Err(BadHeader));
    // A frame of a single segment is not cut.
    let single = Offload::read(good, &frame[..1000]).unwrap();
    assert_eq!(given(&frame[..1000], single, ALL[0]).len(), 1);
}

proptest! {
    #[test]
    fn segments_are_those_of_the_oracle(
        v6: bool,
        data in proptest::collection::vec(any::<u8>(), 1..20_000),
        size in SMALLEST..3000,
        flags: u8,
        nothing in 0..2_usize,
        tags in 0..=2_usize,
    ) {
        let (frame, header) = long_frame(v6, &data, size, flags);
        let takes = ALL[nothing];
        let expected = oracle(&frame, v6, size.into());
        let expected: Vec<_> =
            expected.iter().map(|frame| tagged(frame, tags)).collect();
        let (frame, header) = with_tags(&frame, header, tags);
        let offload = Offload::read(header, &frame).unwrap();
        let given = given(&frame, offload, takes);
        let frames: Vec<_> = given.iter().map(|(f, _)| f.clone()).collect();
        if expected.len() > 1 {
            prop_assert_eq!(&frames, &expected);
            for (_, left) in given {
                prop_assert_eq!(left.valid, takes.checksum);
                prop_assert!(left.checksum.is_none());
            }
        } else if !takes.checksum {
            let mut untagged = frames[0].clone();
            untagged.drain(12..12 + 4 * tags);
            prop_assert!(is_right(&untagged, v6));
        }
    }

    #[test]
    fn no_header_and_no_frame_are_too_strange(
        mut header: [u8; HEADER],
        mut frame in proptest::collection::vec(any::<u8>(), 0..3000),
        likely: bool,
        v6: bool,
        tags in 0..=3_usize,
    ) {
        if likely {
            let (long, good) = long_frame(v6, &frame, 100, 0);
            let (long, good) = with_tags(&long, good, tags);
            let (place, value) = (header[0] as usize % HEADER, header[1]);
            header = good;
            header[place] = value;
            frame = long;
        }
        if let Ok(offload) = Offload::read(header, &frame) {
            for takes in ALL {
                let all = given(&frame, offload, takes);
                let bytes: usize = all.iter().map(|(f, _)| f.len()).sum();
                prop_assert!(bytes >= frame.len());
                prop_assert!(bytes <= frame.len() * 4);
                for (frame, left) in all {
                    let header = left.header();
                    let again = Offload::read_of_kernel(header, &frame);
                    prop_assert_eq!(again, Ok(left));
                    prop_assert!(takes.checksum || header[0] == 0);
                    prop_assert!(takes.tcp4 || header[1] & 0x7F != TCP4);
                    prop_assert!(takes.tcp6 || header[1] & 0x7F != TCP6);
                }
            }
        }
    }
}

proptest! {
    /// A longer beginning says the same, and a shorter one says no more than
    /// that it is too short.
    #[test]
    fn a_header_is_read_with_the_beginning_of_its_frame(
        v6: bool,
        length in 0..2000_usize,
        size in 1..1500_u16,
        tags in 0..=2_usize,
        known in 0..2100_usize,
        lie in proptest::option::of((0..HEADER, any::<u8>())),
    ) {
        let (frame, header) = long_frame(v6, &vec![7; length], size, PUSH);
        let (frame, mut header) = with_tags(&frame, header, tags);
        if let Some((at, byte)) = lie {
            header[at] = byte;
        }
        let all = Offload::read(header, &frame);
        let beginning = &frame[..known.min(frame.len())];
        let read = Offload::read_beginning(header, beginning, frame.len());
        let headers = frame.len() - length;
        if lie.is_none() && known >= headers {
            prop_assert_eq!(read, all);
        }
        prop_assert!(read == all || read == Err(BadHeader));
    }
}
