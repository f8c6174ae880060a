//! What a region does at its edges, and what a copy moves.

use super::*;
use std::vec;
use std::vec::Vec;

/// Memory of a test, as words, so that it is aligned.
struct Ram(Vec<u64>);

impl Ram {
    fn new(bytes: usize) -> Self {
        Self(vec![0; bytes / 8])
    }

    fn region(&mut self) -> Region {
        let limit = u32::try_from(self.0.len() * 8).unwrap();
        let base = NonNull::new(self.0.as_mut_ptr()).unwrap().cast();
        // SAFETY: each test keeps the memory for as long as the region, and
        // touches it only by the region.
        unsafe { Region::new(base, limit) }
    }
}

#[test]
fn every_pair_of_boundaries_is_checked_as_wide_numbers_say() {
    let limit = 0x3000;
    let mut ram = Ram::new(limit as usize);
    let region = ram.region();
    let around = |at: u32| (0..9).map(move |n| at.wrapping_add(n) - 4);
    let numbers: Vec<u32> = [4, 0x1000, limit, 1 << 31]
        .into_iter()
        .flat_map(around)
        .chain(u32::MAX - 8..=u32::MAX)
        .collect();
    for &addr in &numbers {
        for &len in &numbers {
            let fits = u128::from(addr) + u128::from(len) <= u128::from(limit);
            let checked = region.check(addr, len);
            assert_eq!(checked.is_ok(), fits, "{addr:#x} {len:#x}");
            assert!(fits || checked == Err(BadAddress { addr, len, limit }));
        }
    }
}

#[test]
fn the_last_word_is_there_and_the_next_is_not() {
    let mut ram = Ram::new(0x2000);
    let region = ram.region();
    region.set_word(0x1FFC, 7).unwrap();
    assert_eq!(region.word(0x1FFC), Ok(7));
    assert_eq!(region.byte(0x1FFC), Ok(7));
    assert!(region.byte(0x2000).is_err());
    for addr in [0x1FFD, 0x2000, u32::MAX, u32::MAX - 3] {
        let limit = 0x2000;
        let error = BadAddress {
            addr,
            len: 4,
            limit,
        };
        assert_eq!(region.word(addr), Err(error));
        assert_eq!(region.set_word(addr, 1), Err(error));
        assert_eq!(region.atomic(addr).map(drop), Err(error));
    }
}

#[test]
fn words_may_be_unaligned_and_atomic_integers_may_not() {
    let mut ram = Ram::new(0x1000);
    let region = ram.region();
    region.write(1, &[1, 2, 3, 4]).unwrap();
    assert_eq!(region.word(1), Ok(0x0403_0201));
    region.set_word(2, 0x0807_0605).unwrap();
    assert_eq!(region.object::<[u8; 6]>(1), Ok([1, 5, 6, 7, 8, 0]));
    assert_eq!(region.words::<2>(1), Ok([0x0706_0501, 8]));
    region.set_words(0xFF9, [1, 2]).err().unwrap();
    region.set_words(0xFF7, [1, 2]).unwrap();
    assert_eq!(region.words::<3>(0xFF3), Ok([0, 1, 2]));
    assert!(region.words::<3>(0xFF5).is_err());
    assert!(region.atomic(2).is_err());
    assert!(region.atomic_half(1).is_err());
    assert!(region.atomic_half(2).is_ok());
}

#[test]
fn a_copy_of_any_length_moves_these_bytes_and_no_other() {
    let size = 2048;
    let pattern: Vec<u8> = (0..251).cycle().take(size).collect();
    let (mut from, mut to) = (Ram::new(size), Ram::new(size));
    let (from, to) = (from.region(), to.region());
    from.write(0, &pattern).unwrap();
    let lengths = (0..40).chain([255, 256, 257, 300, 1024, 1500]);
    for len in lengths {
        for (at, into) in [(0, 0), (1, 0), (0, 3), (5, 7), (8, 16)] {
            to.write(0, &vec![0xEE; size]).unwrap();
            from.copy_to(at, &to, into, len).unwrap();
            let mut expected = vec![0xEE; size];
            let (at, into, len) = (at as usize, into as usize, len as usize);
            expected[into..into + len].copy_from_slice(&pattern[at..at + len]);
            let mut found = vec![0; size];
            to.read(0, &mut found).unwrap();
            assert!(found == expected, "{len} bytes from {at} to {into}");
        }
    }
}

#[test]
fn a_byte_that_differs_is_found_wherever_it_is() {
    let (mut a, mut b) = (Ram::new(512), Ram::new(512));
    let (a, b) = (a.region(), b.region());
    assert_eq!(a.is_same(0, &b, 0, 512), Ok(true));
    for at in 0..512 {
        a.write(at, &[1]).unwrap();
        assert_eq!(a.is_same(0, &b, 0, 512), Ok(false), "{at}");
        a.write(at, &[0]).unwrap();
    }
    assert_eq!(a.is_same(8, &b, 0, 448), Ok(true));
    assert!(a.is_same(0, &b, 0, 100).is_err());
    assert!(a.is_same(0, &b, 64, 512).is_err());
}

/// The index of a ring goes up by one while the other side reads it. If its
/// bytes were read one after the other, 0x12FF and 0x1300 could be 0x13FF.
#[test]
fn a_number_that_another_thread_writes_is_the_old_or_the_new_one() {
    const ROUNDS: u32 = 1_000_000;
    fn numbers<T: FromBytes + IntoBytes + Immutable + Copy + Eq + Send>(
        numbers: [T; 2],
    ) {
        let mut ram = Ram::new(0x1000);
        let region = ram.region();
        std::thread::scope(|scope| {
            let (write, read) = (&region, &region);
            write.set_object(64, &numbers[0]).unwrap();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let number = numbers[round as usize % 2];
                    write.set_object(64, &number).unwrap();
                }
            });
            for round in 0..ROUNDS {
                let number: T = read.object(64).unwrap();
                assert!(numbers.contains(&number), "at {round}");
            }
        });
    }
    numbers([0x12FF_u16, 0x1300]);
    numbers([0x12FF_FFFF_u32, 0x1300_0000]);
    numbers([0x12FF_FFFF_FFFF_FFFF_u64, 0x1300_0000_0000_0000]);
}
