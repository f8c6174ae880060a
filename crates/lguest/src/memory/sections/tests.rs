//! Copies by sections, against copies of one byte after the other.

use super::super::GuestMemory;
use super::*;
use lg_abi::page::PAGE_SIZE;
use proptest::prelude::*;

const PAGES: u32 = 8;
const BYTES: u32 = PAGES * PAGE_SIZE;

#[test]
fn a_request_is_cut_to_its_first_bytes() {
    let memory = GuestMemory::new(BYTES, 0).unwrap();
    let section = |addr, len| memory.section(addr, len).unwrap();
    let all = [section(0, 100), section(500, 100), section(9, 1)];
    assert_eq!(total(&all), 201);
    let first = [section(0, 100), section(500, 50), section(9, 0)];
    assert_eq!(truncated(&all, 150), first);
    assert_eq!(truncated(&all, 1000), all);
}

/// Sections that may lie anywhere inside a page, and may overlap.
fn lists() -> impl Strategy<Value = Vec<(u32, u32)>> {
    let section = (0..PAGES, 0..PAGE_SIZE, 1..=PAGE_SIZE).prop_map(
        |(page, offset, len)| {
            let len = len.min(PAGE_SIZE - offset);
            (page * PAGE_SIZE + offset, len)
        },
    );
    prop::collection::vec(section, 0..=16)
}

/// The expected result of a transfer, byte by byte.
fn oracle(
    from: &[u8],
    source: &[(u32, u32)],
    into: &mut [u8],
    target: &[(u32, u32)],
) -> u32 {
    let each = |list: &[(u32, u32)]| {
        list.iter()
            .flat_map(|&(addr, len)| addr..addr + len)
            .collect::<Vec<_>>()
    };
    let mut total = 0;
    for (s, t) in each(source).into_iter().zip(each(target)) {
        into[t as usize] = from[s as usize];
        total += 1;
    }
    total
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_copy_is_what_the_oracle_says(
        source in lists(),
        target in lists(),
        seed in any::<u8>(),
    ) {
        let (a, b) = (
            GuestMemory::new(BYTES, 0).unwrap(),
            GuestMemory::new(BYTES, 0).unwrap(),
        );
        // No two pages alike, as 251 is prime.
        let from: Vec<u8> = (0..251)
            .cycle()
            .map(|i: u8| i ^ seed)
            .take(BYTES as usize)
            .collect();
        a.write(0, &from).unwrap();
        let mut want = vec![0; BYTES as usize];
        let total = oracle(&from, &source, &mut want, &target);
        let list = |memory: &GuestMemory, list: &[(u32, u32)]| {
            let section = |&(addr, len)| memory.section(addr, len).unwrap();
            list.iter().map(section).collect::<Vec<_>>()
        };
        let (source, target) = (list(&a, &source), list(&b, &target));
        // A copy by way of our own bytes gives the same result.
        let bytes = gather(a.region(), &source).unwrap();
        let put = scatter(b.region(), &target, &bytes).unwrap();
        prop_assert_eq!(put, total as usize);
        let mut got = vec![0; BYTES as usize];
        b.read(0, &mut got).unwrap();
        prop_assert!(got == want, "bytes differ");
        b.write(0, &vec![0; BYTES as usize]).unwrap();
        let copied = SectionsIn {
            region: a.region(),
            list: &source,
        }
        .copy(SectionsIn {
            region: b.region(),
            list: &target,
        });
        prop_assert_eq!(copied, Ok(total));
        let mut got = vec![0; BYTES as usize];
        b.read(0, &mut got).unwrap();
        prop_assert!(got == want, "bytes differ");
    }
}
