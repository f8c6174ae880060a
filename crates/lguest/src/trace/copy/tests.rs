//! Rings that were written well, and files full of anything.

use super::*;
use crate::memory::sealed_file;
use lg_wire::trace::{DURATION_SHIFT, Record, Ring, RingHead, ring_size};
use proptest::prelude::*;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

/// A ring in this test's own memory.
struct Ours {
    head: RingHead,
    records: Vec<Record>,
}

impl Ours {
    fn new() -> Self {
        Self {
            head: RingHead::default(),
            records: (0..FEWEST).map(|_| Record::default()).collect(),
        }
    }

    fn write(&self, time: u64, event: &Event) -> u64 {
        Ring::new(&self.head, &self.records).write(time, event)
    }

    /// The file as a Launcher has it.
    fn file(&self) -> OwnedFd {
        let mut bytes = vec![0; HEAD_SIZE];
        let next = self.head.next.load(Ordering::Relaxed);
        bytes[..8].copy_from_slice(&next.to_le_bytes());
        let start = self.head.start.load(Ordering::Relaxed);
        bytes[8..16].copy_from_slice(&start.to_le_bytes());
        let khz = self.head.khz.load(Ordering::Relaxed);
        bytes[16..20].copy_from_slice(&khz.to_le_bytes());
        for record in &self.records {
            let words = record.words();
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        file(&bytes)
    }
}

/// A file with these bytes in the place of a ring of the fewest records.
fn file(ring: &[u8]) -> OwnedFd {
    let size = STATE_SIZE + ring_size(FEWEST);
    let file = sealed_file("ring", size as u64).unwrap();
    let ring = &ring[..ring.len().min(ring_size(FEWEST))];
    let written = rustix::io::pwrite(&file, ring, RING).unwrap();
    assert_eq!(written, ring.len());
    file
}

fn event(n: u32) -> Event {
    Event {
        kind: Kind::Hypercall,
        user: false,
        detail: 0,
        eip: n,
        words: [0; 3],
    }
}

#[test]
fn the_last_records_are_there_and_the_rest_is_counted() {
    let ours = Ours::new();
    ours.head.start.store(1000, Ordering::Relaxed);
    ours.head.khz.store(2_000_000, Ordering::Relaxed);
    for n in 0..FEWEST + 10 {
        ours.write(1000 + u64::from(n) * 2, &event(n));
    }
    let copied = copy(ours.file(), 0).unwrap();
    assert_eq!((copied.lost, copied.unreadable), (10, 0));
    assert_eq!(copied.next, u64::from(FEWEST + 10));
    assert_eq!(copied.events.len(), FEWEST as usize);
    for (n, happened) in (10..).zip(&copied.events) {
        assert_eq!(happened.event.eip, n);
        assert_eq!(happened.at, Duration::from_nanos(n.into()));
    }
    // Later, from where the last copy ended.
    for n in 0..5 {
        ours.write(9000, &event(n));
    }
    let more = copy(ours.file(), copied.next).unwrap();
    assert_eq!((more.lost, more.events.len()), (0, 5));
    // A reader that was away for too long.
    let late = copy(ours.file(), 3).unwrap();
    assert_eq!((late.lost, late.events.len()), (12, FEWEST as usize));
}

#[test]
fn times_rise_whoever_wrote_first() {
    let ours = Ours::new();
    for (n, time) in [(0, 30), (1, 10), (2, 20)] {
        ours.write(time, &event(n));
    }
    let copied = copy(ours.file(), 0).unwrap();
    let order: Vec<_> = copied.events.iter().map(|h| h.event.eip).collect();
    assert_eq!(order, [1, 2, 0]);
}

#[test]
fn what_takes_time_says_how_long() {
    let ours = Ours::new();
    ours.head.khz.store(1_000_000, Ordering::Relaxed);
    let exit = Event {
        kind: Kind::Exit,
        ..event(1)
    };
    let number = ours.write(500, &exit);
    let ring = Ring::new(&ours.head, &ours.records);
    ring.end(number, 500 + (7 << DURATION_SHIFT));
    let copied = copy(ours.file(), 0).unwrap();
    let took = Duration::from_nanos(7 << DURATION_SHIFT);
    assert_eq!(copied.events[0].took, took);
}

#[test]
fn a_file_without_a_ring_is_refused() {
    for size in [0, STATE_SIZE, STATE_SIZE + HEAD_SIZE, STATE_SIZE + 9000] {
        let file = sealed_file("ring", size as u64).unwrap();
        let error = copy(&file, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{size}");
    }
}

/// A head with this number of the next record, and records of these bytes.
fn full_of(next: u64, bytes: &[u8]) -> OwnedFd {
    let mut ring = next.to_le_bytes().to_vec();
    ring.resize(HEAD_SIZE, 0xA5);
    ring.extend_from_slice(bytes);
    file(&ring)
}

proptest! {
    /// A Guest that has taken over its Host writes what it likes. The copy
    /// ends, and has no more events than the ring has room for.
    #[test]
    fn any_bytes_are_read_in_bounded_work(
        next in prop_oneof![any::<u64>(), 0..2000_u64],
        from in prop_oneof![any::<u64>(), 0..2000_u64],
        bytes in proptest::collection::vec(any::<u8>(), 0..9000),
    ) {
        let copied = copy(full_of(next, &bytes), from).unwrap();
        prop_assert!(copied.events.len() <= FEWEST as usize);
        prop_assert!(copied.unreadable <= u64::from(FEWEST));
        let mut out = Vec::new();
        super::super::events::write(&mut out, &copied, &[]).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        prop_assert!(json["traceEvents"].is_array());
        let mut profile = super::super::profile::Profile::default();
        profile.add(&copied);
        let _ = profile.folded(&[]);
    }
}
