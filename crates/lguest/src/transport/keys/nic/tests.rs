//! A tap in a network namespace of the test's own.
//!
//! The kernel of the machine answers at the other end. A namespace belongs to a
//! thread, and each test has one to itself, so nothing else sends frames there.

#![expect(unsafe_code, reason = "a network namespace of one's own")]

use super::super::lan::tests::*;
use super::*;
use crate::engine::Scripted;
use crate::machine::config::TapConfig;
use crate::transport::DeviceState;
use lg_abi::dma::Dma;
use rustix::thread::UnshareFlags;
use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Tests that could not run, because they need a privilege.
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Moves this thread into a network of its own. If that is not allowed, says so
/// by name and returns false.
fn own_network(test: &str) -> bool {
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    let unshare = || {
        // SAFETY: a network namespace takes nothing from this thread that
        // any code relies on; descriptors stay what they are.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
    };
    let done = tun.is_ok() && unshare().is_ok();
    if !done {
        let n = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
        println!("SKIPPED ({n}) {test}: needs root and /dev/net/tun");
    }
    done
}

fn ip(arguments: &str) -> String {
    let out = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("iproute2 is installed where root runs tests");
    assert!(out.status.success(), "ip {arguments}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// An interface at `ip` with a netmask of 24 bits.
fn at(ip: [u8; 4]) -> TapConfig {
    TapConfig::Address(ip.into(), 24)
}

fn tap(config: &TapConfig) -> (Arc<Scripted>, KeyedNic) {
    let host = scripted();
    let mut tap = KeyedNic::new(
        crate::devices::net::Tap::open(config, None, None).unwrap(),
    );
    let place = Place {
        index: 0,
        page: PAGE,
        irq: IRQ,
    };
    tap.place(host.clone(), place).unwrap();
    (host, tap)
}

/// An ARP request for `ip` from 192.168.19.2.
fn who_has(ip: [u8; 4]) -> Vec<u8> {
    let guest = [2, 0, 0, 1, 0, 0];
    let mut frame = vec![0xFF; 6];
    frame.extend(guest);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(guest);
    frame.extend([192, 168, 19, 2]);
    frame.extend([0; 6]);
    frame.extend(ip);
    frame.resize(60, 0);
    frame
}

#[test]
fn the_machine_answers_the_guest() {
    if !own_network("the_machine_answers_the_guest") {
        return;
    }
    let (host, mut tap) = tap(&at([192, 168, 19, 1]));
    assert!(ip("-4 addr show").contains("192.168.19.1/24 "));
    let link = ip("-o link show tap0");
    assert!(link.contains("UP"), "{link}");
    // Slot 0 is the machine's address, promiscuous.
    let mut mac = [0; 6];
    host.memory().read(PAGE, &mut mac).unwrap();
    mac[0] &= !1;
    let shown = mac.map(|b| format!("{b:02x}")).join(":");
    assert!(link.contains(&shown), "{link} has not {shown}");
    assert_eq!(tap.description().features, 0x8001);
    // Before the Guest has bound anything, frames to it are dropped.
    assert_eq!(tap.handle_input(), Ok(Readiness::Wait));
    host.bind_buffers(1, 2);
    host.prepare(&who_has([192, 168, 19, 1]));
    assert_eq!(tap.send(SEND, key(1)).unwrap().bytes, 0, "to itself");
    assert_eq!(tap.send(SEND, key(0)).unwrap().bytes, 60);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "there is no answer");
        let _ = tap.handle_input().unwrap();
        let answer = (0..2).find_map(|i| host.take(i));
        if answer.is_some_and(|a| a[12..14] == [8, 6] && a[21] == 2) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(host.wait_irq(), Some(IRQ));
    // While every buffer is full, a new frame waits.
    for at in [RING, RING + Dma::SIZE] {
        host.memory().write_object(at, &1_u32).unwrap();
    }
    assert_eq!(tap.send(SEND, key(0)).unwrap().bytes, 60);
    while tap.handle_input() == Ok(Readiness::Wait) {
        assert!(Instant::now() < deadline, "there is no answer");
    }
    assert_eq!(
        tap.handle_input(),
        Ok(Readiness::NoBuffer {
            took: false,
            watch: false,
        })
    );
    host.change_bindings(Vec::clear);
    assert_eq!(tap.handle_input(), Ok(Readiness::Wait));
}

#[test]
fn a_tap_can_be_a_port_of_a_bridge() {
    if !own_network("a_tap_can_be_a_port_of_a_bridge") {
        return;
    }
    let config = TapConfig::Bridge("lgbr".to_owned());
    let missing = crate::devices::net::Tap::open(&config, None, None)
        .err()
        .unwrap();
    assert_eq!(
        missing.to_string(),
        "there is no bridge lgbr: `ip link add lgbr type bridge` makes one"
    );
    ip("link add lgbr type bridge");
    let (_host, _tap) = tap(&config);
    let link = ip("-o link show tap0");
    assert!(link.contains("master lgbr"), "{link}");
}

#[test]
fn a_bad_list_of_either_direction_is_a_violation() {
    if !own_network("a_bad_list_of_either_direction_is_a_violation") {
        return;
    }
    let (host, mut tap) = tap(&at([192, 168, 19, 1]));
    host.bind_buffers(1, 1);
    host.prepare(&who_has([192, 168, 19, 1]));
    assert_eq!(tap.send(SEND, key(0)).unwrap().bytes, 60);
    host.memory().write_object(SEND + 4, &0xFFF_u32).unwrap();
    assert!(tap.send(SEND, key(0)).is_err());
    host.memory().write_object(RING + 4, &0xFFF_u32).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while tap.handle_input().is_ok() {
        assert!(Instant::now() < deadline, "there is no answer");
    }
}

#[test]
fn the_state_of_a_tap_is_what_it_has_counted() {
    if !own_network("the_state_of_a_tap_is_what_it_has_counted") {
        return;
    }
    let config = at([192, 168, 19, 1]);
    let (host, mut before) = tap(&config);
    host.prepare(&who_has([192, 168, 19, 1]));
    assert_eq!(before.send(SEND, key(0)).unwrap().bytes, 60);
    let text = serde_json::to_string(&before.device().state()).unwrap();
    let state: DeviceState = serde_json::from_str(&text).unwrap();
    let (_host, mut after) = tap(&at([192, 168, 20, 1]));
    after.device().restore(&state).unwrap();
    assert_eq!(after.device().state(), before.device().state());
    assert!(after.device().counters().contains(&("bytes_sent", 60)));
}

#[test]
fn a_tap_may_be_given_as_a_descriptor() {
    if !own_network("a_tap_may_be_given_as_a_descriptor") {
        return;
    }
    let nic =
        crate::devices::net::Tap::open(&at([192, 168, 19, 1]), None, None)
            .unwrap();
    let file = nic.input().try_clone_to_owned().unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::IntoRawFd::into_raw_fd(file);
    let given = TapConfig::Given(number);
    let again =
        crate::devices::net::Tap::open(&given, Some(9000), None).unwrap();
    assert_eq!(again.far(), nic.far());
    let other = File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&other, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::IntoRawFd::into_raw_fd(other);
    let refused =
        crate::devices::net::Tap::open(&TapConfig::Given(number), None, None);
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("is not a tap interface"), "{refused}");
}

#[test]
fn the_netmask_is_the_one_that_was_given() {
    if !own_network("the_netmask_is_the_one_that_was_given") {
        return;
    }
    for bits in [0, 8, 24, 30, 32] {
        let config = TapConfig::Address([10, 1, 2, 1].into(), bits);
        let (_host, _tap) = tap(&config);
        let shown = ip("-4 addr show");
        let expected = format!("10.1.2.1/{bits} ");
        assert!(shown.contains(&expected), "{expected}: {shown}");
    }
}

#[test]
fn the_mtu_is_the_one_that_was_given() {
    if !own_network("the_mtu_is_the_one_that_was_given") {
        return;
    }
    for mtu in [576, 1500, 9000] {
        let open = crate::devices::net::Tap::open;
        let nic = open(&at([192, 168, 19, 1]), Some(mtu), None).unwrap();
        // The one before may still be there, in a process that another test
        // has just forked. So this one is known by its address.
        let links = ip("-o link show");
        let address = nic.far().map(|byte| format!("{byte:02x}")).join(":");
        let link = links.lines().find(|link| link.contains(&address));
        let link = link.unwrap_or_else(|| panic!("no {address}: {links}"));
        assert!(link.contains(&format!(" mtu {mtu} ")), "{link}");
        drop(nic);
    }
}

/// A Guest that goes on knows the address of the other end.
#[test]
fn the_other_end_has_the_address_that_was_given() {
    if !own_network("the_other_end_has_the_address_that_was_given") {
        return;
    }
    let mac = [2, 0, 0, 1, 2, 3];
    let open = crate::devices::net::Tap::open;
    let nic = open(&at([192, 168, 19, 1]), None, Some(mac)).unwrap();
    let link = ip("-o link show tap0");
    assert!(link.contains("02:00:00:01:02:03"), "{link}");
    assert_eq!(nic.far(), mac);
}
