//! Random code of a user program, and what it does to its kernel's memory.
//!
//! With `--isolation=user` no code reaches that memory. By default, the
//! segments stop accidents: code that uses ds, es and ss as its kernel has set
//! them. The same pieces with prefixes of other segments reach the memory. That
//! shows that the test finds such accesses.

use crate::arena::{Arena, Boot, End, Stop, count};
use crate::sweep::all;

/// Runs pieces of code with `options`.
fn pieces(options: &[&str], kind: &str, seed: u32) -> (u64, End) {
    let cases = if all() { 300_000 } else { 10_000 };
    let arena = Arena::new("random");
    let end = arena.boot(&Boot {
        options: options.iter().map(Into::into).collect(),
        line: format!(
            "attack=random kind={kind} seed={seed} count={cases} quiet"
        ),
        script: &[],
        stop: Stop::Never,
    });
    (cases, end)
}

/// Checks that the attacker finds its kernel's memory unchanged.
#[track_caller]
fn leaves_the_kernel_alone(options: &[&str], kind: &str) {
    let seeds = if all() { 1..10 } else { 1..3 };
    for seed in seeds {
        let (cases, end) = pieces(options, kind, seed);
        assert_eq!(end.survived(), Some(cases), "seed {seed}: {end:?}");
        count(&format!("random {kind} code"), cases, 1, "");
    }
}

#[test]
fn with_the_usual_segments_does_not_reach_the_kernel() {
    leaves_the_kernel_alone(&[], "plain");
}

#[test]
fn of_any_kind_does_not_reach_an_isolated_kernel() {
    leaves_the_kernel_alone(&["--isolation=user"], "any");
}

/// Not promised: the default is not for untrusted programs.
#[test]
fn of_any_kind_reaches_the_kernel_by_default() {
    let (_, end) = pieces(&[], "any", 1);
    let reason = end.reason().unwrap_or_default();
    assert!(reason.contains("the kernel's word"), "{end:?}");
}
