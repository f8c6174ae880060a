//! Clocks: right under load, and sleep that is as long as it should be.

use crate::kit::{Given, INITRD, VMLINUX, load_time};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[test]
fn clocks_are_right_under_load() {
    let test = "clocks_are_right_under_load";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let time = load_time(Duration::from_secs(10)).min(Duration::from_secs(60));
    let mut machine = given.shell(&[]);
    let seconds = time.as_secs() + 2;
    machine
        .command(&format!("{{ /tests/soak fork {seconds} 4 >/dev/null & }}"));
    let mut clocks = || {
        // Lines: time.tv_sec, time.tv_usec; then the uptime.
        machine.start_command("adjtimex | grep time.tv; cat /proc/uptime");
        let said = machine.finish_command(Duration::from_secs(20));
        let here = (Instant::now(), SystemTime::now());
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
    let elapsed = (last.0 - first.0).as_secs_f64();
    // What a loaded machine takes to answer is no fault of its clock.
    let allowed = elapsed * 0.01 + 0.05;
    for (name, there) in [
        ("wall clock", later_wall - wall),
        ("uptime", later_monotonic - monotonic),
    ] {
        let off = (there - elapsed).abs();
        assert!(off < allowed, "{name}: {there} s in {elapsed} s");
    }
    let here = last.1.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(
        (here - later_wall).abs() < 1.0,
        "{later_wall} is not {here}"
    );
}

#[test]
fn a_sleep_of_10_ms_takes_10_to_12() {
    let test = "a_sleep_of_10_ms_takes_10_to_12";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let ended = given.run(64, &[], "/tests/bench nanosleep");
    let line = ended
        .shown
        .lines()
        .find(|l| l.starts_with("BENCH nanosleep"));
    let took = line.unwrap().split_whitespace().nth(2).unwrap();
    let took: f64 = took.parse().unwrap();
    assert!((10_000.0..12_000.0).contains(&took), "{took} us");
}
