//! Clocks are right under load, and sleeps have the right length.

use crate::kit::{Given, INITRD, VMLINUX, load_time};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[test]
fn clocks_are_right_under_load() {
    let test = "clocks_are_right_under_load";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let time = load_time(Duration::from_secs(10)).min(Duration::from_secs(60));
    let start = Instant::now();
    let mut machine = given.shell(&[]);
    let boot = start.elapsed().as_secs_f64();
    let seconds = time.as_secs() + 2;
    machine
        .command(&format!("{{ /tests/soak fork {seconds} 4 >/dev/null & }}"));
    let mut clocks = || {
        // Lines: time.tv_sec, time.tv_usec; then the uptime.
        machine.start_command("adjtimex | grep time.tv; cat /proc/uptime");
        let asked = Instant::now();
        let said = machine.finish_command(Duration::from_secs(60));
        let here = (asked, Instant::now(), SystemTime::now());
        let mut words = said.split_whitespace();
        let mut next = |skipped| {
            let word = words.nth(skipped).unwrap();
            word.parse::<f64>().unwrap_or_else(|_| panic!("{said}"))
        };
        let wall = next(1) + next(1) * 1e-6;
        (here, wall, next(0))
    };
    let (first, wall, monotonic) = clocks();
    std::thread::sleep(time);
    let (last, later_wall, later_monotonic) = clocks();
    // A loaded machine may answer late. So the clock must have advanced by the
    // time between the answers, within 1 %.
    let least = (last.0 - first.1).as_secs_f64() * 0.99 - 0.05;
    let most = (last.1 - first.0).as_secs_f64() * 1.01 + 0.05;
    for (name, there) in [
        ("wall clock", later_wall - wall),
        ("uptime", later_monotonic - monotonic),
    ] {
        let right = (least..=most).contains(&there);
        assert!(right, "{name}: {there} s, not {least} to {most} s");
    }
    // Linux 2.6.23 reads whole seconds from the Host when it boots, and starts
    // to count later. So it can be late by a second, its boot, and the time of
    // the answer.
    let here = last.2.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let behind = here - later_wall;
    let answer = (last.1 - last.0).as_secs_f64();
    assert!(
        (-0.05..1.05 + boot + answer).contains(&behind),
        "{behind} s behind"
    );
}

#[test]
fn a_sleep_of_10_ms_takes_10_to_12() {
    let test = "a_sleep_of_10_ms_takes_10_to_12";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    // Nanoseconds of the best sleep. A busy machine wakes some of them late,
    // and sometimes all that follow each other.
    let best_of_some = || {
        let ended = given.run(64, &[], "/tests/bench nanosleep");
        let line = ended.shown.lines().find(|l| l.starts_with("nanosleep "));
        let line = line.unwrap_or_else(|| panic!("{}", ended.shown));
        let best = line.split_whitespace().last().unwrap();
        let took: f64 = best.parse().unwrap();
        assert!(took >= 10e6, "{line}");
        took
    };
    let found: Vec<f64> = (0..5)
        .map(|_| best_of_some())
        .take_while(|took| *took >= 12e6)
        .collect();
    assert!(found.len() < 5, "{found:?}");
}
