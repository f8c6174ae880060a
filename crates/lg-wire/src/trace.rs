//! The trace: a ring of records about what happens to a Guest.
//!
//! The ring lies behind the state, in the same file. Views write into it, and
//! so do threads of the Launcher. A writer takes the next number, and the
//! record with that number goes to the place `number % records`. So the ring
//! has the last records, and the numbers say how many are lost.
//!
//! Nothing waits for a reader. A record's first word is its number plus one,
//! or 0 while the record is written. A reader copies the ring, and drops
//! records whose number is not the one of their place, and those that may have
//! been overwritten while it copied. A Guest that has taken over its Host can
//! write anything here: it falsifies its own trace, and nothing more.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Records of a ring for which no size was asked.
pub const RECORDS: u32 = 1 << 15;

/// The fewest records of a ring.
pub const FEWEST: u32 = 1 << 8;

/// The most records of a ring.
pub const MOST: u32 = 1 << 20;

/// Bytes of the ring's head.
pub const HEAD_SIZE: usize = 4096;

/// Words of a record.
pub const WORDS: usize = 8;

/// Bytes of a record.
pub const RECORD_SIZE: usize = size_of::<Record>();

/// Bytes of a ring with this many records.
#[must_use]
pub const fn ring_size(records: u32) -> usize {
    HEAD_SIZE + records as usize * RECORD_SIZE
}

/// The number of records that a ring may have which is nearest to `wanted`,
/// and not larger where that is possible: a power of two.
#[must_use]
pub const fn allowed(wanted: u32) -> u32 {
    if wanted <= FEWEST {
        FEWEST
    } else if wanted >= MOST {
        MOST
    } else {
        1 << wanted.ilog2()
    }
}

/// How far times are shifted to be the third word of a record: a second has
/// fewer units than the word can hold, whatever the processor.
pub const DURATION_SHIFT: u32 = 4;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $Name:ident = $number:literal in $group:ident,)*) => {
        /// What a record is about. `detail` and the words depend on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[doc = $doc])* $Name = $number,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$Name,)*];

            /// The kind with this number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$Name),)*
                    _ => None,
                }
            }

            /// The group that it belongs to.
            #[must_use]
            pub const fn group(self) -> u32 {
                match self {
                    $(Self::$Name => group::$group,)*
                }
            }

            /// Whether the third word is how long it took.
            #[must_use]
            pub const fn has_duration(self) -> bool {
                matches!(
                    self,
                    Self::Exit | Self::Request | Self::Sleep
                )
            }
        }
    };
}

kinds! {
    /// The Guest has stopped. `detail`: a [`cause`]; words: the error code, the
    /// address of a page fault, and how long it stood.
    Exit = 1 in EXITS,
    /// A hypercall. `detail`: the [`CallName`](lg_abi::call::CallName), or
    /// [`NO_CALL`], and [`FROM_RING`]; words: ebx, ecx, edx.
    Hypercall = 2 in HYPERCALLS,
    /// A trap is delivered. `detail`: its vector; words: the error code, the
    /// handler, and the address of the last page fault.
    Trap = 3 in TRAPS,
    /// An interrupt is raised. `detail`: its number; first word: 0 = by the
    /// Host's timer, 1 = by the Launcher, 2 = by the Host, which has answered a
    /// read of a disk.
    Raised = 4 in INTERRUPTS,
    /// An interrupt is delivered. `detail`: its number; words: the handler, and
    /// those that are still raised.
    Delivered = 5 in INTERRUPTS,
    /// An interrupt is dropped, because it has no handler. `detail`: its
    /// number.
    Dropped = 6 in INTERRUPTS,
    /// Interrupts have to wait. `detail`: a [`wait`]; words: those that are
    /// raised, those that are blocked, and `irq_enabled`.
    Waits = 7 in INTERRUPTS,
    /// Pages are mapped. `detail`: 1 = to be written; words: where, the
    /// physical address, how many.
    Mapped = 8 in PAGES,
    /// Pages are unmapped or hidden. `detail`: 1 = hidden; words: where,
    /// nothing, how many.
    Unmapped = 9 in PAGES,
    /// Code is patched. `detail`: the kind of the patch; words: where the
    /// Guest sees it, how many bytes.
    Patched = 10 in PATCHES,
    /// The Host asks the Launcher. `detail`: the number of the
    /// [`Request`](crate::mailbox::Request); words: two arguments, and how long
    /// it took.
    Request = 11 in REQUESTS,
    /// Another page directory is in use. First word: its address.
    Directory = 12 in DIRECTORIES,
    /// The Guest sleeps. Third word: how long.
    Sleep = 13 in SLEEP,
    /// Where the Guest was when the timer of a profile went off. `detail`: the
    /// number of the sample, modulo 2^16; words: the page directory, how many
    /// frames follow, and the first of them.
    Sample = 14 in SAMPLES,
    /// Frames of the sample with the number `detail`: `eip`, then the words; 0
    /// = there is no more.
    Frames = 15 in SAMPLES,
}

/// Groups of kinds, a bit each, of which a filter chooses some.
pub mod group {
    /// The Guest has stopped.
    pub const EXITS: u32 = 1 << 0;
    /// Hypercalls.
    pub const HYPERCALLS: u32 = 1 << 1;
    /// Traps that are delivered.
    pub const TRAPS: u32 = 1 << 2;
    /// Interrupts that are raised, delivered, dropped, or have to wait.
    pub const INTERRUPTS: u32 = 1 << 3;
    /// Pages that are mapped and unmapped.
    pub const PAGES: u32 = 1 << 4;
    /// Code that is patched.
    pub const PATCHES: u32 = 1 << 5;
    /// What the Host asks the Launcher.
    pub const REQUESTS: u32 = 1 << 6;
    /// Changes of the page directory.
    pub const DIRECTORIES: u32 = 1 << 7;
    /// The Guest sleeps.
    pub const SLEEP: u32 = 1 << 8;
    /// Samples of a profile.
    pub const SAMPLES: u32 = 1 << 9;

    /// The groups of a trace, by name. [`SAMPLES`] is not one of them.
    pub const NAMES: [(&str, u32); 9] = [
        ("exits", EXITS),
        ("hypercalls", HYPERCALLS),
        ("traps", TRAPS),
        ("interrupts", INTERRUPTS),
        ("pages", PAGES),
        ("patches", PATCHES),
        ("requests", REQUESTS),
        ("directories", DIRECTORIES),
        ("sleep", SLEEP),
    ];

    /// All groups of a trace.
    pub const ALL: u32 = (1 << NAMES.len()) - 1;
}

/// Causes of an [`Exit`](Kind::Exit): `detail`, with a number in the low byte.
pub mod cause {
    /// A trap; the low byte is its vector.
    pub const TRAP: u16 = 0 << 8;
    /// A trampoline; the low byte is its kind.
    pub const TRAMPOLINE: u16 = 1 << 8;
    /// `int $0x80`.
    pub const SYSTEM_CALL: u16 = 2 << 8;
    /// `sysenter` or `syscall`.
    pub const STRAY_SYSTEM_CALL: u16 = 3 << 8;
    /// Code in 64-bit mode.
    pub const LONG_MODE: u16 = 4 << 8;
    /// In the middle of a crossing.
    pub const CROSSING: u16 = 5 << 8;
    /// A timer, another view or the Launcher.
    pub const KICK: u16 = 6 << 8;
}

/// The kinds of trampolines, by their number. A test of the Host's compares.
pub const TRAMPOLINES: [&str; 9] = [
    "",
    "Iret",
    "Hypercall",
    "EntryPage",
    "HypercallAfterStore",
    "Enabling",
    "DirectCall",
    "Accessor",
    "NearHypercall",
];

/// The kinds of patches, likewise.
pub const PATCHES: [&str; 14] = [
    "",
    "Iret",
    "Hypercall",
    "HypercallAfterStore",
    "Enabling",
    "EntryPage",
    "SegmentLoad",
    "Int3",
    "DirectCall",
    "DirectSlot",
    "TrappingIret",
    "Breakpoint",
    "Accessor",
    "NearHypercall",
];

/// Why interrupts have to [wait](Kind::Waits).
pub mod wait {
    /// The Guest has interrupts switched off.
    pub const OFF: u16 = 0;
    /// It has blocked these.
    pub const BLOCKED: u16 = 1;
    /// It is where its kernel forbids interrupts (`noirq`).
    pub const NO_IRQ: u16 = 2;
}

/// `detail` of a hypercall that does not exist. The first word is its number.
pub const NO_CALL: u16 = 0xFF;

/// A bit in `detail`: the hypercall was in the ring.
pub const FROM_RING: u16 = 1 << 8;

/// What is recorded, without its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub kind: Kind,
    /// Whether user code ran.
    pub user: bool,
    /// See [`Kind`].
    pub detail: u16,
    /// Where the Guest was.
    pub eip: u32,
    /// See [`Kind`].
    pub words: [u32; 3],
}

impl Event {
    /// Kind, mode and detail in one word.
    const fn word(&self) -> u32 {
        self.kind as u32 | (self.user as u32) << 8 | (self.detail as u32) << 16
    }
}

/// A record.
#[repr(C, align(32))]
#[derive(Default)]
pub struct Record {
    /// The low half of its number, plus one; 0 = it is being written.
    mark: AtomicU32,
    /// Kind, mode and detail.
    what: AtomicU32,
    /// The time-stamp counter.
    time: AtomicU64,
    eip: AtomicU32,
    words: [AtomicU32; 3],
}

impl Record {
    /// Its words, as they lie in memory.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "both halves are there"
    )]
    pub fn words(&self) -> [u32; WORDS] {
        let load = |word: &AtomicU32| word.load(Ordering::Relaxed);
        let time = self.time.load(Ordering::Relaxed);
        let [a, b, c] = self.words.each_ref().map(load);
        let [low, high] = [time as u32, (time >> 32) as u32];
        [
            load(&self.mark),
            load(&self.what),
            low,
            high,
            load(&self.eip),
            a,
            b,
            c,
        ]
    }
}

/// The head of a ring. All of it is 0 at the beginning.
#[repr(C, align(4096))]
#[derive(Default)]
pub struct RingHead {
    /// How many records were begun.
    pub next: AtomicU64,
    /// The time when the Guest was made: the time-stamp counter, or in
    /// nanoseconds the monotonic clock where views cannot read the counter.
    pub start: AtomicU64,
    /// Thousands of ticks a second; 0 = not known.
    pub khz: AtomicU32,
}

/// A ring, for those that write into it.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    head: &'a RingHead,
    records: &'a [Record],
}

impl<'a> Ring<'a> {
    /// The ring with this head and these records: a power of two of them.
    ///
    /// # Panics
    ///
    /// If there are none.
    #[must_use]
    pub fn new(head: &'a RingHead, records: &'a [Record]) -> Self {
        assert!(records.len().is_power_of_two());
        Self { head, records }
    }

    /// The place of record `number`.
    #[expect(clippy::cast_possible_truncation, reason = "modulo the ring")]
    fn place(&self, number: u64) -> &'a Record {
        &self.records[number as usize & (self.records.len() - 1)]
    }

    /// Writes a record. Returns its number.
    #[inline]
    pub fn write(&self, time: u64, event: &Event) -> u64 {
        let number = self.head.next.fetch_add(1, Ordering::Relaxed);
        let record = self.place(number);
        record.mark.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        record.what.store(event.word(), Ordering::Relaxed);
        record.time.store(time, Ordering::Relaxed);
        record.eip.store(event.eip, Ordering::Relaxed);
        for (to, from) in record.words.iter().zip(event.words) {
            to.store(from, Ordering::Relaxed);
        }
        record.mark.store(mark(number), Ordering::Release);
        number
    }

    /// What record `number` is about is over: writes how long it took, unless
    /// the record is overwritten.
    pub fn end(&self, number: u64, time: u64) {
        let record = self.place(number);
        if record.mark.load(Ordering::Relaxed) != mark(number) {
            return;
        }
        let start = record.time.load(Ordering::Relaxed);
        let took = time.wrapping_sub(start) >> DURATION_SHIFT;
        let took = u32::try_from(took).unwrap_or(u32::MAX).max(1);
        record.words[2].store(took, Ordering::Relaxed);
    }
}

/// The mark of record `number`.
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn mark(number: u64) -> u32 {
    (number as u32).wrapping_add(1)
}

/// A record as a reader has copied it: its time, and the event. `None` if it is
/// not record `number`, or makes no sense.
#[must_use]
pub fn decode(words: &[u32; WORDS], number: u64) -> Option<(u64, Event)> {
    let &[found, what, low, high, eip, a, b, c] = words;
    if found != mark(number) {
        return None;
    }
    let [kind, user, low_detail, high_detail] = what.to_le_bytes();
    let event = Event {
        kind: Kind::from_number(kind)?,
        user: user == 1,
        detail: u16::from_le_bytes([low_detail, high_detail]),
        eip,
        words: [a, b, c],
    };
    Some((u64::from(high) << 32 | u64::from(low), event))
}

const _: () = assert!(size_of::<Record>() == WORDS * 4);
const _: () = assert!(size_of::<RingHead>() == HEAD_SIZE);

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn records(count: usize) -> Vec<Record> {
        (0..count).map(|_| Record::default()).collect()
    }

    #[test]
    fn kinds_and_numbers_are_one_to_one() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind as u8), Some(kind));
            let group = kind.group();
            assert!(group.is_power_of_two() && group <= group::SAMPLES);
        }
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(16), None);
        let all = group::NAMES.iter().fold(0, |all, (_, group)| all | group);
        assert_eq!(all, group::ALL);
    }

    #[test]
    fn a_ring_has_a_power_of_two_of_records() {
        for (wanted, allowed_) in [
            (0, FEWEST),
            (FEWEST, FEWEST),
            (1000, 512),
            (RECORDS, RECORDS),
            (MOST - 1, MOST / 2),
            (u32::MAX, MOST),
        ] {
            assert_eq!(allowed(wanted), allowed_);
        }
    }

    /// Every record is read as it was written, and only in its place.
    #[test]
    fn records_come_back() {
        let (head, records) = (RingHead::default(), records(4));
        let ring = Ring::new(&head, &records);
        for (n, &kind) in (0..).zip(Kind::ALL) {
            let event = Event {
                kind,
                user: n % 2 == 1,
                detail: 0xFEDC,
                eip: 0xC010_0000 + n,
                words: [1, u32::MAX, n],
            };
            let time = 0x1_2345_6789 + u64::from(n);
            let number = ring.write(time, &event);
            assert_eq!(number, u64::from(n));
            let words = ring.place(number).words();
            assert_eq!(decode(&words, number), Some((time, event)));
            assert_eq!(decode(&words, number + 4), None, "not there yet");
            assert_eq!(decode(&words, number.wrapping_sub(4)), None);
        }
    }

    #[test]
    fn an_end_is_noted_unless_the_record_is_overwritten() {
        let (head, records) = (RingHead::default(), records(2));
        let ring = Ring::new(&head, &records);
        let event = Event {
            kind: Kind::Exit,
            user: false,
            detail: cause::KICK,
            eip: 0,
            words: [0; 3],
        };
        let took = |number: u64| {
            let words = ring.place(number).words();
            decode(&words, number).map(|(_, event)| event.words[2])
        };
        let first = ring.write(1000, &event);
        assert_eq!(took(first), Some(0));
        ring.end(first, 1000 + 160);
        assert_eq!(took(first), Some(10));
        ring.end(first, 1000);
        assert_eq!(took(first), Some(1), "it is over, however fast");
        let third = [ring.write(0, &event), ring.write(0, &event)][1];
        ring.end(first, 99_999);
        assert_eq!((took(first), took(third)), (None, Some(0)));
        ring.end(third, u64::MAX);
        assert_eq!(took(third), Some(u32::MAX));
    }
}
