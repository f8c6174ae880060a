//! Images with one mistake each.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use super::super::tests::{above, bytes_of, memory_file};
use super::*;
use crate::memory::GuestMemory;

/// A good image of 2 GiB with two clusters of data in different tables.
fn good() -> Vec<u8> {
    let (image, file) = above(&memory_file(&[7; 512]), 2 << 30);
    let memory = GuestMemory::new(0x10_0000, 1).unwrap();
    let sections = [memory.section(0x1000, 512).unwrap()];
    for at in [0, 1 << 29] {
        image.write(&memory, at, &sections).unwrap();
    }
    image.settle().unwrap();
    bytes_of(&file)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(part(bytes, at))
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_be_bytes());
}

/// Where the tables of a good image are.
struct Places {
    first: usize,
    second: usize,
    counts: usize,
}

fn places(bytes: &[u8]) -> Places {
    let offset = |at| (word(bytes, at) & OFFSET) as usize;
    let first = offset(40);
    Places {
        first,
        second: offset(first),
        counts: offset(offset(48)),
    }
}

#[test]
fn a_good_image_says_how_large_it_is() {
    let facts = check(&memory_file(&good())).unwrap();
    let size = 2 << 30;
    assert_eq!(facts, Facts { size, base: None });
}

#[test]
fn a_table_that_lies_is_refused() {
    type Lie = fn(&mut Vec<u8>, &Places);
    let lies: [(&str, Lie); 14] = [
        ("used for something else", |image, at| {
            put(image, at.first, at.first as u64 | COPIED);
        }),
        ("used for something else", |image, at| {
            let second = word(image, at.first);
            put(image, at.first + 8, second);
        }),
        ("used for something else", |image, at| {
            put(image, at.second, at.second as u64 | COPIED);
        }),
        ("where no table can be", |image, at| {
            put(image, at.first, 1 << 40);
        }),
        ("where no table can be", |image, at| {
            put(image, at.first, at.second as u64 + 512);
        }),
        ("first level has a bad entry", |image, at| {
            image[at.first + 7] |= 1;
        }),
        ("second level has a bad entry", |image, at| {
            put(image, at.second, 1 << 40 | COPIED);
        }),
        ("second level has a bad entry", |image, at| {
            image[at.second + 7] |= 2;
        }),
        ("counts as free", |image, at| {
            image[at.counts..][..2].fill(0)
        }),
        ("counts has a bad entry", |image, _| {
            let table = word(image, 48) as usize;
            put(image, table, 1);
        }),
        ("where no table can be", |image, _| {
            let len = image.len();
            image.truncate(len / 2);
        }),
        ("its header has no end", |image, _| {
            image[104..112].fill(0xFF);
        }),
        ("list of features is cut off", |image, _| {
            image[104..108].copy_from_slice(&FEATURE_NAMES.to_be_bytes());
            image[108..112].copy_from_slice(&49_u32.to_be_bytes());
        }),
        ("backing file is too long", |image, _| {
            put(image, 8, 0x200);
            image[16..20].copy_from_slice(&2000_u32.to_be_bytes());
        }),
    ];
    for (reason, lie) in lies {
        let mut image = good();
        let places = places(&image);
        lie(&mut image, &places);
        let error = check(&memory_file(&image)).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_header_that_lies_or_asks_too_much_is_refused() {
    for (reason, at, value) in [
        ("later version", 4, 9_u32),
        ("no possible size", 20, 63),
        ("no possible size", 20, 8),
        ("no possible size", 96, 9),
        ("no possible length", 100, 8),
        ("no possible length", 100, 0x10_0000),
        ("is encrypted", 32, 1),
        ("snapshots inside", 60, 1),
        ("2 TiB most", 24, 1 << 20),
        ("too long or missing", 36, u32::MAX),
        ("too long or missing", 56, 0),
        ("too long or missing", 56, u32::MAX),
        ("marked as damaged", 76, 2),
        ("not closed", 76, 1),
        ("data in another file", 76, 4),
        ("another way than deflate", 76, 8),
        ("not known here", 76, 16),
        ("not known here", 72, 1),
    ] {
        let mut image = good();
        image[at..at + 4].copy_from_slice(&value.to_be_bytes());
        let error = check(&memory_file(&image)).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_count_is_found_whatever_its_size() {
    let block = [0b1110_0100, 0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC, 0xDE];
    assert_eq!((0..8).map(|n| count(&block, 0, n)).sum::<u64>(), 4);
    let counts: Vec<u64> = (0..4).map(|n| count(&block, 1, n)).collect();
    assert_eq!(counts, [0, 1, 2, 3]);
    assert_eq!(count(&block, 2, 1), 0b1110);
    assert_eq!(count(&block, 3, 1), 0x12);
    assert_eq!(count(&block, 4, 1), 0x3456);
    assert_eq!(count(&block, 5, 1), 0x789A_BCDE);
    assert_eq!(count(&block, 6, 0), 0xE412_3456_789A_BCDE);
    assert_eq!(count(&block, 6, 1), 0);
}
