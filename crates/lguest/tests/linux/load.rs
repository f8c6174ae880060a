//! Linux under heavy load.
//!
//! There must be no wrong result and no warning of the kernel, and the
//! Launcher's use of the machine must not grow.

use crate::kit::{
    Given, INITRD, Machine, Scratch, VMLINUX, children, is_clean, load_time,
    skip,
};
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn processes_come_and_go() {
    soak("processes_come_and_go", "fork");
}

#[test]
fn floating_point_registers_of_64_processes_stay_apart() {
    soak("floating_point_registers_of_64_processes_stay_apart", "fpu");
}

#[test]
fn vector_registers_of_processes_and_threads_stay_apart() {
    let test = "vector_registers_of_processes_and_threads_stay_apart";
    soak(test, "vectors");
}

#[test]
fn memory_is_mapped_moved_and_shared() {
    soak("memory_is_mapped_moved_and_shared", "memory");
}

#[test]
fn memory_in_more_pieces_than_a_process_may_map_is_still_right() {
    let test = "memory_in_more_pieces_than_a_process_may_map_is_still_right";
    if let Some(given) = Given::to(test, &[VMLINUX, INITRD]) {
        run(&given, 400, &[], "/tests/soak scatter TIME");
    }
}

#[test]
fn all_of_it_is_right_with_user_processes() {
    let test = "all_of_it_is_right_with_user_processes";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let walled = ["--isolation=user"];
    for program in [
        "fork", "fpu", "vectors", "memory", "signals", "pipes", "timers",
    ] {
        let command = format!("/tests/soak {program} TIME");
        run(&given, USUAL, &walled, &command);
    }
    run(&given, 400, &walled, "/tests/soak scatter TIME");
}

#[test]
fn signals_arrive_once_and_in_order() {
    soak("signals_arrive_once_and_in_order", "signals");
}

#[test]
fn raw_system_calls_are_stepped_through_restarted_and_interrupted() {
    soak(
        "raw_system_calls_are_stepped_through_restarted_and_interrupted",
        "calls",
    );
}

#[test]
fn pipes_lose_nothing() {
    soak("pipes_lose_nothing", "pipes");
}

#[test]
fn timers_are_never_early_nor_lost() {
    soak("timers_are_never_early_nor_lost", "timers");
}

#[test]
fn files_are_what_was_written_and_the_disk_is_clean() {
    let test = "files_are_what_was_written_and_the_disk_is_clean";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new("files");
    let disk = scratch.path("disk");
    let file = std::fs::File::create(&disk).unwrap();
    file.set_len(128 << 20).unwrap();
    let made = Command::new("mkfs.ext2")
        .args(["-q", "-F"])
        .arg(&disk)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        skip(test, "no mkfs.ext2");
        return;
    }
    let command = format!(
        "mount -t ext2 {}a /mnt; cd /mnt; /tests/soak files TIME; cd /; \
         umount /mnt",
        given.disks()
    );
    let option = format!("--block={}", disk.display());
    run(&given, USUAL, &[&option], &command);
    assert_eq!(is_clean(&disk), Some(true));
}

fn soak(test: &str, program: &str) {
    if let Some(given) = Given::to(test, &[VMLINUX, INITRD]) {
        run(&given, USUAL, &[], &format!("/tests/soak {program} TIME"));
    }
}

/// Megabytes of the machine, if the test is not about memory.
const USUAL: u32 = 96;

/// The least time of a load for a comparison of its resources.
const WARM_UP: Duration = Duration::from_secs(2);

fn run(given: &Given, megabytes: u32, options: &[&str], command: &str) {
    let time = load_time(Duration::from_secs(6));
    let seconds = time.as_secs().to_string();
    let command = command.replace("TIME", &seconds).replace(' ', ",");
    let mut words = given.words(megabytes, options);
    words.push(format!("test={command}"));
    let mut machine = Machine::start(&words);
    machine.wait_for("GUEST-READY");
    let start = Instant::now();
    let mut usages = Vec::new();
    while start.elapsed() < time - Duration::from_millis(500) {
        machine.read_more(Duration::from_millis(250));
        if start.elapsed() > WARM_UP {
            usages.extend(Usage::of(&machine));
        }
    }
    let ended = machine.end();
    ended.must_have_said("SOAK PASS");
    for complaint in ["Oops", "BUG", "Bad page", "WRONG", "soft lockup"] {
        assert!(!ended.shown.contains(complaint), "{}", ended.shown);
    }
    // The least of each half: real growth shows there, too.
    let third = usages.len() / 3;
    if third == 0 {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("load");
        return skip(test, "too busy: its resources were not compared");
    }
    let least = |usages: &[Usage]| {
        usages
            .iter()
            .copied()
            .reduce(|a, b| Usage {
                launcher: a.launcher.min(b.launcher),
                views: a.views.min(b.views),
                descriptors: a.descriptors.min(b.descriptors),
            })
            .unwrap()
    };
    let (early, late) = (
        least(&usages[..third]),
        least(&usages[usages.len() - third..]),
    );
    assert!(late.launcher <= early.launcher + 256, "{early:?} {late:?}");
    assert!(late.views <= early.views + 64, "{early:?} {late:?}");
    assert!(late.descriptors <= early.descriptors, "{early:?} {late:?}");
}

/// The resources that a machine uses.
#[derive(Clone, Copy, Debug)]
struct Usage {
    /// KiB of the Launcher's own memory.
    launcher: u64,
    /// The same of its largest other process.
    views: u64,
    /// Descriptors of the Launcher, less one for each such process.
    descriptors: usize,
}

impl Usage {
    /// `None` if its processes change meanwhile, or if it has ended.
    fn of(machine: &Machine) -> Option<Self> {
        let views = children(machine.id());
        let fds = std::fs::read_dir(format!("/proc/{}/fd", machine.id()));
        let fds = fds.map_or(0, Iterator::count);
        let usage = Self {
            launcher: own_memory(machine.id()),
            views: views.iter().copied().map(own_memory).max().unwrap_or(0),
            descriptors: fds.checked_sub(views.len())?,
        };
        (fds > 0 && children(machine.id()) == views).then_some(usage)
    }
}

/// KiB of a process's private memory.
fn own_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.map_or(0, |number| number.parse().unwrap())
}
