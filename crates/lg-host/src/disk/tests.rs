//! Rings of honest drivers and of hostile ones, and what is left to the
//! Launcher.

use super::*;
use crate::testing::Machine;
use lg_abi::page::PAGE_SIZE;
use lg_wire::state::page_bit;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const DESCRIPTORS: u32 = 0x10_0000;
const AVAILABLE: u32 = 0x10_1000;
const USED: u32 = 0x10_2000;
const HEADER_AT: u32 = 0x11_0000;
const DATA: u32 = 0x12_0000;
const ANSWER: u32 = 0x13_0000;
const SIZE: u16 = 8;
const SECTORS: u32 = 16;
const IRQ: u32 = 3;

/// A Guest with a disk of [`SECTORS`] sectors, each full of its number plus
/// one, whose ring was used `position` times.
struct Bench {
    m: Machine,
    offered: u16,
}

impl Bench {
    fn new() -> Self {
        Self::at(0)
    }

    fn at(position: u16) -> Self {
        let mut m = Machine::new();
        m.vm.wire.disks[2].lend(&LentRing {
            position,
            descriptors: DESCRIPTORS,
            available: AVAILABLE,
            used: USED,
            size: SIZE.into(),
            irq: IRQ,
            sectors: SECTORS,
        });
        let file = (1..=16_u8).flat_map(|sector| [sector; 512]);
        let file: Vec<u8> = file.collect();
        let disk = |bytes| (bytes, m.ram.memory());
        m.world.disks = vec![disk(vec![]), disk(vec![]), disk(file)];
        let bench = Self {
            m,
            offered: position,
        };
        bench.put(AVAILABLE + 2, &position.to_le_bytes());
        bench.put(USED + 2, &position.to_le_bytes());
        bench.header(0, [BLOCK_IN, 0, 3, 0]);
        bench
    }

    fn put(&self, at: u32, bytes: &[u8]) {
        self.m.ram.memory().write(GuestPhys(at), bytes).unwrap();
    }

    fn bytes(&self, at: u32, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.m.ram.memory().read(GuestPhys(at), &mut bytes).unwrap();
        bytes
    }

    /// Header `n`: kind, priority, and sector.
    fn header(&self, n: u32, words: [u32; 4]) {
        let at = GuestPhys(HEADER_AT + 16 * n);
        self.m.ram.memory().set_words(at, words).unwrap();
    }

    fn describe(&self, index: u16, at: u32, bytes: u32, flags: u16, next: u16) {
        let words = [at, 0, bytes, u32::from(next) << 16 | u32::from(flags)];
        let at = GuestPhys(DESCRIPTORS + 16 * u32::from(index));
        self.m.ram.memory().set_words(at, words).unwrap();
    }

    fn offer_head(&mut self, head: u16) {
        let slot = u32::from(self.offered % SIZE);
        self.put(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.put(AVAILABLE + 2, &self.offered.to_le_bytes());
    }

    /// Offers a request with header 0 for these pieces.
    fn offer(&mut self, pieces: &[(u32, u32)]) {
        self.describe(0, HEADER_AT, 16, NEXT, 1);
        let mut index = 1;
        for &(at, bytes) in pieces {
            self.describe(index, at, bytes, NEXT | WRITE, index + 1);
            index += 1;
        }
        self.describe(index, ANSWER, 1, WRITE, 0);
        self.put(ANSWER, &[0xEE]);
        self.offer_head(0);
    }

    /// The driver notifies. Returns whether nothing is left.
    fn notify(&mut self) -> bool {
        self.m.host().answer_reads(|ring| ring.irq == IRQ)
    }

    fn used(&self) -> u16 {
        let bytes = self.bytes(USED + 2, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    fn element(&self, slot: u32) -> [u32; 2] {
        let at = GuestPhys(USED + 4 + USED_ELEMENT * slot);
        self.m.ram.memory().words(at).unwrap()
    }

    fn irqs(&self) -> u32 {
        self.m.vm.wire.irqs.load(Ordering::SeqCst)
    }

    fn position(&self) -> u16 {
        self.m.vm.wire.disks[2].take_back()
    }

    /// Nothing was answered.
    fn is_untouched(&self) -> bool {
        let words = &self.m.vm.wire.disks[2];
        self.used() == 0
            && self.irqs() == 0
            && self.bytes(ANSWER, 1) == [0xEE]
            && words.take_counts() == (0, 0)
            && words.take_back() == 0
    }
}

#[test]
fn a_read_is_answered() {
    let mut b = Bench::new();
    b.offer(&[(DATA, 512), (DATA + 0x2000, 1024)]);
    assert!(b.notify());
    assert_eq!(b.bytes(DATA, 513), [&[4; 512][..], &[0]].concat());
    let rest = [[5; 512], [6; 512]].concat();
    assert_eq!(b.bytes(DATA + 0x2000, 1024), rest);
    assert_eq!(b.bytes(ANSWER, 1), [BLOCK_OK]);
    assert_eq!(b.used(), 1);
    assert_eq!(b.element(0), [0, 1537]);
    assert_eq!(b.irqs(), 1 << IRQ);
    let counts = b.m.vm.wire.disks[2].take_counts();
    assert_eq!(counts, (1, 1536));
    assert_eq!(b.m.vm.counters.disk_reads.get(), 1);
    assert_eq!(b.position(), 1);
}

#[test]
fn positions_go_round() {
    let mut b = Bench::at(0xFFFE);
    for used in [0xFFFF, 0, 1] {
        b.offer(&[(DATA, 512)]);
        assert!(b.notify());
        assert_eq!(b.used(), used);
    }
    assert_eq!(b.position(), 1);
}

#[test]
fn an_interrupt_that_is_not_wanted_is_not_raised() {
    let mut b = Bench::new();
    b.put(AVAILABLE, &NO_INTERRUPT.to_le_bytes());
    b.offer(&[(DATA, 512)]);
    assert!(b.notify());
    assert_eq!((b.used(), b.irqs()), (1, 0));
}

#[test]
fn reads_in_front_of_another_request_are_answered() {
    let mut b = Bench::new();
    b.offer(&[(DATA, 512)]);
    b.offer_head(0);
    b.header(1, [1, 0, 3, 0]);
    b.describe(4, HEADER_AT + 16, 16, NEXT, 5);
    b.describe(5, DATA, 512, NEXT, 2);
    b.offer_head(4);
    assert!(!b.notify(), "a write is left");
    assert_eq!((b.used(), b.position()), (2, 2));
}

/// The Launcher gets what is not a plain read, and finds it as it was.
#[test]
fn what_is_unusual_is_left() {
    type Unusual = fn(&mut Bench);
    let cases: [(&str, Unusual); 21] = [
        ("nothing is there", |_| {}),
        ("more chains than there is room for", |b| {
            b.offer(&[(DATA, 512)]);
            b.put(AVAILABLE + 2, &9_u16.to_le_bytes());
        }),
        ("a write", |b| {
            b.header(0, [1, 0, 3, 0]);
            b.offer(&[(DATA, 512)]);
        }),
        ("a flush", |b| {
            b.header(0, [4, 0, 0, 0]);
            b.offer(&[(DATA, 512)]);
        }),
        ("a sector behind the disk", |b| {
            b.header(0, [BLOCK_IN, 0, SECTORS, 0]);
            b.offer(&[(DATA, 512)]);
        }),
        ("a part of it behind the disk", |b| {
            b.header(0, [BLOCK_IN, 0, SECTORS - 1, 0]);
            b.offer(&[(DATA, 513)]);
        }),
        ("a sector that no offset has", |b| {
            b.header(0, [BLOCK_IN, 0, u32::MAX, u32::MAX]);
            b.offer(&[(DATA, 512)]);
        }),
        ("an offset whose end wraps", |b| {
            b.header(0, [BLOCK_IN, 0, u32::MAX, 0x7F_FFFF]);
            b.offer(&[(DATA, 512)]);
        }),
        ("no data", |b| b.offer(&[])),
        ("an empty piece", |b| b.offer(&[(DATA, 0), (DATA, 512)])),
        ("memory that is not there", |b| {
            b.offer(&[(Machine::RAM - 511, 512)]);
        }),
        ("memory whose end wraps", |b| b.offer(&[(u32::MAX, 512)])),
        ("a chain that goes on behind the ring", |b| {
            b.offer(&[(DATA, 512)]);
            b.describe(1, DATA, 512, NEXT | WRITE, SIZE);
        }),
        ("a head behind the ring", |b| {
            b.offer(&[(DATA, 512)]);
            b.put(AVAILABLE + 4, &SIZE.to_le_bytes());
        }),
        ("a loop", |b| {
            b.offer(&[(DATA, 1)]);
            b.describe(1, DATA, 1, NEXT | WRITE, 1);
        }),
        ("a header that is too short", |b| {
            b.offer(&[(DATA, 512)]);
            b.describe(0, HEADER_AT, 15, NEXT, 1);
        }),
        ("a header that the device writes", |b| {
            b.offer(&[(DATA, 512)]);
            b.describe(0, HEADER_AT, 16, NEXT | WRITE, 1);
        }),
        ("only a header", |b| {
            b.offer(&[]);
            b.describe(0, HEADER_AT, 16, 0, 0);
        }),
        ("data that the device reads", |b| {
            b.offer(&[(DATA, 512)]);
            b.describe(1, DATA, 512, NEXT, 2);
        }),
        ("an answer of two bytes", |b| {
            b.offer(&[(DATA, 512)]);
            b.describe(2, ANSWER, 2, WRITE, 0);
        }),
        ("memory above 4 GiB", |b| {
            b.offer(&[(DATA, 512)]);
            b.put(DESCRIPTORS + 16 + 4, &[1]);
        }),
    ];
    for (what, unusual) in cases {
        let mut b = Bench::new();
        b.put(ANSWER, &[0xEE]);
        unusual(&mut b);
        assert!(!b.notify(), "{what}");
        assert!(b.is_untouched(), "{what}");
    }
}

#[test]
fn bytes_that_are_not_in_memory_are_left() {
    let mut b = Bench::new();
    b.m.world.disks[2].0.truncate(4 * 512);
    b.offer(&[(DATA, 1024)]);
    assert!(!b.notify());
    assert!(b.is_untouched());
}

#[test]
fn one_notification_has_a_bound() {
    let mut b = Bench::new();
    b.m.world.disks[2].0.resize(4 << 20, 7);
    b.m.vm.wire.disks[2].lend(&LentRing {
        sectors: 8192,
        ..b.m.vm.wire.disks[2].lent().unwrap()
    });
    // Several reads of half of it each.
    b.offer(&[(DATA, MOST_BYTES / 2)]);
    b.offer_head(0);
    b.offer_head(0);
    assert!(!b.notify());
    assert_eq!(b.used(), 2);
    assert!(b.notify(), "and the next one begins anew");
    assert_eq!(b.used(), 3);
}

#[test]
fn a_disk_is_not_read_if_it_must_not_be() {
    let mut b = Bench::new();
    b.offer(&[(DATA, 512)]);
    assert!(!b.m.host().answer_reads(|ring| ring.irq == IRQ + 1));
    b.m.vm.slow_paths.set(fast_path::DISK_READS);
    assert!(!b.notify());
    b.m.vm.slow_paths.set(0);
    b.m.vm.wire.disks[2].remove();
    assert!(!b.notify());
    assert_eq!(b.used(), 0);
    let mut b = Bench::new();
    b.offer(&[(DATA, 512)]);
    let ring = b.m.vm.wire.disks[2].lent().unwrap();
    for bad in [
        LentRing { size: 0, ..ring },
        LentRing { size: 7, ..ring },
        LentRing { size: 512, ..ring },
        LentRing { irq: 32, ..ring },
    ] {
        b.m.vm.wire.disks[2].lend(&bad);
        assert!(!b.m.host().answer_reads(|_| true), "{bad:?}");
    }
    for bad in [
        LentRing {
            descriptors: u32::MAX,
            ..ring
        },
        LentRing {
            available: u32::MAX - 1,
            ..ring
        },
        LentRing {
            used: u32::MAX - 2,
            ..ring
        },
    ] {
        b.m.vm.wire.disks[2].lend(&bad);
        assert!(!b.m.host().answer_reads(|_| true), "{bad:?}");
    }
}

#[test]
fn patched_copies_of_the_pages_are_looked_at() {
    let mut b = Bench::new();
    b.m.vm.patches.copy_filter.set(page_bit(DATA + PAGE_SIZE));
    b.offer(&[(DATA + PAGE_SIZE - 1, 2)]);
    assert!(b.notify());
    let written = b.m.vm.wire.written_pages.load(Ordering::SeqCst);
    assert_ne!(written & page_bit(DATA + PAGE_SIZE), 0);
}

proptest! {
    /// The Host comes back, writes nothing outside of memory, and the used
    /// index is its position.
    #[test]
    fn no_bytes_in_a_ring_harm_the_host(
        bytes in prop::collection::vec(any::<u8>(), 16 * 8),
        available in prop::collection::vec(0..10_u8, 2 * 8),
        offered in 0..10_u16,
        flags in prop::collection::vec(0..4_u16, 8),
    ) {
        let mut b = Bench::new();
        b.put(DESCRIPTORS, &bytes);
        for (n, &flags) in (0..8_u32).zip(&flags) {
            // Most random words are no address and no flags.
            let at = DESCRIPTORS + 16 * n;
            b.put(at + 2, &[0x12, 0, 0, 0, 0, 0]);
            b.put(at + 10, &[0, 0]);
            b.put(at + 12, &flags.to_le_bytes());
            b.put(at + 14, &[bytes[n as usize] % 9, 0]);
        }
        b.put(AVAILABLE + 4, &available);
        b.put(AVAILABLE + 2, &offered.to_le_bytes());
        let done = b.notify();
        let used = b.used();
        prop_assert!(used <= SIZE);
        prop_assert!(!done || used == offered);
        prop_assert_eq!(b.position(), used);
    }
}
