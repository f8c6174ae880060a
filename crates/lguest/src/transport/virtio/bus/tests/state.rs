//! A bus goes on from the state of another one as if nothing had happened.

use super::*;
use crate::devices::net::nothing;
use crate::transport::virtio::VirtioNic;

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

/// A Guest that goes on reads the address that its interface has now, whatever
/// is in its memory.
#[test]
fn a_network_has_the_address_that_it_was_given() {
    for formats in [&FORMATS_2_6_24, &FORMATS_2_6_25] {
        let with = |last: u8, mtu: Option<u16>| {
            let nic = nothing::connect().unwrap();
            let nic = nic.with_mac([2, 0, 0, 0, 0, last]);
            let nic = match mtu {
                Some(mtu) => nic.with_mtu(mtu),
                None => nic,
            };
            let screen = machine(false).bus.screen;
            let guest = guest(2);
            let devices: Vec<Box<dyn VirtioDevice>> =
                vec![Box::new(VirtioNic::new(nic))];
            let bus = VirtioBus::with(formats, guest.clone(), devices, screen);
            (guest, bus.unwrap())
        };
        for mtu in [None, Some(9000)] {
            let (guest, bus) = with(7, mtu);
            let state = bus.state();
            let page = guest.bytes(RAM, PAGE as usize);
            let (after, bus) = with(9, mtu);
            after.put(RAM, &page);
            bus.restore(&state).unwrap();
            let mut wanted = page;
            let old = [2, 0, 0, 0, 0, 7];
            let at = wanted.windows(6).position(|six| six == old).unwrap();
            wanted[at + 5] = 9;
            assert!(after.bytes(RAM, PAGE as usize) == wanted);
        }
    }
}
