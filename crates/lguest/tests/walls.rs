//! What a view has and lacks, seen from outside, in /proc.
//!
//! The filter itself has tests of its own. These examine real views of a real
//! Guest. A view has no descriptors but the Guest's memory files, and no memory
//! of the Launcher. It is confined, and it ends with the Launcher.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::later::LATER;

/// A Guest at its prompt.
fn guest() -> Child {
    guest_with(&["--isolation=guest"])
}

/// The file of a network, which is removed on drop.
struct Network(PathBuf);

impl Network {
    fn new(test: &str) -> Self {
        let name = format!("walls-of-lguest-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, [0; 4096]).unwrap();
        Self(path)
    }

    fn option(&self) -> String {
        format!("--sharenet={}", self.0.display())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn guest_with(options: &[&str]) -> Child {
    let mut child = support::lguest()
        .args(options)
        .env("SECRET", "of the Launcher")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let mut lines = said.lines().map_while(Result::ok);
    let ready = lines.any(|line| line.starts_with("lguest guest ready"));
    assert!(ready);
    // A guest whose output cannot be read any more ends.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let parent = format!("PPid:\t{parent}\n");
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| status.contains(&parent))
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .collect()
}

/// The views of `guest`: its confined children, without the porter of a
/// network, which is no process of the guest's. The view spawner is not
/// confined. It has the socket for requests of views.
fn views(guest: &Child) -> Vec<u32> {
    let confined = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| {
            status.contains("Seccomp:\t2")
                && !status.contains("Name:\tlguest-porter")
        })
    };
    let views: Vec<u32> =
        children(guest.id()).into_iter().filter(confined).collect();
    assert!(!views.is_empty());
    views
}

#[test]
fn a_view_is_confined_and_can_gain_no_rights() {
    let mut guest = guest();
    for view in views(&guest) {
        let status = fs::read_to_string(format!("/proc/{view}/status"));
        let status = status.unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        assert!(status.contains("Seccomp_filters:\t1"), "{status}");
        assert!(status.contains("Threads:\t1"), "{status}");
    }
    guest.kill().unwrap();
    guest.wait().unwrap();
}

/// A field of /proc/PID/stat, counted from the one after the name.
fn stat(pid: u32, field: usize) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split_whitespace().nth(field).unwrap().to_owned()
}

/// All views are in one session, so in one autogroup: together they get the
/// processor time of one process. A kernel with autogroups shows this in /proc.
#[test]
fn all_views_share_one_group_of_the_scheduler() {
    const SESSION: usize = 3;
    let mut guest = guest();
    let parts = children(guest.id());
    assert!(parts.len() >= 2, "{parts:?}");
    // It leads the session. Its number need not be the smallest: numbers begin
    // again after the largest.
    let leads = |part: &&u32| stat(**part, SESSION) == part.to_string();
    let spawner = parts.iter().find(leads).unwrap();
    for part in &parts {
        assert_eq!(stat(*part, SESSION), spawner.to_string());
    }
    let enabled = "/proc/sys/kernel/sched_autogroup_enabled";
    let enabled = fs::read_to_string(enabled).unwrap_or_default();
    if enabled.trim() == "1" {
        let group = |pid| fs::read_to_string(format!("/proc/{pid}/autogroup"));
        let own = group(*spawner).unwrap();
        assert_ne!(own, group(guest.id()).unwrap());
        assert!(parts.iter().all(|part| group(*part).unwrap() == own));
    } else {
        println!(
            "SKIPPED all_views_share_one_group_of_the_scheduler: the kernel \
             has no autogroups"
        );
    }
    guest.kill().unwrap();
    guest.wait().unwrap();
}

/// The limit on address space bounds the number of mappings, which use the
/// kernel's memory.
#[test]
fn a_view_may_map_as_much_as_its_guest_needs_and_no_more() {
    const MB: u64 = 1 << 20;
    for memory in [16, 64] {
        let option = format!("--memory={memory}");
        let mut guest = guest_with(&["run", &option]);
        for part in children(guest.id()) {
            let limits = fs::read_to_string(format!("/proc/{part}/limits"));
            let limits = limits.unwrap();
            let line = |l: &&str| l.starts_with("Max address space");
            let line = limits.lines().find(line).unwrap();
            let bytes: u64 =
                line.split_whitespace().nth(3).unwrap().parse().unwrap();
            assert!(bytes > 3 * memory * MB, "{line}");
            assert!(bytes < (3 * memory + 64) * MB, "{line}");
        }
        guest.kill().unwrap();
        guest.wait().unwrap();
    }
}

#[test]
fn a_view_finds_nothing_but_the_guests_own() {
    let network = Network::new("view");
    let mut guest = guest_with(&["--isolation=guest", &network.option()]);
    let mut looked = 0;
    for view in views(&guest) {
        // Only root may read this of a process that is not dumpable.
        let Ok(fds) = fs::read_dir(format!("/proc/{view}/fd")) else {
            continue;
        };
        let fds: Vec<String> = fds
            .map(|fd| fs::read_link(fd.unwrap().path()).unwrap())
            .map(|target| target.to_string_lossy().into_owned())
            .collect();
        let expected = ["memory", "copies"];
        let expected = expected.map(|n| format!("/memfd:lguest-{n} (deleted)"));
        let (memory, page) = fds.split_at(2);
        assert_eq!(memory, expected);
        assert_eq!(page, [network.0.to_str().unwrap()]);
        let environ = fs::read(format!("/proc/{view}/environ"));
        assert_eq!(environ.unwrap_or_default(), b"");
        let maps = fs::read_to_string(format!("/proc/{view}/maps")).unwrap();
        for foreign in ["[stack]", "[heap]", "/lguest", ".so"] {
            assert!(!maps.contains(foreign), "{foreign} in\n{maps}");
        }
        looked += 1;
    }
    if looked == 0 {
        println!(
            "SKIPPED a_view_finds_nothing_but_the_guests_own: \
             only root may look"
        );
    }
    guest.kill().unwrap();
    guest.wait().unwrap();
}

/// The file of a disk, opened to read only, until the disk is removed.
#[test]
fn a_view_has_the_file_of_a_disk_to_read_only() {
    let test = "a_view_has_the_file_of_a_disk_to_read_only";
    let scratch = support::Scratch::new("walls-disk");
    let place = scratch.path("place");
    fs::create_dir(&place).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&place, mode).unwrap();
    let disk = scratch.file("disk", &[0; 64 * 512]);
    let later = LATER[0].of(&support::built_in(), &scratch);
    let lguest = |words: &[&str]| {
        let mut command = support::lguest();
        command.env("XDG_RUNTIME_DIR", &place).args(words);
        command
    };
    // Isolated from its kernel or not, and without the fast path.
    for (option, has_it) in [
        ("--isolation=guest", true),
        ("--isolation=user", true),
        ("--no-fast-path=disk-reads", false),
    ] {
        let mut start = lguest(&["run", "--name", "web", option, "--kernel"]);
        start.arg(&later).arg("--disk").arg(&disk);
        start.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guest = start.spawn().unwrap();
        let said = BufReader::new(guest.stdout.take().unwrap());
        let mut lines = said.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.starts_with("lguest guest ready")));
        std::thread::spawn(move || lines.for_each(drop));
        let processes = children(guest.id());
        // Only root may read this of a process that is not dumpable.
        let fds = |process: &u32| fs::read_dir(format!("/proc/{process}/fd"));
        if processes.iter().all(|process| fds(process).is_err()) {
            println!("SKIPPED {test}: only root may look");
            guest.kill().unwrap();
            guest.wait().unwrap();
            return;
        }
        let modes = || -> Vec<String> {
            let fds = processes.iter().filter_map(|p| fds(p).ok()).flatten();
            let paths = fds.map(|fd| fd.unwrap().path());
            let disks = paths.filter(|fd| {
                fs::read_link(fd).is_ok_and(|target| target == disk)
            });
            let mode = |fd: PathBuf| {
                let info = fd.to_string_lossy().replace("/fd/", "/fdinfo/");
                let info = fs::read_to_string(info).unwrap();
                info.lines()
                    .find(|l| l.starts_with("flags:"))
                    .unwrap()
                    .into()
            };
            disks.map(mode).collect()
        };
        let opened = modes();
        assert_eq!(!opened.is_empty(), has_it, "{option}: {opened:?}");
        // The last digit is the mode, 0 to read.
        assert!(
            opened.iter().all(|flags| flags.ends_with('0')),
            "{opened:?}"
        );
        let removed = lguest(&["device", "remove", "web", "disk0"]).status();
        assert!(removed.unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(60);
        while !modes().is_empty() {
            assert!(Instant::now() < deadline, "{option}: it is still open");
            std::thread::sleep(Duration::from_millis(1));
        }
        guest.kill().unwrap();
        guest.wait().unwrap();
        let _ = lguest(&["rm", "--all"]).status();
    }
}

/// With user processes, a view has two more descriptors: one listener for its
/// user process and one for the mapper. The mapper has the same descriptors,
/// the user process has none.
#[test]
fn a_view_with_a_user_process_has_two_listeners_more() {
    const LISTENER: &str = "anon_inode:seccomp notify";
    let memory = ["copies", "memory"];
    let memory = memory.map(|n| format!("/memfd:lguest-{n} (deleted)"));
    let listeners = [LISTENER, LISTENER].map(String::from);
    let expected = [memory, listeners].concat();
    let mut guest = guest_with(&["--isolation=user"]);
    let mut looked = 0;
    for process in views(&guest) {
        // Only root may read this of a process that is not dumpable.
        let Ok(fds) = fs::read_dir(format!("/proc/{process}/fd")) else {
            continue;
        };
        let mut fds: Vec<String> = fds
            .map(|fd| fs::read_link(fd.unwrap().path()).unwrap())
            .map(|target| target.to_string_lossy().into_owned())
            .collect();
        fds.sort();
        assert!(fds.is_empty() || fds == expected, "{fds:?}");
        looked += usize::from(!fds.is_empty());
    }
    if looked == 0 {
        println!(
            "SKIPPED a_view_with_a_user_process_has_two_listeners_more: \
             only root may look"
        );
    }
    guest.kill().unwrap();
    guest.wait().unwrap();
}

#[test]
fn views_end_with_the_launcher_whatever_ends_it() {
    all_end_with_the_launcher(guest());
}

#[test]
fn user_processes_and_mappers_end_with_the_launcher() {
    all_end_with_the_launcher(guest_with(&["--isolation=user"]));
}

fn all_end_with_the_launcher(mut guest: Child) {
    let all = children(guest.id());
    assert!(all.len() >= 2, "a spawner and a view");
    guest.kill().unwrap();
    guest.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_there = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status
            .is_ok_and(|s| s.contains("lguest-vi") && !s.contains("State:\tZ"))
    };
    while all.iter().any(is_there) {
        assert!(Instant::now() < deadline, "one of {all:?} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_user_process_has_nothing_of_its_kernels() {
    let network = Network::new("user_process");
    let mut guest = guest_with(&["--isolation=user", &network.option()]);
    let (mut user_processes, mut looked) = (0, false);
    for process in views(&guest) {
        let status = fs::read_to_string(format!("/proc/{process}/status"));
        let status = status.unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        assert!(status.contains("Threads:\t1"), "{status}");
        // Only root may read this of a process that is not dumpable.
        let Ok(fds) = fs::read_dir(format!("/proc/{process}/fd")) else {
            continue;
        };
        looked = true;
        if fds.count() > 0 {
            continue; // a view, or a mapper
        }
        user_processes += 1;
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        for line in maps.lines() {
            let start = line.split_once('-').unwrap().0;
            let start = u64::from_str_radix(start, 16).unwrap();
            let is_memory = line.contains("lguest-memory");
            assert!(!is_memory || start < 0xC000_0000, "{line}\nin {maps}");
            assert!(!line.contains("lguest-outbox"), "{line}\nin {maps}");
            // The only part of the state there is the trampolines of user code,
            // to execute.
            let is_state = line.contains("lguest-state");
            let is_trampolines =
                start == 0xFFFE_0000 && line.contains(" r-xs ");
            assert!(!is_state || is_trampolines, "{line}\nin {maps}");
        }
    }
    if looked {
        assert!(user_processes > 0, "no user_process found");
    } else {
        println!(
            "SKIPPED a_user_process_has_nothing_of_its_kernels: only root may \
             look"
        );
    }
    guest.kill().unwrap();
    guest.wait().unwrap();
}
