//! Linux under heavy load.
//!
//! There must be no wrong result and no warning of the kernel, and the
//! Launcher's use of the machine must not grow.

use crate::kit::{
    Given, INITRD, Machine, OTHERS, Scratch, VMLINUX, children, is_clean,
    load_time, skip,
};
use std::path::Path;
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
    if !make_ext2(test, &disk) {
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

/// Makes an empty ext2 image of 128 MiB. `false` if that is not possible.
fn make_ext2(test: &str, disk: &Path) -> bool {
    let file = std::fs::File::create(disk).unwrap();
    file.set_len(128 << 20).unwrap();
    let made = Command::new("mkfs.ext2")
        .args(["-q", "-F"])
        .arg(disk)
        .status();
    let made = made.is_ok_and(|status| status.success());
    if !made {
        skip(test, "no mkfs.ext2");
    }
    made
}

/// Each kernel runs the loads, and sends streams to the next one.
#[test]
fn several_releases_share_a_network_under_load() {
    let test = "several_releases_share_a_network_under_load";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD, OTHERS]) else {
        return;
    };
    let kernels = given.each_kernel();
    let scratch = Scratch::new("releases");
    let net = scratch.path("net");
    std::fs::File::create(&net).unwrap().set_len(4096).unwrap();
    let net = format!("--sharenet={}", net.display());
    let time = load_time(Duration::from_secs(20));
    let disks: Vec<_> = (0..kernels.len())
        .map(|i| scratch.path(&format!("disk{i}")))
        .collect();
    let mut machines = Vec::new();
    for (i, (kernel, disk)) in kernels.iter().zip(&disks).enumerate() {
        if !make_ext2(test, disk) {
            return;
        }
        let block = format!("--block={}", disk.display());
        let mut machine = kernel.shell_with(USUAL, &[&net, &block]);
        let (here, next) = (i + 1, (i + 1) % kernels.len() + 1);
        machine.command(&format!(
            "ifconfig eth0 10.1.0.{here} up; \
             mount -t ext2 {}a /mnt",
            kernel.disks()
        ));
        // Not a child of the shell, which waits for all of its children.
        machine.command(
            "( setsid sh -c 'while :; do /tests/nettool tcprecv 7801; done' \
             </dev/null >/tmp/in 2>&1 & )",
        );
        machine.command(
            "loads() { for x in fork fpu memory signals pipes timers; do \
             /tests/soak $x $1 & done; (cd /mnt; /tests/soak files $1) & }",
        );
        machine.command(&format!(
            "streams() {{ until [ -f /tmp/end ]; do x=$((x+1)); \
             /tests/nettool tcpsend 10.1.0.{next} 7801 1 {i}$x >>/tmp/out; \
             done; }}"
        ));
        machines.push(machine);
    }
    let seconds = time.as_secs();
    for machine in &mut machines {
        machine.start_command(&format!(
            "loads {seconds}; streams & sleep {seconds}; >/tmp/end; wait"
        ));
    }
    let mut usages = vec![Vec::new(); machines.len()];
    let start = Instant::now();
    while start.elapsed() < time - Duration::from_millis(500) {
        for (machine, usages) in machines.iter_mut().zip(&mut usages) {
            machine.read_more(Duration::from_millis(100));
            if start.elapsed() > WARM_UP {
                usages.extend(Usage::of(machine));
            }
        }
    }
    for machine in &mut machines {
        let said = machine.finish_command(time + Duration::from_secs(300));
        assert_eq!(said.matches("SOAK PASS").count(), 7, "{said}");
    }
    let streams = |machine: &mut Machine, file: &str| {
        let said = machine.command(&format!("cat {file}"));
        let told = said.lines().filter(|line| line.contains(" bytes adler "));
        let told = told.map(|line| {
            assert!(!line.contains("ERROR"), "{line}");
            let words = line.split_whitespace().skip(1).take(4);
            words.collect::<Vec<_>>().join(" ")
        });
        told.collect::<Vec<_>>()
    };
    for from in 0..machines.len() {
        let to = (from + 1) % machines.len();
        let sent = streams(&mut machines[from], "/tmp/out");
        assert_eq!(sent, streams(&mut machines[to], "/tmp/in"));
        println!("{} streams from {from} to {to}", sent.len());
        assert!(!sent.is_empty());
    }
    for ((mut machine, disk), usages) in
        machines.into_iter().zip(&disks).zip(&usages)
    {
        let said = machine.command("umount /mnt && echo unmounted");
        assert!(said.contains("unmounted"), "{said}");
        machine.type_in("poweroff -f\r");
        let ended = machine.end();
        assert_eq!(ended.code, 0, "{}", ended.shown);
        no_complaints(&ended.shown);
        assert_eq!(is_clean(disk), Some(true));
        must_not_grow(usages);
    }
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
    no_complaints(&ended.shown);
    must_not_grow(&usages);
}

fn no_complaints(shown: &str) {
    for complaint in ["Oops", "BUG", "Bad page", "WRONG", "soft lockup"] {
        assert!(!shown.contains(complaint), "{shown}");
    }
}

fn must_not_grow(usages: &[Usage]) {
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
