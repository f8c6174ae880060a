//! Rings of honest drivers, and of hostile ones.

use super::*;
use crate::engine::{Requests, Scripted};
use crate::transport::virtio::testing::{Driver, RAM, RING, guest};
use proptest::prelude::*;
use std::sync::Arc;

fn ring() -> (Arc<Scripted>, Driver, Ring) {
    let guest = guest(1);
    let driver = Driver::new(&guest, RING);
    let ring = Ring::new(guest.memory().clone(), Place::of_generation_2(RING));
    (guest, driver, ring)
}

fn pieces(sections: &[Section]) -> Vec<(u32, u32)> {
    sections.iter().map(|s| (s.addr(), s.len())).collect()
}

#[test]
fn a_ring_has_the_size_that_linux_gives_it() {
    assert_eq!(RING_BYTES, 3 * 4096);
}

#[test]
fn a_chain_is_taken_once_and_answered() {
    let (_guest, mut driver, mut ring) = ring();
    assert_eq!(ring.take(), Ok(None));
    let head = driver.offer(&[(0x1000, 16)], &[(0x2000, 512), (0x3000, 1)]);
    let chain = ring.take().unwrap().unwrap();
    assert_eq!(pieces(&chain.readable), [(0x1000, 16)]);
    assert_eq!(pieces(&chain.writable), [(0x2000, 512), (0x3000, 1)]);
    assert_eq!(ring.take(), Ok(None));
    assert_eq!(ring.answer([(chain.head(), 513)].into_iter()), Ok(true));
    assert_eq!(driver.used(), [(head.into(), 513)]);
    driver.want_interrupts(false);
    driver.offer(&[], &[(0x2000, 4)]);
    let chain = ring.take().unwrap().unwrap();
    assert_eq!(ring.answer([(chain.head(), 4)].into_iter()), Ok(false));
}

#[test]
fn indices_go_round() {
    let (_guest, mut driver, mut ring) = ring();
    for n in 0..70_000_u32 {
        driver.offer(&[(0x1000, n % 100)], &[]);
        let chain = ring.take().unwrap().expect("it was offered");
        assert_eq!(pieces(&chain.readable), [(0x1000, n % 100)]);
        ring.answer([(chain.head(), n)].into_iter()).unwrap();
    }
    assert_eq!(ring.take(), Ok(None));
}

#[test]
fn a_chain_that_was_put_back_is_taken_again() {
    let (_guest, mut driver, mut ring) = ring();
    driver.offer(&[], &[(0x2000, 4)]);
    let first = ring.take().unwrap();
    ring.put_back();
    assert_eq!(ring.take().unwrap(), first);
}

/// What a hostile driver writes, and the reason that ends its Guest.
#[test]
fn what_cannot_be_is_a_violation() {
    type Hostile = fn(&mut Driver);
    let cases: [(&str, Hostile); 7] = [
        ("257 chains wait", |d| d.say_available(257)),
        ("a chain with a loop", |d| {
            d.describe(0, (0x1000, 1), 1, 1);
            d.describe(1, (0x1000, 1), 1, 0);
            d.offer_head(0);
        }),
        ("a descriptor that does not exist", |d| d.offer_head(256)),
        ("a descriptor that does not exist", |d| {
            d.describe(0, (0x1000, 1), 1, 0xFFFF);
            d.offer_head(0);
        }),
        ("memory above 4 GiB", |d| {
            d.describe(0, (1 << 32, 1), 0, 0);
            d.offer_head(0);
        }),
        ("bad physical address", |d| {
            d.describe(0, (u64::from(RAM) - 1, 0xFFFF_FFFF), 0, 0);
            d.offer_head(0);
        }),
        ("data for the device after its answer", |d| {
            d.describe(0, (0x1000, 1), 3, 1);
            d.describe(1, (0x1000, 1), 0, 0);
            d.offer_head(0);
        }),
    ];
    for (words, hostile) in cases {
        let (_guest, mut driver, mut ring) = ring();
        hostile(&mut driver);
        let violation = ring.take().unwrap_err().to_string();
        assert!(violation.contains(words), "{violation}");
    }
}

proptest! {
    #[test]
    fn no_bytes_in_a_ring_lead_outside_of_memory(
        bytes in prop::collection::vec(any::<u8>(), 4096 + 516),
        takes in 0..300_usize,
    ) {
        let (guest, _, mut ring) = ring();
        guest.put(RING, &bytes);
        for _ in 0..takes {
            let Ok(Some(chain)) = ring.take() else { break };
            let count = chain.readable.len() + chain.writable.len();
            prop_assert!((1..=256).contains(&count));
            for section in chain.readable.iter().chain(&chain.writable) {
                let end = section.addr().checked_add(section.len());
                prop_assert!(end.is_some_and(|e| e <= guest.memory().limit()));
            }
            ring.answer([(chain.head(), 0)].into_iter()).unwrap();
        }
    }
}
