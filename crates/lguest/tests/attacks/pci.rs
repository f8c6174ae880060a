//! A PCI bus, and virtio 1.0 devices on it, used against the rules.
//!
//! The steps are short pieces of code with `in`, `out` and `mov`, which the
//! Host carries out. Chains that break the rules are in `rings.rs`: queues do
//! not depend on the bus.

use crate::arena::{Boot, Stop, count};
use crate::rings::{arena, sweep};
use crate::script::Record;
use crate::support::later::ON_PCI;
use crate::target::EMPTY;

/// Bytes of RAM.
const RAM: u32 = 16 << 20;

/// Where the kernel maps physical address 0.
const HIGH: u32 = 0xC000_0000;

/// Slots of the devices: console, random numbers, disk, network, port.
const SLOTS: std::ops::RangeInclusive<u32> = 1..=5;
const RANDOM: u32 = 2;
const DISK: u32 = 3;

/// Ports of configuration mechanism 1.
const ADDRESS: u32 = 0xCF8;
const DATA: u32 = 0xCFC;

/// Registers of a device.
const STATUS: u32 = 0x14;
const SELECT: u32 = 0x16;
const SIZE: u32 = 0x18;
const ENABLE: u32 = 0x1C;
const PARTS: [u32; 3] = [0x20, 0x28, 0x30];
const NOTIFY: u32 = 0x38;

/// Words that a rule may forget.
const WORDS: [u32; 7] = [0, 1, 0xFF, 0xFFFF, EMPTY, 0x8000_0000, u32::MAX];

/// The registers of the device in `slot`.
fn bar(slot: u32) -> u32 {
    RAM + 0x10_0000 + (slot - 1) * 0x1000
}

/// An instruction, or a few.
type Code = Vec<u8>;

/// Writes `bytes` bytes of `word` to a port.
fn out(port: u32, bytes: u32, word: u32) -> Code {
    let last: &[u8] = match bytes {
        1 => &[0xEE],
        2 => &[0x66, 0xEF],
        _ => &[0xEF],
    };
    let [port, word] = [port, word].map(u32::to_le_bytes);
    [&[0xBA], &port[..], &[0xB8], &word, last].concat()
}

/// Reads four bytes of a port.
fn input(port: u32) -> Code {
    [&[0xBA], &port.to_le_bytes()[..], &[0xED]].concat()
}

/// Writes `bytes` bytes of `word` to physical address `at`.
fn store(at: u32, bytes: u32, word: u32) -> Code {
    let at = (HIGH + at).to_le_bytes();
    let word = word.to_le_bytes();
    let first: &[u8] = match bytes {
        1 => &[0xC6, 0x05],
        2 => &[0x66, 0xC7, 0x05],
        _ => &[0xC7, 0x05],
    };
    [first, &at, &word[..bytes as usize]].concat()
}

/// Reads `bytes` bytes from there.
fn load(at: u32, bytes: u32) -> Code {
    let first: &[u8] = match bytes {
        1 => &[0xA0],
        2 => &[0x66, 0xA1],
        _ => &[0xA1],
    };
    [first, &(HIGH + at).to_le_bytes()].concat()
}

/// Chooses a word of a configuration space.
fn choose(slot: u32, word: u32) -> Code {
    out(ADDRESS, 4, 1 << 31 | slot << 11 | word)
}

fn configure(slot: u32, word: u32, value: u32) -> Code {
    [choose(slot, word), out(DATA, 4, value)].concat()
}

/// A driver's steps up to the choice of features, which are those of the
/// version.
fn negotiate(slot: u32) -> Vec<Code> {
    let at = bar(slot);
    vec![
        store(at + STATUS, 1, 0),
        store(at + STATUS, 1, 3),
        store(at + 0x08, 4, 1),
        store(at + 0x0C, 4, 1),
        store(at + STATUS, 1, 0xB),
    ]
}

/// Puts queue `queue` into empty memory, enables it, and makes the driver
/// ready.
fn start(slot: u32, queue: u32) -> Vec<Code> {
    let at = bar(slot);
    let mut steps = negotiate(slot);
    steps.push(store(at + SELECT, 2, queue));
    for (part, place) in PARTS.into_iter().zip([0, 0x1000, 0x2000]) {
        steps.push(store(at + part, 4, EMPTY + place));
        steps.push(store(at + part + 4, 4, 0));
    }
    steps.push(store(at + ENABLE, 2, 1));
    steps.push(store(at + STATUS, 1, 0xF));
    steps
}

/// A case of these steps, as many as fit in each record.
fn case(steps: impl IntoIterator<Item = Code>) -> Vec<Record> {
    /// Bytes of code in a record.
    const ROOM: usize = 14 * 8;
    let mut pieces = vec![Code::new()];
    for step in steps {
        if pieces.last().map_or(0, Vec::len) + step.len() > ROOM {
            pieces.push(Code::new());
        }
        pieces.last_mut().unwrap().extend(step);
    }
    Record::case(pieces.iter().map(|code| Record::code(code)))
}

/// Every word of every space, there or not, by accesses of every width.
#[test]
fn configuration_spaces_are_written_anyhow() {
    let mut script = Vec::new();
    for slot in SLOTS.chain([0, 6, 31]) {
        for word in (0..0x100).step_by(4) {
            let mut steps = vec![choose(slot, word), input(DATA)];
            for value in [0, 0x1234_5678, u32::MAX] {
                for bytes in [1, 2, 4] {
                    for at in 0..4 {
                        steps.push(out(DATA + at, bytes, value));
                    }
                }
                steps.push(input(DATA));
            }
            script.extend(case(steps));
        }
    }
    sweep("configuration spaces", &script, ON_PCI[0], &[]);
}

/// Devices on top of memory, of each other, and of nothing.
#[test]
fn devices_are_moved_anywhere() {
    let mut script = Vec::new();
    for slot in SLOTS {
        let own = bar(slot);
        let other = bar(slot % 5 + 1);
        for place in [
            0,
            EMPTY,
            RAM - 0x1000,
            RAM,
            other,
            other + 0x20,
            other - 0x40,
            bar(6),
            0x7FFF_F000,
            0xC000_0000,
            u32::MAX,
        ] {
            let mut steps = vec![configure(slot, 0x10, place)];
            for at in [EMPTY, own, own + STATUS, other, other + STATUS] {
                for bytes in [1, 2, 4] {
                    steps.push(store(at, bytes, u32::MAX));
                    steps.push(load(at, bytes));
                }
            }
            steps.push(store(own + NOTIFY, 2, 0));
            steps.push(configure(slot, 0x10, own));
            script.extend(case(steps));
        }
    }
    sweep("moved devices", &script, ON_PCI[0], &["--isolation=user"]);
}

/// Windows to every BAR, offset and width.
#[test]
fn windows_to_everywhere() {
    let mut script = Vec::new();
    for slot in SLOTS {
        for which in [0, 1, 5, 6, 0xFF, u32::MAX] {
            for offset in [
                0,
                2,
                STATUS,
                NOTIFY,
                0x3A,
                0x3C,
                0x44,
                0x7C,
                0x80,
                0xFFC,
                0x1000,
                u32::MAX - 3,
            ] {
                let mut steps = vec![
                    configure(slot, 0x88, which),
                    configure(slot, 0x8C, offset),
                ];
                for bytes in [0, 1, 2, 3, 4, 5, 8, u32::MAX] {
                    steps.push(configure(slot, 0x90, bytes));
                    steps.push(configure(slot, 0x94, 0xA5));
                    steps.push(input(DATA));
                }
                script.extend(case(steps));
            }
        }
    }
    sweep("windows", &script, ON_PCI[0], &[]);
}

/// Every register, with every width.
#[test]
fn registers_are_written_anyhow() {
    let mut script = Vec::new();
    for slot in SLOTS {
        for offset in (0..0x50).chain([0x7E, 0x7F, 0x80, 0xFFC]) {
            let at = bar(slot) + offset;
            let mut steps = negotiate(slot);
            for word in WORDS {
                for bytes in [1, 2, 4] {
                    steps.push(store(at, bytes, word));
                    steps.push(load(at, bytes));
                }
            }
            steps.push(store(bar(slot) + NOTIFY, 2, 0));
            script.extend(case(steps));
        }
    }
    sweep("registers", &script, ON_PCI[0], &[]);
}

/// Parts of a queue anywhere, with any size.
#[test]
fn queues_are_put_anywhere() {
    let mut script = Vec::new();
    for slot in [RANDOM, DISK] {
        let at = bar(slot);
        for part in PARTS {
            for place in [
                0,
                EMPTY + 1,
                EMPTY + 2,
                RAM - 16,
                RAM - 1,
                RAM,
                at,
                u32::MAX,
            ] {
                for size in [0, 1, 3, 256, 257, 0x8000] {
                    let mut steps = negotiate(slot);
                    steps.push(store(at + SIZE, 2, size));
                    for other in PARTS {
                        steps.push(store(at + other, 4, EMPTY));
                    }
                    steps.push(store(at + part, 4, place));
                    steps.push(store(at + ENABLE, 2, 1));
                    steps.push(store(at + STATUS, 1, 0xF));
                    steps.push(store(EMPTY + 2, 2, 1));
                    steps.push(store(at + NOTIFY, 2, 0));
                    script.extend(case(steps));
                }
            }
        }
        // The upper half of each address.
        for part in PARTS {
            let mut steps = negotiate(slot);
            steps.push(store(at + part + 4, 4, 1));
            steps.push(store(at + ENABLE, 2, 1));
            steps.push(store(at + NOTIFY, 2, 0));
            script.extend(case(steps));
        }
    }
    sweep("places of queues", &script, ON_PCI[0], &[]);
}

/// Two states in any order, with notifications and a reset between them.
#[test]
fn states_come_in_any_order() {
    let states = [0, 1, 3, 8, 0xB, 0xF, 0x80, 0xFF];
    let mut script = Vec::new();
    for slot in SLOTS {
        let at = bar(slot);
        for first in states {
            for second in states {
                let mut steps = start(slot, 0);
                for status in [first, second, 0, second, first] {
                    steps.push(store(at + STATUS, 1, status));
                    steps.push(store(at + ENABLE, 2, 1));
                    for queue in [0, 1, 5, 0xFFFF] {
                        steps.push(store(at + NOTIFY, 2, queue));
                    }
                    steps.push(load(at + STATUS, 1));
                }
                script.extend(case(steps));
            }
        }
    }
    sweep("states", &script, ON_PCI[0], &[]);
}

/// Storms of notifications, of resets and of questions: the Guest survives.
#[test]
fn storms_on_a_pci_bus() {
    let mut script = Vec::new();
    let mut storms = 0;
    let mut storm = |steps: Vec<Code>, times: u64| {
        let records = case(steps);
        let len = records.len() as u64;
        script.extend(records);
        script.push(Record::repeat(len, times));
        storms += 1;
    };
    for slot in SLOTS {
        let at = bar(slot);
        storm(start(slot, 0), 500);
        storm(vec![store(at + NOTIFY, 2, 0)], 5_000);
        storm(vec![load(at + 0x3A, 1)], 5_000);
        storm(vec![choose(slot, 0), input(DATA)], 5_000);
        storm(vec![store(at + STATUS, 1, 0)], 1);
    }
    let (arena, options) = arena("pci-storms", ON_PCI[1]);
    let end = arena.boot(&Boot {
        options,
        line: "attack=script quiet".into(),
        script: &script,
        stop: Stop::Never,
    });
    assert!(end.survived().is_some(), "{end:?}");
    count("storms on a PCI bus", storms, 1, "");
}
