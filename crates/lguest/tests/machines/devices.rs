//! A device is taken away from a machine that runs.

use crate::place::Place;
use crate::support::later::LATER;
use crate::support::{PATIENCE, Scratch, built_in};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

/// The options for the built-in guest, as one of 2007 and as one of a later
/// release.
fn guests(scratch: &Scratch) -> [String; 2] {
    let later = LATER[0].of(&built_in(), scratch);
    [String::new(), format!("--kernel {}", later.display())]
}

#[test]
fn a_removed_disk_gives_errors_and_its_file_is_free() {
    for guest in guests(&Scratch::new("removed-kernel")) {
        let scratch = Scratch::new("removed-disk");
        let place = Place::new("removed-disk-place");
        let disk = scratch.file("disk", &[0; 64 * 512]);
        let options = format!("{guest} --disk {}", disk.display());
        place.start_with("web", &options);
        place.type_in("web", "dd 3 8 yes");
        place.wait_for("web", "read back the same");
        let before = place.done("device list web");
        assert!(before.contains("disk0    there    /"), "{before}");
        let other = format!("run --name other {options}");
        place.fails(120, &other);

        place.done("device remove web disk0");
        let after = place.done("device list web");
        assert!(after.contains("disk0    removed  /"), "{after}");
        let json = place.done("device list web --json");
        assert!(json.contains("\"removed\": true"), "{json}");
        place.start_with("other", &options);
        place.type_in("web", "dd 3 8 yes");
        // "the device has been removed", or "the disk could not do it".
        place.wait_for("web", "\ndd: the d");
        // The guest goes on.
        place.done("send web uptime");
        place.wait_for("web", "\nup ");
        let said = place.fails(126, "device remove web disk0");
        assert!(said.contains("disk0 was removed before"), "{said}");
        let said = place.fails(126, "device remove web disk1");
        assert!(said.contains("'disk1': they are disk0"), "{said}");
        let folder = scratch.path("snapshot");
        let snapshot = format!("snapshot web {}", folder.display());
        let said = place.fails(126, &snapshot);
        assert!(said.contains("its disk0 was removed"), "{said}");
        place.done("stop web");
    }
}

/// Waits for the other end of a stream to be closed. A connection that was not
/// accepted before is reset.
fn ends(mut stream: UnixStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_removed_network_closes_its_other_end() {
    for guest in guests(&Scratch::new("unplugged-kernel")) {
        let scratch = Scratch::new("unplugged");
        let place = Place::new("unplugged-place");
        let socket = scratch.path("socket");
        let net = format!("--net stream=unix:{},server", socket.display());
        place.start_with("web", &format!("{guest} {net}"));
        let stream = UnixStream::connect(&socket).unwrap();
        place.done("device remove web net0");
        ends(stream);
        assert!(UnixStream::connect(&socket).is_err());
        // Frames of the guest are lost, and it goes on.
        place.type_in("web", "ping 10.0.0.9 1");
        place.wait_for("web", "0 of 1 answered");
        // A snapshot has an interface without a network.
        let folder = scratch.path("snapshot");
        place.done(&format!("snapshot web {}", folder.display()));
        place.done("stop web");
        let restore = "restore --net none --detach --name again";
        place.done(&format!("{restore} {}", folder.display()));
        place.done("stop again");
    }
}

/// The first place of a network is free again.
#[test]
fn a_removed_guest_leaves_its_network() {
    for guest in guests(&Scratch::new("left-kernel")) {
        let scratch = Scratch::new("left");
        let place = Place::new("left-place");
        let lan = scratch.file("lan", &[0; 4096]);
        let options = format!("{guest} --net sharenet={}", lan.display());
        let is_first = |name: &str| {
            place.done(&format!("send {name} net"));
            place.wait_for(name, "slot 0, ");
        };
        place.start_with("one", &options);
        is_first("one");
        place.done("device remove one net0");
        place.start_with("two", &options);
        is_first("two");
        place.done("send one uptime");
        place.wait_for("one", "\nup ");
        place.done("stop one");
        place.done("stop two");
    }
}

#[test]
fn a_machine_without_devices_has_none_to_remove() {
    let place = Place::new("no-devices");
    place.start("web");
    let list = place.done("device list web");
    assert_eq!(list, "DEVICE   STATE    WHAT\n");
    let said = place.fails(126, "device remove web disk0");
    assert!(said.contains("has no device that can be removed"), "{said}");
    place.done("stop web");
}
