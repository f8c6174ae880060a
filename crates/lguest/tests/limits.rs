//! What a machine may use: processors, disks, its log.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::fs;
use std::time::{Duration, Instant};
use support::processes::{Process, children};
use support::{Running, Scratch, lguest, lguest_with, run};

/// The line of a process's status that begins with `name`.
fn status(process: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

#[test]
fn a_machine_runs_on_the_processors_that_it_was_given() {
    let ours = status("self", "Cpus_allowed_list");
    let last = ours.rsplit([',', '-']).next().unwrap();
    let guest = Running::start(&mut lguest_with(&format!("run --cpus {last}")));
    guest.wait_for("lguest> ");
    let all = children(guest.pid());
    assert!(!all.is_empty());
    let launcher = Process::find(guest.pid()).unwrap();
    for process in all.into_iter().chain([launcher]) {
        let pid = process.pid.to_string();
        assert_eq!(status(&pid, "Cpus_allowed_list"), last);
    }
    let end = run(&mut lguest_with("run --cpus 0-1023"), b"");
    assert_eq!(end.code(), 121, "{end:?}");
    let words = "not all of them can be used";
    assert!(end.stderr.contains(words), "{end:?}");
}

#[test]
fn a_share_of_a_processor_is_kept() {
    let mut guest = Running::start(&mut lguest_with("run --cpu-share 20%"));
    guest.wait_for("lguest> ");
    // Far more work than it gets done.
    guest.type_in(&b"bench\n".repeat(50));
    let launcher = Process::find(guest.pid()).unwrap();
    let ticks = || -> u64 {
        let all = children(guest.pid()).into_iter().chain([launcher]);
        all.map(Process::ticks).sum()
    };
    let (start, before) = (Instant::now(), ticks());
    // Long enough to see both that the Guest works and that it is bounded.
    let (used, time) = loop {
        std::thread::sleep(Duration::from_secs(2));
        // A tick is 10 ms.
        let used = Duration::from_millis(10 * (ticks() - before));
        let time = start.elapsed();
        if used >= Duration::from_millis(100) {
            break (used, time);
        }
        assert!(time < support::PATIENCE, "{used:?}: it does nothing");
    };
    assert!(used < time.mul_f64(0.35), "{used:?} of {time:?}");
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.finish().code(), 143);
}

/// It takes more when its benchmark has all of its views started.
#[test]
fn a_machine_that_takes_too_much_memory_is_ended() {
    let limited = |limit| {
        let words = format!("run --memory 64M --memory-limit {limit}");
        Running::start(&mut lguest_with(&words))
    };
    for (limit, code) in [("1G", 0), ("5M", 193)] {
        let mut guest = limited(limit);
        guest.wait_for("lguest> ");
        guest.type_in(b"bench\n");
        if code == 0 {
            guest.type_in(b"poweroff\n");
        }
        // The other one is ended at the latest when it waits for a line.
        let end = guest.finish();
        assert_eq!(end.code(), code, "{end:?}");
        let said = end.stderr.contains(
            "lguest: ended by --memory-limit: the guest and its processes take",
        );
        assert_eq!(said, code != 0, "{end:?}");
        assert!(!end.stderr.contains("the launcher 0 MB"), "{end:?}");
    }
    // Its kernel alone takes more.
    let end = limited("100K").finish();
    assert_eq!(end.code(), 193, "{end:?}");
}

#[test]
fn disks_take_the_time_that_their_limit_says() {
    let scratch = Scratch::new("io-limit");
    let disk = scratch.file("disk", &[7; 64 * 512]);
    let mut command = lguest_with("run --append=quiet --io-limit 40K");
    command.arg(format!("--disk={}", disk.display()));
    let start = Instant::now();
    // 4 KiB each.
    let typed = [&b"dd 0 8 yes\n".repeat(8)[..], b"poweroff\n"].concat();
    run(&mut command, &typed).ends_well(0);
    // The first 8 KiB are not waited for, nor the answer to the last write.
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert!(fs::read(&disk).unwrap() != [7; 64 * 512]);
}

/// Requests that wait for hours do not delay the end.
#[test]
fn a_limited_guest_ends_at_once() {
    let scratch = Scratch::new("io-end");
    let disk = scratch.file("disk", &[7; 64 * 512]);
    let mut command = lguest_with("run --append=quiet --io-limit 1B");
    command.arg(format!("--disk={}", disk.display()));
    let mut guest = Running::start(&mut command);
    guest.wait_for("lguest> ");
    guest.type_in(&b"dd 0 8 yes\n".repeat(2));
    let launcher = Process::find(guest.pid()).unwrap();
    launcher.wait_for_thread("disk");
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.finish().code(), 143);
}

#[test]
fn a_flood_of_output_fills_no_log() {
    let scratch = Scratch::new("log-limit");
    let log = scratch.path("log");
    let mut command = lguest_with("run --append=quiet --log-limit 64K");
    command.arg("--log").arg(&log);
    let typed = [&b"help\n".repeat(100)[..], b"echo last\npoweroff\n"].concat();
    let end = run(&mut command, &typed).ends_well(0);
    assert!(end.stdout.len() > 100_000, "{}", end.stdout.len());
    let text = fs::read_to_string(&log).unwrap();
    assert!((32_000..=64 << 10).contains(&text.len()), "{}", text.len());
    let all = end.stdout.replace('\r', "");
    assert!(all.ends_with(&text), "{text}");
    assert!(text.contains("\nlast\n"), "{text}");
}

#[test]
fn the_environment_names_a_log_if_no_option_does() {
    let scratch = Scratch::new("log-environment");
    let (log, other) = (scratch.path("log"), scratch.path("other"));
    let guest = || {
        let mut command = lguest_with("run --log-limit 1M --append");
        command
            .arg("quiet run=\"poweroff\"")
            .env("LGUEST_LOG", &log);
        command
    };
    run(guest().arg("--log").arg(&other), b"").ends_well(0);
    assert!(!log.exists());
    run(&mut guest(), b"").ends_well(0);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("lguest guest ready"), "{text}");
    // An empty one is none.
    let end = run(guest().env("LGUEST_LOG", ""), b"");
    assert_eq!(end.code(), 2, "{end:?}");
}

#[test]
fn wrong_limits_are_refused() {
    for (words, said) in [
        (
            "--cpu-share 0",
            "--cpu-share '0' is no limit: give a number",
        ),
        ("--cpus 3-2", "--cpus '3-2' is no limit"),
        ("--memory-limit 64", "--memory-limit '64' is no limit"),
        ("--io-limit 10", "--io-limit '10' is no limit"),
        ("--net-limit ops=1", "--net-limit 'ops=1' is no limit"),
        ("--log x --log-limit 1K", "--log-limit '1K' is no limit"),
        ("--log-limit 1M", "give '--log FILE', too"),
        ("--net sharenet=x --net-limit 1M", "give another network"),
    ] {
        let end = run(lguest().arg("run").args(words.split(' ')), b"");
        assert_eq!(end.code(), 2, "{end:?}");
        assert!(end.stderr.contains(said), "{end:?}");
    }
}
