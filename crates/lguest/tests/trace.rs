//! What a guest did, written at its end (`--trace`).

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use support::{Scratch, lguest, questions, run};

/// The trace that `command` writes, and its exit code.
fn traced(command: &mut Command, file: &Path) -> (Value, i32) {
    command.arg("--trace").arg(file);
    let ended = run(command, b"");
    let bytes = std::fs::read(file).unwrap();
    let trace = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&bytes));
    });
    (trace, ended.code())
}

/// The events with a time.
fn events(trace: &Value) -> Vec<&Value> {
    let all = trace["traceEvents"].as_array().unwrap();
    all.iter().filter(|event| event["ts"].is_f64()).collect()
}

/// Fails unless events with these groups and names are there in this order.
#[track_caller]
fn in_order(trace: &Value, wanted: &[(&str, &str)]) {
    let mut events = events(trace).into_iter();
    for wanted in wanted {
        let is = |event: &&Value| {
            (event["cat"].as_str(), event["name"].as_str())
                == (Some(wanted.0), Some(wanted.1))
        };
        assert!(events.any(|event| is(&event)), "{wanted:?} in {trace:#}");
    }
}

#[test]
fn a_request_of_a_disk_is_found_with_all_that_follows_from_it() {
    let scratch = Scratch::new("trace-disk");
    let sectors: Vec<u8> = (0..=255).flat_map(|n: u8| [n; 512]).collect();
    let disk = scratch.file("disk", &sectors);
    let mut command = lguest();
    command.args(["run", "--memory", "16", "--kernel"]);
    command.arg(questions()).arg("--disk").arg(disk);
    command.arg("--append=ask=interrupt_of_a_disk");
    let (trace, code) = traced(&mut command, &scratch.path("trace"));
    assert_eq!(code, 0);
    in_order(
        &trace,
        &[
            ("hypercalls", "LGUEST_INIT"),
            ("exits", "page fault"),
            ("pages", "map"),
            ("hypercalls", "BIND_DMA"),
            ("requests", "BIND_DMA"),
            ("hypercalls", "SEND_DMA"),
            ("requests", "SEND_DMA"),
            ("interrupts", "interrupt 17 raised"),
            ("interrupts", "interrupt 17 delivered"),
            ("requests", "CRASH"),
        ],
    );
    let events = events(&trace);
    let times = events.iter().map(|event| event["ts"].as_f64().unwrap());
    assert!(times.is_sorted());
    let by = |name: &str| {
        let named = |event: &&&Value| event["name"] == name;
        events.iter().find(named).unwrap()["args"]["by"].clone()
    };
    assert_eq!(by("interrupt 17 raised"), "launcher");
    // Each exit but the last one has an end, before the next one begins.
    let exits: Vec<_> = events.iter().filter(|e| e["cat"] == "exits").collect();
    for pair in exits.windows(2) {
        let end = |exit: &Value| {
            exit["ts"].as_f64().unwrap() + exit["dur"].as_f64().unwrap()
        };
        assert!(pair[0]["dur"].as_f64() > Some(0.0), "{}", pair[0]);
        assert!(end(pair[0]) <= pair[1]["ts"].as_f64().unwrap() + 0.1);
    }
}

#[test]
fn traps_and_patches_have_their_causes() {
    let scratch = Scratch::new("trace-traps");
    let mut command = lguest();
    command.args(["run", "--append", "quiet run=\"run primes 100; poweroff\""]);
    let (trace, code) = traced(&mut command, &scratch.path("trace"));
    assert_eq!(code, 0);
    let events = events(&trace);
    let find = |group: &str, name: &str| {
        let is = |e: &&&Value| e["cat"] == group && e["name"] == name;
        let found = events.iter().find(is);
        found.unwrap_or_else(|| panic!("no {name} in {trace:#}"))
    };
    let call = find("exits", "system call");
    assert_eq!(call["args"]["mode"], "user");
    find("traps", "system call");
    let patch = find("patches", "patch: Hypercall");
    assert!(patch["args"]["site"].as_str().unwrap().starts_with("0xc01"));
    find("directories", "page directory");
}

#[test]
fn a_full_ring_keeps_the_last_events_and_counts_the_rest() {
    let scratch = Scratch::new("trace-full");
    let mut command = lguest();
    command.args(["run", "--trace-records=256"]);
    command.args(["--append", "quiet run=\"run yields 1000; poweroff 3\""]);
    let (trace, code) = traced(&mut command, &scratch.path("trace"));
    assert_eq!(code, 3);
    let lost = trace["otherData"]["lost"].as_str().unwrap();
    assert!(lost.parse::<u64>().unwrap() > 0, "{lost}");
    let events = events(&trace);
    let said = format!("{lost} records before this are lost");
    assert_eq!(events[0]["name"], said.as_str());
    assert!((200..=257).contains(&events.len()), "{}", events.len());
    assert_eq!(events.last().unwrap()["name"], "CRASH");
}

#[test]
fn a_guest_that_dies_leaves_its_trace() {
    let scratch = Scratch::new("trace-death");
    let mut command = lguest();
    command.args(["run", "--kernel"]).arg(questions());
    command.args(["--append", "ask=unhandled_fault"]);
    let (trace, code) = traced(&mut command, &scratch.path("trace"));
    assert_eq!(code, 1);
    in_order(&trace, &[("exits", "page fault"), ("requests", "killed")]);
    let events = events(&trace);
    let exits: Vec<_> = events.iter().filter(|e| e["cat"] == "exits").collect();
    let last = exits.last().unwrap();
    assert_eq!(last["name"], "page fault");
    assert!(last["args"]["address"].is_string());
    assert_eq!(last["dur"], 0.0, "the Guest did not go on");
    // A panic, as the kit reports it.
    let mut command = lguest();
    command.args(["run", "--append", "quiet run=\"panic well\""]);
    let (trace, code) = traced(&mut command, &scratch.path("trace"));
    assert_eq!(code, 1);
    in_order(&trace, &[("hypercalls", "CRASH"), ("requests", "CRASH")]);
}

#[test]
fn a_filter_leaves_other_groups_out() {
    let scratch = Scratch::new("trace-filter");
    let mut command = lguest();
    command.args(["run", "--trace-filter", "requests,pages"]);
    command.args(["--append", "quiet run=poweroff"]);
    let (trace, code) = traced(&mut command, &scratch.path("trace"));
    assert_eq!(code, 0);
    let events = events(&trace);
    let group = |event: &&Value| event["cat"].as_str().unwrap().to_owned();
    let mut groups: Vec<_> = events.iter().map(group).collect();
    groups.sort();
    groups.dedup();
    assert_eq!(groups, ["pages", "requests"]);
}

#[test]
fn user_processes_are_traced_too() {
    let scratch = Scratch::new("trace-user");
    let mut command = lguest();
    command.args(["run", "--isolation=user"]);
    command.args(["--append", "quiet run=\"run primes 100; poweroff\""]);
    let (trace, code) = traced(&mut command, &scratch.path("trace"));
    if code == 121 {
        let name = "user_processes_are_traced_too";
        return support::skip(name, "there are no user processes here");
    }
    assert_eq!(code, 0);
    in_order(
        &trace,
        &[("exits", "system call"), ("traps", "system call")],
    );
}

#[test]
fn what_cannot_be_written_is_said_before_the_guest_runs() {
    let mut command = lguest();
    command.args(["run", "--trace", "/nowhere/trace"]);
    let refused = run(&mut command, b"");
    assert_eq!(refused.code(), 120);
    assert!(refused.stderr.contains("trace /nowhere/trace"));
    for (options, said) in [
        ("--trace=a --trace-filter=calls", "exits, hypercalls"),
        ("--trace-filter=exits", "--trace <FILE>"),
        ("--trace-records=1000", "a power of two from 256 to 1048576"),
    ] {
        let mut command = lguest();
        command.arg("run").args(options.split_whitespace());
        let refused = run(&mut command, b"");
        assert_eq!(refused.code(), 2, "{options}");
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
}
