//! A bus goes on from the state of another one as if nothing had happened.

use super::*;

/// Memory that the Guest has, its rings included.
const LIMIT: usize = (RING + 4 * RING_BYTES) as usize;

#[test]
fn a_bus_goes_on_from_its_state() {
    let before = machine(false);
    let mut disk = before.driver(1);
    let data = (0x4000, 512);
    before.guest.put(0x4000, &[9; 512]);
    for _ in 0..3 {
        assert_eq!(before.ask(&mut disk, 1, 7, data, false), (0, 1));
    }
    let mut keys = before.driver(2);
    keys.offer(&[], &[(0x5000, 2)]);
    before.bus.notify(keys.at).unwrap();
    rustix::io::write(before.input.as_ref().unwrap(), b"typed").unwrap();
    before.bus.handle_input(2).unwrap();
    assert_eq!(before.guest.bytes(0x5000, 2), b"ty");

    let text = serde_json::to_string(&before.bus.state()).unwrap();
    let state = serde_json::from_str(&text).unwrap();
    // The lock of a disk goes with its device.
    drop(before.bus);
    let after = with_disk(before.disk, false);
    after.guest.put(0, &before.guest.bytes(0, LIMIT));
    after.bus.restore(&state).unwrap();
    assert_eq!(after.bus.state(), state);

    // The drivers go on where they were in their rings.
    let mut disk = disk.of(&after.guest);
    let mut keys = keys.of(&after.guest);
    assert_eq!(after.ask(&mut disk, 0, 7, data, true), (0, 513));
    assert_eq!(after.guest.bytes(0x4000, 512), [9; 512]);
    assert_eq!(disk.used().len(), 4);
    // Waiting input comes first, and the queue is ready without another
    // notification.
    keys.offer(&[], &[(0x6000, 10)]);
    after.bus.handle_input(2).unwrap();
    assert_eq!(after.guest.bytes(0x6000, 3), b"ped");
    assert_eq!(keys.used()[1].1, 3);
    assert_eq!(counted(after, "writes"), 3);
}

#[test]
fn a_reset_queue_stays_reset() {
    let before = machine(false);
    let mut driver = before.driver(2);
    driver.offer(&[], &[(0x5000, 8)]);
    let state = before.bus.state();
    let after = machine(false);
    after.guest.put(0, &before.guest.bytes(0, LIMIT));
    after.bus.restore(&state).unwrap();
    // No driver has said that it is ready.
    rustix::io::write(after.input.as_ref().unwrap(), b"typed").unwrap();
    after.bus.handle_input(2).unwrap();
    assert!(driver.of(&after.guest).used().is_empty());
}
