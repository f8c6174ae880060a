//! Tests of a port: bindings, lock and doorbell.
//!
//! Owner and sender are both in this process.

use super::mapped::PATIENCE;
use super::*;
use std::time::Instant;

const PAGE: u32 = 0x5000;

fn binding(key: u32, dmas: u32, irq: u8) -> Binding {
    let key = PAGE + key;
    Binding {
        key,
        dmas,
        num: 8,
        irq,
    }
}

#[test]
fn a_binding_is_found_until_it_is_removed() {
    let port = Port::create().unwrap();
    let (a, b) = (binding(4, 0x100, 2), binding(8, 0x200, 3));
    port.show(PAGE, &[a, b]);
    let peer = SharedPort::open(port.file()).unwrap();
    let at = peer.find(8).unwrap();
    let claim = peer.lock(7, true).unwrap().binding(at, 8).unwrap();
    assert_eq!((claim.dmas, claim.num, claim.cursor), (0x200, 8, 0));
    port.show(PAGE, &[a]);
    assert_eq!(peer.find(8), None);
    assert!(peer.lock(7, true).unwrap().binding(at, 8).is_none());
    assert!(peer.find(4).is_some());
}

#[test]
fn a_binding_that_stays_keeps_its_cursor_and_its_bit() {
    let port = Port::create().unwrap();
    let (a, b) = (binding(4, 0x100, 2), binding(8, 0x200, 3));
    port.show(PAGE, &[a, b]);
    let at = port.shared.find(4).unwrap();
    port.shared.lock(7, true).unwrap().advance(at);
    port.show(PAGE, &[binding(12, 0x300, 5), a]);
    assert_eq!(port.shared.find(4), Some(at));
    let claim = port.shared.lock(7, true).unwrap().binding(at, 4).unwrap();
    assert_eq!(claim.cursor, 1);
}

#[test]
fn rings_become_the_owners_interrupts_and_no_others() {
    let port = Port::create().unwrap();
    port.show(PAGE, &[binding(4, 0x100, 2)]);
    let at = port.shared.find(4).unwrap();
    port.shared.ring(at, false);
    port.shared.ring(at, false);
    port.shared.ring(31, false);
    assert_eq!(port.arrived().collect::<Vec<_>>(), [2]);
    assert_eq!(port.arrived().count(), 0);
}

#[test]
fn the_wait_for_a_lock_is_bounded() {
    let port = Port::create().unwrap();
    let held = port.shared.lock(7, true).unwrap();
    let start = Instant::now();
    assert!(port.shared.lock(8, true).is_none());
    assert!(start.elapsed() >= PATIENCE);
    drop(held);
    assert!(port.shared.lock(8, true).is_some());
}

#[test]
fn only_the_lock_of_a_dead_holder_is_revoked() {
    let port = Port::create().unwrap();
    std::mem::forget(port.shared.lock(7, true).unwrap());
    port.revoke(8);
    assert!(port.shared.lock(9, true).is_none());
    port.revoke(7);
    assert!(port.shared.lock(9, true).is_some());
}

#[test]
fn a_ring_ends_the_sleep() {
    let port = Port::create().unwrap();
    port.show(PAGE, &[binding(4, 0x100, 2)]);
    std::thread::scope(|s| {
        let sleeper = s.spawn(|| {
            loop {
                if let Some(irq) = port.arrived().next() {
                    return irq;
                }
                port.sleep(&[], None);
            }
        });
        port.shared.ring(0, false);
        assert_eq!(sleeper.join().unwrap(), 2);
    });
}
