//! The common part of the rows of all tables here.

use crate::support::{Finished, lguest, lguest_with, run};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The exit code for a machine that lacks something.
pub(crate) const BAD_MACHINE: i32 = 121;

/// Input that shows that the Guest and its programs work.
const LINES: &[u8] = b"run primes 100\necho it works\npoweroff\n";

/// Runs a Guest.
pub(crate) fn run_guest(take: impl Fn(&mut Command)) -> Finished {
    let mut command = lguest();
    take(&mut command);
    run(&mut command, LINES)
}

/// Runs the doctor, without programs in `PATH`.
pub(crate) fn ask_doctor(take: impl Fn(&mut Command)) -> Finished {
    let mut command = lguest_with("doctor");
    command.env("PATH", "/nonexistent");
    take(&mut command);
    run(&mut command, b"")
}

/// Checks that the run worked.
#[track_caller]
pub(crate) fn works(row: &str, end: &Finished) {
    assert_eq!(end.stderr, "", "{row}: {end:?}");
    assert_eq!(end.code(), 0, "{row}: {end:?}");
    assert!(end.stdout.contains("it works"), "{row}: {end:?}");
}

/// Checks that the run failed with one sentence and this code. Returns the
/// sentence.
#[track_caller]
pub(crate) fn says(row: &str, end: &Finished, code: i32) -> String {
    assert_eq!(end.code(), code, "{row}: {end:?}");
    let line = end.stderr.strip_suffix('\n').unwrap_or_default();
    assert!(line.starts_with("lguest: "), "{row}: {end:?}");
    assert!(!line.contains('\n'), "{row}: {end:?}");
    let blames = ["panicked", "killed:", "CRASH", "lost:", "trap"];
    let blamed = blames.iter().find(|word| line.contains(*word));
    assert_eq!(blamed, None, "{row}: {end:?}");
    let (what, cure) = line.split_once("; ").unwrap_or_default();
    assert!(what.contains("cannot "), "{row}: {line}");
    assert!(!cure.is_empty(), "{row}: no cure in {line}");
    line.to_owned()
}

/// Checks that the doctor says that no guest runs, with the same reason as
/// `run`: the text between the colon and the cure.
#[track_caller]
pub(crate) fn doctor_agrees(row: &str, found: &Finished, sentence: &str) {
    assert_eq!(found.code(), BAD_MACHINE, "{row}: {found:?}");
    assert_eq!(found.stderr, "", "{row}: {found:?}");
    let last = found.stdout.lines().last().unwrap_or_default();
    let lacks = "no guest can run here; lacking: ";
    assert!(last.starts_with(lacks), "{row}: {last}");
    let (what, cure) = sentence.split_once("; ").unwrap();
    let (_, why) = what
        .split_once(": cannot ")
        .unwrap_or(("", what.strip_prefix("lguest: cannot ").unwrap()));
    let (_, why) = why.split_once(": ").unwrap();
    let guest = line(found, "guest");
    assert!(guest.starts_with("lacks"), "{row}: {guest}");
    assert!(guest.contains(why), "{row}: {guest}: {why}");
    assert!(guest.ends_with(cure), "{row}: {guest}: {cure}");
}

/// The doctor's line about `name`.
#[track_caller]
pub(crate) fn line<'a>(found: &'a Finished, name: &str) -> &'a str {
    let named = |line: &&str| {
        let rest = line.split_once(' ').map(|(_, rest)| rest.trim_start());
        rest.is_some_and(|rest| rest.starts_with(name))
    };
    let line = found.stdout.lines().find(named);
    line.unwrap_or_else(|| panic!("no {name} in\n{}", found.stdout))
}

/// Does `test` with every one of `rows`, several at a time.
pub(crate) fn each<T: Sync, R: Send>(
    rows: &[T],
    test: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    /// A row spends most of its time waiting for processes.
    const AT_ONCE: usize = 4;
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let work = || {
            while let index = next.fetch_add(1, Ordering::Relaxed)
                && let Some(row) = rows.get(index)
            {
                let result = test(row);
                done.lock().unwrap().push((index, result));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|&(index, _)| index);
    done.into_iter().map(|(_, result)| result).collect()
}
