//! The built-in Guest with virtio devices: its drivers, and its shell.

use crate::support::later::{LATER, Later, ON_PCI};
use crate::support::network::Network;
use crate::support::{Finished, Running, Scratch, built_in, lguest, run};
use std::process::Command;

/// The built-in Guest as one of a later release, with a disk of 64 KiB.
fn command(later: Later, scratch: &Scratch, options: &[&str]) -> Command {
    let mut disk = vec![0; 0x1_0000];
    disk[512..].fill(0xAA);
    let mut command = lguest();
    command.args(["run", "--append=quiet", "--kernel"]);
    command.arg(later.of(&built_in(), scratch));
    command.arg("--disk").arg(scratch.file("disk", &disk));
    command.args(options);
    command
}

fn boot(later: Later, options: &[&str], typed: &str) -> Finished {
    let scratch = Scratch::new("built-in");
    run(&mut command(later, &scratch, options), typed.as_bytes())
}

/// Runs a program and uses all devices, which are at these places.
fn uses_its_devices(later: Later, places: [&str; 3]) {
    for isolation in ["--isolation=guest", "--isolation=user"] {
        let typed = "devices\ndd 0 100 yes\nrun primes 100\npoweroff 7\n";
        let options = [isolation, "--stats=-"];
        let finished = boot(later, &options, typed).ends_well(7);
        let said = finished.stdout;
        let others = [
            "51200 bytes: written at",
            "result 25",
            "{\"type\": \"random\"",
            "{\"type\": \"block\", \"reads\": ",
            "{\"type\": \"console\", \"bytes_in\": ",
        ];
        for wanted in places.into_iter().chain(others) {
            assert!(said.contains(wanted), "{}: {said}", later.release);
        }
    }
}

#[test]
fn each_later_release_runs_programs_and_uses_its_devices() {
    for later in LATER {
        let places = [" random     1 ", " block      2 ", " console    3 "];
        uses_its_devices(later, places);
    }
}

#[test]
fn releases_with_a_pci_bus_run_programs_and_use_their_devices() {
    for later in ON_PCI {
        let places = [" console    1 ", " random     2 ", " block      3 "];
        uses_its_devices(later, places);
    }
}

/// The counters of a Guest that has written half a megabyte to its disk and
/// read it back, by requests of 64 KiB.
fn reads_back(later: Later, disk: &str, options: &[&str]) -> String {
    // Of a disk that fails, the first request does.
    let typed = b"dd 3 1 yes\ndd 3 1024 yes\npoweroff\n";
    let scratch = Scratch::new("reads");
    let file = scratch.file("disk", &[0; 1 << 20]);
    let mut command = lguest();
    command.args(["run", "--append=quiet", "--stats=-", "--kernel"]);
    command.arg(later.of(&built_in(), &scratch));
    let disk = format!("--disk={}{disk}", file.display());
    command.arg(disk).args(options);
    let said = run(&mut command, typed).ends_well(0);
    assert!(said.stdout.contains("524288 bytes: written"), "{said:?}");
    said.stdout
}

#[test]
fn the_host_answers_reads_of_a_disk() {
    if !crate::hosts_read("the_host_answers_reads_of_a_disk") {
        return;
    }
    for later in LATER.into_iter().chain(ON_PCI) {
        for isolation in ["--isolation=guest", "--isolation=user"] {
            let said = reads_back(later, "", &[isolation]);
            // The first ones come after a flush, which a thread carries out.
            let count = "\"disk_reads\": 7,";
            assert!(said.contains(count), "{}: {said}", later.release);
            let bytes = "\"bytes_read\": 524800,";
            assert!(said.contains(bytes), "{}: {said}", later.release);
        }
    }
}

/// Where a request has to pass something in front of the file, or may not be
/// answered at once, the Launcher answers all of them.
#[test]
fn the_host_answers_no_reads_where_it_must_not() {
    for (disk, option) in [
        ("", "--no-fast-path=disk-reads"),
        ("", "--no-fast-path=disk-at-once"),
        ("", "--io-limit=100M"),
        (",fail=1000000", "--isolation=guest"),
        (",snapshot", "--isolation=guest"),
    ] {
        for later in [LATER[0], ON_PCI[0]] {
            let said = reads_back(later, disk, &[option]);
            assert!(!said.contains("\"disk_reads\""), "{option}: {said}");
        }
    }
}

#[test]
fn random_numbers_come_from_the_launcher() {
    let typed = "random\nrandom\npoweroff\n";
    let said = boot(LATER[0], &[], typed).ends_well(0).stdout;
    let numbers: Vec<&str> = said
        .split_whitespace()
        .filter(|w| w.len() == 32 && w.bytes().all(|b| b.is_ascii_hexdigit()))
        .collect();
    let [first, second] = numbers[..] else {
        panic!("two numbers of 16 bytes: {said}");
    };
    assert_ne!(first, second);
    assert!(![first, second].contains(&"0".repeat(32).as_str()));
}

/// A program that only computes is interrupted by typed keys.
#[test]
fn a_key_interrupts_a_program() {
    let scratch = Scratch::new("interrupted");
    let mut guest = Running::start(&mut command(LATER[0], &scratch, &[]));
    guest.wait_for("lguest> ");
    guest.type_in(b"run primes 4000000000\n");
    guest.wait_for("primes 4000000000");
    guest.type_in(b"\x03");
    guest.wait_for("run: ^C");
    guest.type_in(b"poweroff\n");
    guest.finish().ends_well(0);
}

#[test]
fn all_keys_of_a_long_paste_arrive() {
    let line = format!("echo {}\n", "0123456789abcdef".repeat(15));
    let typed = line.repeat(80) + "poweroff\n";
    let said = boot(LATER[0], &[], &typed).ends_well(0).stdout;
    let wanted = line.trim_start_matches("echo ").trim_end();
    let answers = said.lines().filter(|said| said.trim_end() == wanted);
    assert_eq!(answers.count(), 80, "{said}");
}

/// A Guest of 2007 and one with virtio devices have the same network.
#[test]
fn two_generations_talk_on_one_network() {
    let network = Network::new("generations");
    let mut old = network.guest();
    let mut new = network.later_guest(LATER[0]);
    old.is_in_slot(0);
    new.is_in_slot(1);
    new.pings(0);
    old.pings(1);
    new.sends(2, &mut old, 0);
    old.sends(2, &mut new, 1);
    old.ends();
    new.ends();
}

/// The oldest and the newest interface with virtio.
#[test]
fn two_later_releases_talk_on_one_network() {
    let network = Network::new("releases");
    let mut newest = network.later_guest(LATER[0]);
    let mut oldest = network.later_guest(LATER[4]);
    newest.is_in_slot(0);
    oldest.is_in_slot(1);
    oldest.pings(0);
    newest.pings(1);
    newest.ends();
    oldest.ends();
}

/// One with devices on a PCI bus, whose frames have a longer header.
#[test]
fn guests_on_both_buses_talk_on_one_network() {
    let network = Network::new("buses");
    let mut pci = network.later_guest(ON_PCI[0]);
    let mut old = network.guest();
    pci.is_in_slot(0);
    old.is_in_slot(1);
    old.pings(0);
    pci.pings(1);
    pci.sends(2, &mut old, 1);
    old.sends(2, &mut pci, 0);
    pci.ends();
    old.ends();
}
