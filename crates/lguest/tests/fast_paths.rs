//! Fast paths: with and without each, the result is the same.
//!
//! The built-in guest runs user programs at boot: system calls, pages on
//! demand, several page directories. Without any one fast path, and without all
//! of them, its output must be the same.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

use lg_wire::fast_path;
mod support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use support::{Running, Scratch};

/// Runs the Guest. Returns its report about user programs without the times,
/// and the counters.
fn run_without(names: &[&str]) -> (String, String) {
    let stats = std::env::temp_dir().join(format!(
        "lguest-fast-paths-{}-{}.json",
        std::process::id(),
        names.concat()
    ));
    let mut command = support::lguest();
    command.arg("--stats").arg(&stats);
    for name in names {
        command.args(["--no-fast-path", name]);
    }
    let mut run = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    run.stdin.take().unwrap().write_all(b"poweroff\n").unwrap();
    let run = run.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(0), "without {names:?}");
    let said = String::from_utf8(run.stdout).unwrap();
    let programs = said.lines().find_map(|line| line.split_once("user mode: "));
    let (_, programs) = programs.unwrap();
    let (programs, _time) = programs.rsplit_once(',').unwrap();
    let counters = std::fs::read_to_string(&stats).unwrap();
    std::fs::remove_file(&stats).unwrap();
    (programs.to_owned(), counters)
}

#[test]
fn without_a_fast_path_the_guest_prints_the_same() {
    let (programs, counters) = run_without(&[]);
    for counter in [
        "iret_trampolines",
        "hypercall_trampolines",
        "eager_maps",
        "copy_calls",
    ] {
        let counter = format!("\"{counter}\"");
        assert!(counters.contains(&counter), "{counter} in {counters}");
    }
    for (name, _) in fast_path::ALL {
        assert_eq!(run_without(&[name]).0, programs, "without {name}");
    }
}

#[test]
fn without_all_fast_paths_none_is_taken() {
    let names = fast_path::ALL.map(|(name, _)| name);
    let (_, counters) = run_without(&names);
    for counter in [
        "iret_trampolines",
        "hypercall_trampolines",
        "eager_maps",
        "linear_maps",
        "patches",
        "copy_calls",
        "crossings_in",
        "crossings_out",
        "crossings_back",
        "near_calls",
        "clocks_told",
    ] {
        let counter = format!("\"{counter}\"");
        assert!(!counters.contains(&counter), "{counter} in {counters}");
    }
}

/// Whether the machine's time-stamp counter runs at one speed at all times.
fn has_invariant_counter() -> bool {
    use std::arch::x86_64::__cpuid;
    const POWER: u32 = 0x8000_0007;
    __cpuid(0x8000_0000).eax >= POWER && __cpuid(POWER).edx & 1 << 8 != 0
}

#[test]
fn clocks_are_told_by_the_counter_if_they_may() {
    let test = "clocks_are_told_by_the_counter_if_they_may";
    if !has_invariant_counter() {
        return support::skip(test, "the time-stamp counter is no clock");
    }
    for (option, told) in
        [("--isolation=guest", true), ("--no-fast-path=clock", false)]
    {
        let said = uses_its_disk(&support::built_in(), option);
        let is_told = said.contains("\"clocks_told\"");
        assert_eq!(is_told, told, "{said}");
    }
}

/// Runs a Guest that writes to its disk and reads that back, with many
/// interrupts, one soon after the other. Returns what it said, and its
/// counters.
fn uses_its_disk(kernel: &Path, option: &str) -> String {
    let scratch = Scratch::new("interrupts");
    let disk = scratch.file("disk", &[0; 1 << 20]);
    let mut command = support::lguest();
    command.args(["run", "--append=quiet", "--stats=-", option]);
    command.arg("--kernel").arg(kernel).arg("--disk").arg(disk);
    let typed = b"dd 3 1024 yes\nrun primes 100\npoweroff\n";
    let said = support::run(&mut command, typed).ends_well(0).stdout;
    assert!(said.contains("read back the same"), "{said}");
    assert!(said.contains("result 25"), "{said}");
    said
}

/// Linux stores all of its saved flags on its way back. The built-in kernel
/// takes one of them, and goes the slow way. Without that instruction it does
/// as Linux does.
#[test]
fn a_kernel_goes_back_by_itself_if_it_may() {
    // push %eax; mov 12(%esp),%eax; and $IF,%eax; mov %eax,%ss:...
    const BEFORE: [u8; 5] = [0x50, 0x8B, 0x44, 0x24, 12];
    const AND: [u8; 5] = [0x25, 0, 2, 0, 0];
    const BEHIND: [u8; 2] = [0x36, 0xA3];
    let mut image = std::fs::read(support::built_in()).unwrap();
    let code = [&BEFORE[..], &AND, &BEHIND].concat();
    let mut places = image.windows(code.len());
    let at = places.position(|place| place == code).unwrap();
    image[at + BEFORE.len()..][..AND.len()].fill(0x90);
    let scratch = Scratch::new("back");
    let kernel = scratch.file("kernel", &image);
    for (option, goes) in [
        ("--isolation=guest", true),
        ("--no-fast-path=back", false),
        ("--no-fast-path=crossing", false),
        ("--isolation=user", false),
    ] {
        let said = uses_its_disk(&kernel, option);
        let has_gone = said.contains("\"crossings_back\"");
        assert_eq!(has_gone, goes, "{said}");
    }
}

/// The question asks for TS and for an empty ring again and again.
#[test]
fn hypercalls_that_ask_for_nothing_are_near_if_they_may() {
    for (option, near) in [
        ("--isolation=guest", true),
        ("--no-fast-path=near", false),
        ("--no-fast-path=hypercall", false),
        ("--no-fast-path=crossing", false),
        ("--isolation=user", false),
    ] {
        let mut command = support::lguest();
        command.args(["run", "--memory=16", "--stats=-", option]);
        command.arg("--append=ask=calls_in_a_loop");
        command.arg("--kernel").arg(support::questions());
        let said = support::run(&mut command, b"").ends_well(0).stdout;
        assert!(said.contains("trap 7 in 100 and 0"), "{said}");
        assert_eq!(said.contains("\"near_calls\""), near, "{option}: {said}");
        // They are counted whoever answers.
        assert!(said.contains("\"hypercall.TS\": 200"), "{option}: {said}");
    }
}

/// Two Guests on a network, one with a disk: megabytes from one to the other,
/// and sectors written and read back. Returns the counters of both.
fn with_devices(names: &[&str]) -> (String, String) {
    let scratch = Scratch::new("fast-devices");
    let lan = scratch.file("lan", &[0; 4096]);
    let disk = scratch.file("disk", &[0; 4096 * 512]);
    let start = |name: &str, disk: Option<&Path>| {
        let mut command = support::lguest();
        let net = format!("--net=sharenet={}", lan.display());
        command.args(["run", "--append=quiet", &net]);
        command.arg("--stats").arg(scratch.path(name));
        if let Some(disk) = disk {
            command.arg("--disk").arg(disk);
        }
        for name in names {
            command.args(["--no-fast-path", name]);
        }
        let guest = Running::start(&mut command);
        guest.wait_for("lguest> ");
        guest
    };
    let mut receiver = start("receiver", None);
    receiver.type_in(b"tcp-serve\n");
    receiver.wait_for("listening on 10.0.0.1:5001");
    let mut sender = start("sender", Some(&disk));
    sender.type_in(b"dd 3 64 yes\n");
    sender.wait_for("read back the same");
    sender.type_in(b"tcp-send 10.0.0.1 8\n");
    sender.wait_for("sent 8000000 bytes");
    receiver.wait_for("received 8000000 bytes");
    for guest in [&mut receiver, &mut sender] {
        guest.type_in(b"poweroff\n");
    }
    receiver.finish().ends_well(0);
    sender.finish().ends_well(0);
    let stats = |name| std::fs::read_to_string(scratch.path(name)).unwrap();
    (stats("receiver"), stats("sender"))
}

/// The sum of a counter of that name, of all devices that have it.
fn total(counters: &str, name: &str) -> u64 {
    let name = format!("\"{name}\": ");
    let number = |rest: &str| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse::<u64>().unwrap()
    };
    counters.split(&name).skip(1).map(number).sum()
}

/// A disk and a network work without their fast paths, and the counters show
/// that a fast path is taken only if it is allowed.
#[test]
fn devices_work_without_their_fast_paths() {
    let (receiver, sender) = with_devices(&[]);
    assert!(total(&sender, "at_once") > 0, "{sender}");
    const NO_OUTBOX: &str = "outbox: no futex_waitv (Linux 5.16)";
    if total(&receiver, "fetched") == 0 {
        support::skip("devices_work_without_their_fast_paths", NO_OUTBOX);
    }
    let (_, sender) = with_devices(&["disk-at-once"]);
    assert_eq!(total(&sender, "at_once"), 0, "{sender}");
    let (receiver, _) = with_devices(&["outbox"]);
    assert_eq!(total(&receiver, "fetched"), 0, "{receiver}");
    for name in ["read-ahead", "no-kick", "batches", "enabling", "huge-pages"] {
        with_devices(&[name]);
    }
    with_devices(&fast_path::ALL.map(|(name, _)| name));
}
