//! Counts of passed, failed and skipped tests and checks.
//!
//! Tests and checks are counted in the same way, and the last line is the sum.
//! A test that cannot run on this machine prints `SKIPPED`, its name and the
//! reason, and then passes. Here it counts as skipped.

use std::fmt;
use std::ops::AddAssign;

/// The counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Passed.
    pub passed: usize,
    /// Failed.
    pub failed: usize,
    /// Could not be run here.
    pub skipped: usize,
}

impl Tally {
    /// The result of one check.
    pub fn one(passed: bool) -> Self {
        let passed = usize::from(passed);
        let failed = 1 - passed;
        Self {
            passed,
            failed,
            skipped: 0,
        }
    }

    /// One check that could not be run.
    pub const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// The results of the tests in the output of `cargo test`. A run that
    /// failed without a failed test counts as one failure.
    pub fn of_tests(output: &str, succeeded: bool) -> Self {
        let mut all = Self::default();
        for line in output.lines() {
            all += of_binary(line).unwrap_or_default();
        }
        let skipped = skipped(output).count();
        all.passed -= skipped.min(all.passed);
        all.skipped += skipped;
        if !succeeded && all.failed == 0 {
            all.failed = 1;
        }
        all
    }
}

/// The tests that reported that they could not run, and why. The test runner
/// does not see this output, so it may follow a line that the runner has begun.
pub fn skipped(output: &str) -> impl Iterator<Item = &str> {
    let said = output
        .lines()
        .filter_map(|line| line.find("SKIPPED ").map(|at| &line[at..]));
    said.filter(|line| !line.starts_with("SKIPPED in all: "))
}

/// How many lines of a failed test's output are repeated.
const LINES: usize = 12;

/// The tests that failed, each with the first lines of what it printed. Below
/// `failures:` the test runner prints `---- NAME stdout ----` and the output.
pub fn failures(output: &str) -> Vec<String> {
    let mut found: Vec<Vec<&str>> = Vec::new();
    let mut in_failures = false;
    let mut in_test = false;
    for line in output.lines() {
        match line {
            "failures:" => (in_failures, in_test) = (true, false),
            "successes:" => (in_failures, in_test) = (false, false),
            _ if line.starts_with("test result: ") => {
                (in_failures, in_test) = (false, false);
            }
            "stack backtrace:" => in_test = false,
            _ if !in_failures => {}
            _ if line.starts_with("---- ") && line.ends_with(" ----") => {
                in_test = true;
                found.push(vec![line]);
            }
            _ => {
                let test = found.last_mut().filter(|_| in_test);
                let room = |test: &&mut Vec<&str>| test.len() <= LINES;
                if let Some(test) = test.filter(room) {
                    test.push(line);
                }
            }
        }
    }
    found
        .iter()
        .map(|test| test.join("\n").trim_end().to_owned())
        .collect()
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`
fn of_binary(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut all = Tally::default();
    for part in counts.split("; ") {
        let (number, what) = part.split_once(' ')?;
        let Ok(number) = number.parse() else {
            continue;
        };
        match what {
            "passed" => all.passed = number,
            "failed" => all.failed = number,
            "ignored" => all.skipped = number,
            _ => {}
        }
    }
    Some(all)
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 3 tests
test a ... ok
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; \
finished in 0.02s
test b ... SKIPPED (1) b: needs root
SKIPPED in all: 1
test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
";

    #[test]
    fn binaries_are_added_up_and_skipped_tests_have_not_passed() {
        let all = Tally::of_tests(OUTPUT, false);
        assert_eq!(all.to_string(), "4 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn a_failed_test_is_named_with_what_it_printed() {
        let output = "
successes:

---- a stdout ----
fine

failures:

---- b::c stdout ----
before

thread 'b::c' panicked at b.rs:1:2:
not so
stack backtrace:
   0: one

---- d stdout ----
other

failures:
    b::c
    d

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured
";
        let expected = [
            "---- b::c stdout ----\nbefore\n\n\
             thread 'b::c' panicked at b.rs:1:2:\nnot so",
            "---- d stdout ----\nother",
        ];
        assert_eq!(failures(output), expected);
        assert!(failures(OUTPUT).is_empty());
    }

    #[test]
    fn a_run_that_does_not_compile_has_failed() {
        let all = Tally::of_tests("error: no such thing", false);
        assert_eq!(all, Tally::one(false));
    }
}
