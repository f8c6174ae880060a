//! Every short cut has a long way round, and both lead to the same place.
//!
//! The Guest that is part of the Launcher runs user programs at boot: system
//! calls, pages on demand, several page directories. Without any one of the
//! short cuts, and without all of them, it must say the same.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

use lg_host::gates::path;
mod support;

use std::io::Write;
use std::process::Stdio;

/// Runs the Guest; answers what it said of its user programs, less the times,
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
fn without_a_short_cut_the_guest_says_the_same() {
    let (programs, counters) = run_without(&[]);
    for counter in ["iret_gates", "hypercall_gates", "eager_maps", "twin_calls"]
    {
        let counter = format!("\"{counter}\"");
        assert!(counters.contains(&counter), "{counter} in {counters}");
    }
    for (name, _) in path::ALL {
        assert_eq!(run_without(&[name]).0, programs, "without {name}");
    }
}

#[test]
fn without_all_short_cuts_none_is_taken() {
    let names = path::ALL.map(|(name, _)| name);
    let (_, counters) = run_without(&names);
    for counter in [
        "iret_gates",
        "hypercall_gates",
        "eager_maps",
        "linear_maps",
        "patches",
        "twin_calls",
    ] {
        let counter = format!("\"{counter}\"");
        assert!(!counters.contains(&counter), "{counter} in {counters}");
    }
}
