//! Questions of a Guest, right ones and others.

use super::*;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const GUEST: [u8; 4] = [10, 0, 2, 15];

fn names() -> Names {
    let addresses = ["192.0.2.7", "2001:db8::7", "192.0.2.8"];
    let addresses = addresses.map(|text| text.parse().unwrap()).to_vec();
    let known = [("known.example".to_owned(), addresses)];
    Names::new(known.into()).unwrap()
}

fn question_for(name: &str, kind: u16) -> Vec<u8> {
    let mut said = vec![0x12, 0x34, RECURSION, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for part in name.split('.') {
        said.push(u8::try_from(part.len()).unwrap());
        said.extend(part.bytes());
    }
    said.push(0);
    said.extend([kind.to_be_bytes(), INTERNET.to_be_bytes()].concat());
    said
}

/// The Guest's datagram to the name server, or to another end.
fn datagram(to: [u8; 4], port: u16, said: &[u8]) -> Vec<u8> {
    let bytes = |header: usize| {
        let all = u16::try_from(header + said.len()).unwrap();
        all.to_be_bytes()
    };
    let mut frame = [[1; 6], [2; 6]].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(bytes(28));
    frame.extend([0, 1, 0x40, 0, 64, UDP, 0, 0]);
    frame.extend([GUEST, to].concat());
    frame.extend([4000_u16.to_be_bytes(), port.to_be_bytes()].concat());
    frame.extend(bytes(8));
    frame.extend([0, 0]);
    frame.extend(said);
    frame
}

/// A frame of the Guest with a question.
pub(in super::super) fn question_of_the_guest() -> Vec<u8> {
    let said = question_for("known.example", A);
    datagram(ADDRESS.octets(), PORT, &said)
}

/// The answer to `said`.
fn asked(names: &mut Names, said: &[u8]) -> Option<Vec<u8>> {
    let taken = names.takes(&datagram(ADDRESS.octets(), PORT, said));
    assert!(taken, "it is for the name server");
    let frame = names.next()?;
    let (frame, said) = frame.split_at(14 + 20 + 8);
    assert_eq!(frame[..12], [[2; 6], [1; 6]].concat());
    let packet = packet_of(frame, said);
    assert_eq!(packet, (ADDRESS.into(), GUEST.into(), (PORT, 4000)));
    Some(said.to_vec())
}

/// The ends of an answer.
fn packet_of(frame: &[u8], said: &[u8]) -> (IpAddr, IpAddr, (u16, u16)) {
    let frame = [frame, said].concat();
    assert_eq!(checksum::folded(checksum::sum(&frame[14..34])), 0xFFFF);
    let packet = packet(&frame).unwrap();
    assert_eq!(packet.protocol, UDP);
    assert_eq!(packet.payload[8..], *said);
    let length = [packet.payload[4], packet.payload[5]];
    assert_eq!(usize::from(u16::from_be_bytes(length)), 8 + said.len());
    (packet.from(), packet.to(), packet.ports().unwrap())
}

#[test]
fn a_known_name_has_its_addresses_and_no_other_name_exists() {
    let mut names = names();
    let question = question_for("Known.Example", A);
    let said = asked(&mut names, &question).unwrap();
    assert_eq!(said[..4], [0x12, 0x34, ANSWERS | RECURSION, RECURSES]);
    assert_eq!(said[4..12], [0, 1, 0, 2, 0, 0, 0, 0]);
    let (again, records) = said[12..].split_at(question.len() - 12);
    assert_eq!(again, &question[12..]);
    let record =
        |last| [0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last];
    assert_eq!(records, [record(7), record(8)].concat());
    let said = asked(&mut names, &question_for("known.example", AAAA)).unwrap();
    assert_eq!(said[3], RECURSES);
    assert_eq!(said[7], 1);
    let six: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    assert_eq!(said[said.len() - 16..], six.octets());
    // Another kind of record: the name exists, and has none.
    let said = asked(&mut names, &question_for("known.example", 15)).unwrap();
    assert_eq!((said[3], said[7]), (RECURSES, 0));
    for other in [
        "known.exampl",
        "a.known.example",
        "example",
        "secret.example",
        "é",
    ] {
        let said = asked(&mut names, &question_for(other, A)).unwrap();
        assert_eq!((said[3], said[7]), (RECURSES | NO_SUCH_NAME, 0), "{other}");
    }
}

#[test]
fn a_message_that_is_no_question_is_refused_or_dropped() {
    let mut names = names();
    let good = question_for("known.example", A);
    let changed = |at: usize, byte| {
        let mut changed = good.clone();
        changed[at] = byte;
        changed
    };
    let result = |said: &[u8]| said[3] & 15;
    // A pointer, a part that is too long, two questions, a cut name.
    for bad in [changed(12, 0xC0), changed(12, 64), changed(5, 2)] {
        let said = asked(&mut names, &bad).unwrap();
        assert_eq!((result(&said), said[5], said[7]), (MALFORMED, 0, 0));
    }
    let said = asked(&mut names, &good[..20]).unwrap();
    assert_eq!(result(&said), MALFORMED);
    let said = asked(&mut names, &changed(2, 0x28)).unwrap();
    assert_eq!(result(&said), NOT_DONE);
    assert_eq!(asked(&mut names, &changed(2, ANSWERS)), None);
    assert_eq!(asked(&mut names, &good[..11]), None);
}

#[test]
fn other_datagrams_are_not_taken() {
    let mut names = names();
    let good = question_for("known.example", A);
    assert!(!names.takes(&datagram(ADDRESS.octets(), 54, &good)));
    assert!(!names.takes(&datagram([10, 0, 2, 2], PORT, &good)));
    let mut fragment = datagram(ADDRESS.octets(), PORT, &good);
    fragment[20] |= 0x20;
    assert!(!names.takes(&fragment));
    assert!(names.next().is_none());
}

#[test]
fn a_flood_of_questions_has_a_bounded_number_of_answers() {
    let mut names = names();
    let question = datagram(ADDRESS.octets(), PORT, &question_for("a", A));
    let rings = |names: &Names| {
        let mut bell = [PollFd::new(names.bell(), PollFlags::IN)];
        poll(&mut bell, Some(&Timespec::default())).unwrap() > 0
    };
    assert!(!rings(&names));
    for _ in 0..10 * WAITING {
        assert!(names.takes(&question));
    }
    for _ in 0..WAITING {
        assert!(rings(&names));
        assert!(names.next().is_some());
    }
    assert!(names.next().is_none());
    assert!(!rings(&names));
}

proptest! {
    #[test]
    fn any_message_has_a_short_answer_or_none(
        said in prop::collection::vec(any::<u8>(), 0..600),
        start in 0..13_usize,
    ) {
        let mut said = said;
        // Mostly something that begins like a question.
        let good = question_for("known.example", ANY_KIND);
        let start = start.min(said.len());
        said[..start].copy_from_slice(&good[..start]);
        if let Some(answer) = asked(&mut names(), &said) {
            prop_assert!(answer.len() <= 512);
            prop_assert_eq!(&answer[..2], &said[..2]);
            prop_assert!(answer[2] & ANSWERS != 0);
            // Addresses are those of the one name.
            let known = answer.windows(14).any(|part| part == b"\x05known\x07example");
            prop_assert!(answer[7] == 0 || known);
        }
    }
}

#[test]
fn the_longest_name_with_the_most_addresses_fits() {
    let name = [&"a".repeat(63)[..]; 3].join(".") + "." + &"b".repeat(61);
    assert_eq!(name.len(), NAME_MOST);
    let address = |n: u8| IpAddr::from([n; 16]);
    let addresses = (0..64).map(address).collect();
    let mut names = Names::new([(name.clone(), addresses)].into()).unwrap();
    let said = asked(&mut names, &question_for(&name, AAAA)).unwrap();
    assert_eq!(usize::from(said[7]), ADDRESSES);
    assert!(said.len() <= 512, "{}", said.len());
}
