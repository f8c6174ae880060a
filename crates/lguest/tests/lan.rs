//! Guests of several Launchers on one network, as users run them.
//!
//! The devices' own tests check the protocol. These check what a user of two
//! commands sees, and what remains when one of them is killed.

mod support;

use support::network::{self, Network};

#[test]
fn two_guests_talk() {
    let network = Network::new("two");
    let (mut a, mut b) = (network.guest(), network.guest());
    a.is_in_slot(0);
    b.is_in_slot(1);
    b.pings(0);
    b.sends(8, &mut a, 0);
    a.pings(1);
    a.ends();
    b.ends();
}

#[test]
fn a_file_that_becomes_shorter_is_named() {
    let network = Network::new("cut");
    let mut guest = network.guest();
    std::fs::write(&network.file, b"").unwrap();
    guest.types("net");
    let end = guest.0.finish();
    assert_eq!(end.code(), 1, "{end:?}");
    let said = "has become shorter while it was in use";
    assert!(end.stderr.contains(said), "{end:?}");
}

#[test]
fn three_guests_talk_each_with_each() {
    let network = Network::new("three");
    let mut guests = [0; 3].map(|_| network.guest());
    for (me, guest) in (0..).zip(&mut guests) {
        guest.is_in_slot(me);
        let others = (0..3).filter(|&slot| slot != me);
        others.for_each(|other| guest.pings(other));
    }
    for guest in guests {
        guest.ends();
    }
}

#[test]
fn a_new_guest_takes_the_slot_of_a_killed_one() {
    let network = Network::new("killed");
    let (mut a, mut b) = (network.guest(), network.guest());
    a.types("tcp-serve");
    a.0.wait_for("listening");
    b.types("tcp-send 10.0.0.1 4000");
    a.0.wait_for("connection from 10.0.0.2");
    std::thread::sleep(std::time::Duration::from_millis(200));
    b.0.signal(libc::SIGKILL);
    assert_eq!(b.0.finish().signal(), Some(libc::SIGKILL));

    // A Guest that waits for the killed one can still be stopped by ^C.
    a.0.type_in(b"\x03");
    a.says("echo", "alive");
    let mut c = network.guest();
    c.is_in_slot(1);
    c.pings(0);
    a.pings(1);
    c.ends();
    a.ends();
}

#[test]
fn a_launcher_that_is_stopped_does_not_block_others() {
    let network = Network::new("stopped");
    let (mut a, b) = (network.guest(), network.guest());
    let mut c = network.guest();
    b.0.signal(libc::SIGSTOP);
    b.0.wait_until_stopped();
    a.types("ping 10.0.0.2 1");
    a.0.wait_for("0 of 1 answered");
    c.pings(0);
    b.0.signal(libc::SIGCONT);
    c.0.wait_for("lguest> ");
    a.pings(1);
    a.ends();
    b.ends();
    c.ends();
}

#[test]
fn sixteen_guests_share_a_network_and_some_are_killed() {
    let network = Network::new("sixteen");
    let mut guests: Vec<_> = (0..16).map(|_| network.guest()).collect();
    for me in 0..16 {
        let next = (me + 1) % 16;
        guests[me as usize].pings(next);
    }
    // Some die, and their slots are taken by others: each has the lowest that
    // is free, so all must have ended before.
    for slot in [11, 7, 3] {
        let killed = guests.remove(slot);
        killed.0.signal(libc::SIGKILL);
        assert_eq!(killed.0.finish().signal(), Some(libc::SIGKILL));
    }
    guests[0].pings(15);
    for slot in [3, 7, 11] {
        let mut guest = network.guest();
        guest.is_in_slot(slot);
        guest.pings(slot + 1);
        guests.push(guest);
    }
    guests.into_iter().for_each(network::Guest::ends);
}
