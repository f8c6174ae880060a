//! Page tables that loop, alias, and point outside memory.
//!
//! Each case is an entry of a page directory, a table of entries below it, and
//! uses of what they map: reads, writes and jumps, in both modes, and all
//! hypercalls that look at tables.

use crate::arena::Arena;
use crate::script::Record;
use crate::sweep::{Sweep, all};
use crate::target::{EMPTY, LIMIT};
use lg_abi::hypercall::Hypercall;

/// The attacker's own page directory: the first page that its lab allocates.
const DIRECTORY: u32 = 0x2_0000;

/// A page table that the script fills.
const TABLE: u32 = EMPTY + 0x2000;

/// An address for users, one for the kernel above its memory, and the last one
/// before the Switcher.
const PLACES: [u32; 3] = [0x4000_0000, 0xF000_0000, 0xFF80_0000];

/// Present, Writable, User, Accessed and Dirty.
const USED: u32 = 0x67;

/// The first entry of a table, and what is added for the next.
const TABLES: [(u32, u32); 12] = [
    (USED, 0),
    (USED, 0x1000),
    (TABLE | USED, 0),
    (DIRECTORY | USED, 0),
    ((LIMIT - 0x2000) | USED, 0x1000),
    ((LIMIT - 0x1000) | USED, 0),
    (LIMIT | USED, 0),
    (0xFFFF_F000 | USED, 0x1000),
    (EMPTY | 0x6F, 0x1000),
    (EMPTY | 0xE7, 0x1000),
    (EMPTY | 0x21, 0x1000),
    (0x1234_5067, 0x0765_4321),
];

fn entries() -> Vec<u32> {
    let mut entries = vec![
        TABLE | USED,
        TABLE | 1,
        TABLE | 3,
        TABLE | 5,
        TABLE,
        DIRECTORY | USED,
        (LIMIT - 0x1000) | USED,
        LIMIT | USED,
        0xFFFF_F000 | USED,
        0x8000_0000 | USED,
        USED,
    ];
    entries.extend((3..12).map(|bit| TABLE | USED | 1 << bit));
    entries
}

/// The steps that use an address.
fn uses(place: u32) -> Vec<Record> {
    let [a, b, c, d] = place.to_le_bytes();
    let call = |call: Hypercall, args| Record::hypercall(call as u32, args);
    let index = place >> 22;
    let jump = [0xB8, a, b, c, d, 0xFF, 0xE0];
    let mut far_user = vec![0xB8, a, b, c, d];
    far_user.extend([0x8B, 0x18, 0x89, 0x18, 0xCD, 0x80]);
    vec![
        Record::code(&[0xA1, a, b, c, d]),
        Record::code(&[0xA3, a, b, c, d]),
        Record::code_of_a_user(&far_user),
        call(Hypercall::SetPmd, [DIRECTORY, index, 0]),
        call(Hypercall::SetPte, [DIRECTORY, place, 0]),
        call(Hypercall::FlushTlb, [0; 3]),
        Record::code(&[0x8B, 0x05, a, b | 0x10, c, d]),
        call(Hypercall::FlushTlb, [1, 0, 0]),
        Record::code(&jump),
        Record::code_of_a_user(&jump),
    ]
}

#[test]
fn of_every_kind() {
    let mut script = Vec::new();
    for (n, entry) in entries().into_iter().enumerate() {
        for (m, (first, more)) in TABLES.into_iter().enumerate() {
            for (k, place) in PLACES.into_iter().enumerate() {
                if !all() && (n + m + k) % 3 != 0 {
                    continue;
                }
                let at = DIRECTORY + (place >> 22) * 4;
                let mut steps = vec![
                    Record::fill(TABLE, 1024, first, more),
                    Record::fill(at, 1, entry, 0),
                ];
                steps.extend(uses(place));
                steps.push(Record::fill(at, 1, 0, 0));
                steps.push(Record::hypercall(5, [1, 0, 0]));
                script.extend(Record::case(steps));
            }
        }
    }
    Sweep::new("page tables", &script).run(&Arena::new("tables"));
}

/// A directory that is its own table, and is changed through itself.
#[test]
fn that_map_themselves() {
    let mut script = Vec::new();
    for index in [0_u32, 256, 767, 768, 800, 1000, 1022, 1023] {
        let window = (index << 22) | (index << 12);
        for (slot, word) in [
            (index, 0),
            (index, DIRECTORY | USED),
            (256, LIMIT | USED),
            (256, TABLE | 0xE7),
            (768, 0),
            (1023, DIRECTORY | USED),
        ] {
            let at = DIRECTORY + index * 4;
            let [a, b, c, d] = (window | (slot * 4)).to_le_bytes();
            let [e, f, g, h] = word.to_le_bytes();
            script.extend(Record::case([
                Record::fill(at, 1, DIRECTORY | USED, 0),
                Record::code(&[0xC7, 0x05, a, b, c, d, e, f, g, h]),
                Record::code(&[0xA1, a, b, c, d]),
                Record::hypercall(5, [1, 0, 0]),
                Record::code(&[0xA1, 0, 0x10, 0, 0x40]),
                Record::hypercall(4, [DIRECTORY, 0, 0]),
            ]));
        }
    }
    Sweep::new("page tables that map themselves", &script)
        .run(&Arena::new("selfmap"));
}
