//! Attacks by 32-bit code: selectors, flags, code that changes.

use crate::arena::{Arena, Stop};
use crate::sweep::{Sweep, stride};

fn run(name: &'static str, line: String) {
    run_with(name, line, &[]);
}

/// The same with user processes.
fn run_isolated(name: &'static str, line: String) {
    run_with(name, line, &["--isolation=user"]);
}

fn run_with(name: &'static str, line: String, options: &[&str]) {
    Sweep {
        name,
        inside: false,
        forges: false,
        options: options.iter().map(Into::into).collect(),
        line,
        script: &[],
        stop: Stop::Never,
    }
    .run(&Arena::new("code"));
}

/// Every selector in every segment register.
#[test]
fn selectors() {
    let step = stride(0x1_0000, 6000);
    run("selectors", format!("attack=selectors step={step}"));
}

/// All of the first selectors, which may exist.
#[test]
fn low_selectors() {
    run("low selectors", "attack=selectors to=0x100".into());
}

/// Every combination of flags at every kind of entry.
#[test]
fn flags() {
    run("flags", "attack=flags".into());
}

/// Every selector in the frames that lead a kernel back to its programs, and in
/// those of virtual-8086 mode: none of them gives the kernel's level.
#[test]
fn frames_for_programs() {
    let step = stride(0x1_0000, 4000);
    run("frames", format!("attack=frames step={step}"));
}

#[test]
fn low_frames_for_programs() {
    run("low frames", "attack=frames to=0x100".into());
}

#[test]
fn frames_for_isolated_programs() {
    let step = stride(0x1_0000, 1000);
    let line = format!("attack=frames step={step}");
    run_isolated("frames, isolated", line);
}

/// Flags, then selectors, with user processes.
#[test]
fn flags_of_isolated_programs() {
    run_isolated("flags, isolated", "attack=flags".into());
}

#[test]
fn selectors_of_isolated_programs() {
    let step = stride(0x1_0000, 2000);
    let line = format!("attack=selectors step={step}");
    run_isolated("selectors, isolated", line);
}

/// Code is written by each mapping and executed. The last code that was written
/// must run.
#[test]
fn code_that_changes() {
    run("code", "attack=code steps=6000 seed=2007".into());
}

#[test]
fn code_of_isolated_programs_that_changes() {
    let line = "attack=code steps=3000 seed=2008";
    run_isolated("code, isolated", line.into());
}
