//! Rings of virtio that break the rules, on every queue of every device.
//!
//! Each case resets the device, writes a ring, and notifies. The Guest ends
//! with a reason, or harms only itself. What it reads of its own memory may be
//! printed or sent. The disk is read-only here, and the file must stay as it
//! is.

use crate::arena::{Arena, Boot, Stop, count};
use crate::script::Record;
use crate::support::later::{LATER, Later};
use crate::sweep::{Sweep, all};
use crate::target::EMPTY;
use std::ffi::OsString;

/// Bytes of RAM, and the page of descriptors after it.
const RAM: u32 = 16 << 20;

/// Virtqueues, and the first address after their rings.
const QUEUES: u32 = 12;
const LIMIT: u32 = RAM + 0x1000 + QUEUES * RING;

/// Bytes of a ring, and where its parts are.
const RING: u32 = 0x3000;
const AVAILABLE: u32 = 0x1000;
const USED: u32 = 0x2000;

/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// NOTIFY.
const NOTIFY: u32 = 17;

/// A queue: its number, and where the descriptor of its device is.
#[derive(Clone, Copy)]
struct Queue {
    number: u32,
    device: u32,
}

/// Random numbers, disk, network to the Guest and from it, console to the Guest
/// and from it, and the six queues of a port: two that it does not use,
/// messages, and bytes.
const ALL: [Queue; QUEUES as usize] = [
    queue(0, 0),
    queue(1, 21),
    queue(2, 21 + 37),
    queue(3, 21 + 37),
    queue(4, 21 + 37 + 35),
    queue(5, 21 + 37 + 35),
    queue(6, PORT),
    queue(7, PORT),
    queue(8, PORT),
    queue(9, PORT),
    queue(10, PORT),
    queue(11, PORT),
];

/// Where the descriptor of the port is.
const PORT: u32 = 21 + 37 + 35 + 33;

/// The end of all descriptors.
const DESCRIPTORS: u32 = PORT + 5 + 6 * 8 + 2 * 4 + 8;

/// A queue whose device's descriptor is this far into the page of them.
const fn queue(number: u32, descriptor: u32) -> Queue {
    let device = RAM + descriptor;
    Queue { number, device }
}

const DISK: Queue = ALL[1];

fn notify(at: u32) -> Record {
    Record::hypercall(NOTIFY, [at, 0, 0])
}

impl Queue {
    fn at(self) -> u32 {
        RAM + 0x1000 + self.number * RING
    }

    /// Sets the status, and reports that.
    fn status(self, status: u8) -> Vec<Record> {
        vec![
            Record::write(self.device + 4, &[status]),
            notify(self.device),
        ]
    }

    /// Resets the device, and empties the ring.
    fn reset(self) -> Vec<Record> {
        let mut steps = self.status(0);
        steps.push(Record::write(self.at() + AVAILABLE, &[0; 8]));
        steps.push(Record::write(self.at() + USED, &[0; 8]));
        steps.extend(self.status(7));
        steps
    }

    /// Writes a descriptor.
    fn describe(
        self,
        index: u32,
        (addr, len): (u64, u32),
        flags: u16,
        next: u16,
    ) -> Record {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        Record::write(self.at() + 16 * index, &bytes)
    }

    /// Makes one chain available, and says that there are `count` of them.
    fn offer(self, head: u16, count: u16) -> Vec<Record> {
        let half = |at, half: u16| Record::write(at, &half.to_le_bytes());
        vec![
            half(self.at() + AVAILABLE + 4, head),
            half(self.at() + AVAILABLE + 2, count),
            notify(self.at()),
        ]
    }

    /// A case: a reset, some descriptors, and an offer.
    fn case(
        self,
        descriptors: impl IntoIterator<Item = Record>,
        (head, count): (u16, u16),
    ) -> Vec<Record> {
        let mut steps = self.reset();
        steps.extend(descriptors);
        steps.extend(self.offer(head, count));
        Record::case(steps)
    }

    /// One descriptor in every kind of chain: alone for the device to write or
    /// to read, and as the middle of a request to a disk, which reads or
    /// writes.
    fn piece(self, piece: (u64, u32)) -> Vec<Record> {
        let header = (u64::from(EMPTY), 16);
        let answer = (u64::from(EMPTY) + 0x800, 1);
        let mut script = Vec::new();
        for flags in [WRITE, 0] {
            script
                .extend(self.case([self.describe(0, piece, flags, 0)], (0, 1)));
        }
        if self.number != DISK.number {
            return script;
        }
        for (kind, flags) in [(0_u32, WRITE), (1, 0)] {
            let mut bytes = kind.to_le_bytes().to_vec();
            bytes.resize(16, 0);
            let steps = [
                Record::write(EMPTY, &bytes),
                self.describe(0, header, NEXT, 1),
                self.describe(1, piece, NEXT | flags, 2),
                self.describe(2, answer, WRITE, 0),
            ];
            script.extend(self.case(steps, (0, 1)));
        }
        script
    }
}

/// Chains that are wrong as such.
fn chains(queue: Queue) -> Vec<Record> {
    let good = (u64::from(EMPTY), 16);
    let mut script = Vec::new();
    for flags in [0, WRITE] {
        let one = |next| queue.describe(0, good, flags | NEXT, next);
        for next in [0, 256, 0x7FFF, 0xFFFF] {
            script.extend(queue.case([one(next)], (0, 1)));
        }
        let both = [one(1), queue.describe(1, good, flags | NEXT, 0)];
        script.extend(queue.case(both, (0, 1)));
        let mixed = [one(1), queue.describe(1, good, flags ^ WRITE, 0)];
        script.extend(queue.case(mixed, (0, 1)));
        // Every descriptor of the ring, in one chain.
        let all = (0..256_u16).map(|n| {
            let more = if n < 255 { NEXT } else { 0 };
            queue.describe(n.into(), good, flags | more, n + 1)
        });
        script.extend(queue.case(all, (0, 1)));
        // Flags that were not offered: indirect, and unknown ones.
        for unknown in [4, 8, 0xFFF8] {
            let one = queue.describe(0, good, flags | unknown, 0);
            script.extend(queue.case([one], (0, 1)));
        }
    }
    for head in [1, 255, 256, 0x8000, 0xFFFF] {
        script.extend(queue.case([], (head, 1)));
    }
    for count in [2, 255, 256, 257, 0x7FFF, 0x8000, 0xFFFF] {
        let one = queue.describe(0, good, 0, 0);
        script.extend(queue.case([one], (0, count)));
    }
    script
}

/// Pieces of memory that do not exist, or in which the devices' own data are.
fn pieces(queue: Queue) -> Vec<(u64, u32)> {
    let other = ALL[(queue.number as usize + 1) % ALL.len()].at();
    let at = queue.at();
    let mut pieces: Vec<(u64, u32)> = Vec::new();
    for (addr, len) in [
        (EMPTY, 0),
        (EMPTY, 1),
        (EMPTY, 9),
        (EMPTY, 10),
        (EMPTY, 11),
        (EMPTY, 513),
        (EMPTY, u32::MAX),
        (LIMIT - 1, 1),
        (LIMIT - 1, 2),
        (LIMIT, 0),
        (LIMIT, 1),
        (0x4000_0000, 512),
        (0x8000_0000, 0x8000_0000),
        (0xFFFF_FFFF, 1),
        (0xFFFF_FFFF, 2),
        // The descriptors of devices, and the status among them.
        (RAM, DESCRIPTORS),
        (queue.device + 4, 1),
        // This ring: descriptors, available ring, used ring, and its end.
        (at, 64),
        (at + AVAILABLE, 64),
        (at + AVAILABLE + 2, 2),
        (at + USED, 64),
        (at + USED + 2, 2),
        (at + RING - 8, 16),
        // Another queue's ring.
        (other, 64),
        (other + AVAILABLE, 8),
        (other + USED, 8),
    ] {
        pieces.push((addr.into(), len));
    }
    pieces.push((1 << 32, 1));
    pieces.push((u64::from(EMPTY) | 1 << 63, 16));
    pieces
}

/// The arena and the options of an attacker with all devices.
pub(crate) fn arena(name: &str, later: Later) -> (Arena, Vec<OsString>) {
    let arena = Arena::later(name, later);
    let mut lan = OsString::from("--net=sharenet=");
    lan.push(arena.file("lan", &[0; 4096]));
    let mut options = vec![lan];
    // The oldest releases have no ports. There the last queues are memory that
    // is not there.
    if LATER[3..].iter().all(|old| old.release != later.release) {
        options.push("--agent".into());
    }
    (arena, options)
}

/// Runs cases with all devices, and `more` options.
pub(crate) fn sweep(
    name: &'static str,
    script: &[Record],
    later: Later,
    more: &[&str],
) {
    let (arena, mut options) = arena("rings", later);
    options.extend(more.iter().map(Into::into));
    Sweep {
        options,
        ..Sweep::new(name, script)
    }
    .run(&arena);
}

#[test]
fn bad_chains_on_every_queue() {
    let script: Vec<Record> = ALL.into_iter().flat_map(chains).collect();
    sweep("bad chains", &script, LATER[0], &[]);
}

#[test]
fn pieces_of_memory_that_no_queue_should_have() {
    let of = |queue: Queue| {
        let pieces = pieces(queue);
        pieces.into_iter().flat_map(move |piece| queue.piece(piece))
    };
    let script: Vec<Record> = ALL.into_iter().flat_map(of).collect();
    sweep("bad pieces", &script, LATER[0], &["--isolation=user"]);
}

/// Status bits in any order, other descriptors, and NOTIFY of any address.
#[test]
fn games_with_status_and_descriptors() {
    let mut script = Vec::new();
    let good = (u64::from(EMPTY), 16);
    for queue in ALL {
        for status in [0, 1, 2, 3, 4, 7, 0x80, 0x84, 0x87, 0xFF] {
            let mut steps = queue.reset();
            steps.push(queue.describe(0, good, WRITE, 0));
            steps.extend(queue.status(status));
            steps.extend(queue.offer(0, 1));
            // The device is reset while it has the chain.
            steps.extend(queue.status(0));
            steps.extend(queue.offer(0, 1));
            steps.extend(queue.status(status));
            script.extend(Record::case(steps));
        }
        for at in [
            queue.device + 1,
            queue.device + 4,
            queue.at() - 1,
            queue.at() + 1,
            queue.at() + AVAILABLE,
            queue.at() + USED,
        ] {
            script.extend(Record::case([notify(at)]));
        }
        // A descriptor that says other things than the Launcher wrote: types,
        // numbers of queues, lengths, and rings at other places.
        for byte in [0, 1, 3, 0x7F, 0xFF] {
            let mut steps = vec![Record::write(queue.device, &[byte; 13])];
            steps.push(notify(queue.device));
            steps.extend(queue.offer(0, 1));
            steps.push(notify(u32::from_le_bytes([byte; 4]) << 12));
            script.extend(Record::case(steps));
        }
    }
    for at in [
        0,
        1,
        EMPTY,
        RAM - 1,
        RAM + 0x800,
        LIMIT - 1,
        LIMIT,
        0x7FFF_FFFF,
        0x8000_0000,
        u32::MAX,
    ] {
        script.extend(Record::case([notify(at)]));
    }
    let releases = if all() { &LATER[..] } else { &LATER[..1] };
    for &later in releases {
        sweep("games with status", &script, later, &[]);
    }
}

/// Storms of notifications, of requests, and of resets: the Guest survives.
#[test]
fn storms_of_notifications() {
    let mut script = Vec::new();
    let (mut storms, mut calls) = (0, 0);
    let mut storm = |steps: Vec<Record>, times: u64| {
        let len = steps.len() as u64;
        storms += 1;
        calls += len * (times + 1);
        script.extend(steps);
        script.push(Record::repeat(len, times));
    };
    for queue in ALL {
        storm(queue.reset(), 500);
        storm(vec![notify(queue.at())], 5_000);
        storm(vec![notify(queue.device)], 5_000);
        // One chain, made available 256 times with each notification.
        let piece = (u64::from(EMPTY), if queue.number == 1 { 16 } else { 64 });
        let flags = match queue.number {
            0 | 2 | 4 | 6 | 8 | 10 => WRITE,
            _ => 0,
        };
        if queue.number == DISK.number {
            let answer = (u64::from(EMPTY) + 0x800, 1);
            storm(vec![Record::write(EMPTY, &[9; 16])], 0);
            storm(vec![queue.describe(0, piece, NEXT, 1)], 0);
            storm(vec![queue.describe(1, answer, WRITE, 0)], 0);
        } else {
            storm(vec![Record::fill(EMPTY, 16, 0, 0)], 0);
            storm(vec![queue.describe(0, piece, flags, 0)], 0);
        }
        storm(vec![Record::fill(queue.at() + AVAILABLE + 4, 128, 0, 0)], 0);
        let mut round = queue.status(0);
        round.extend(queue.status(7));
        round.extend(queue.offer(0, 256));
        storm(round, 50);
    }
    storm(vec![notify(EMPTY)], 5_000);
    let (arena, options) = arena("storms", LATER[0]);
    let end = arena.boot(&Boot {
        options,
        line: "attack=script quiet".into(),
        script: &script,
        stop: Stop::Never,
    });
    assert!(end.survived().is_some(), "{end:?}");
    count(
        "storms of notifications",
        storms,
        1,
        &format!(", {calls} calls"),
    );
}
