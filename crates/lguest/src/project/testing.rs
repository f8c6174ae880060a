//! Tests that run in guests, reported in the form of cargo's own tests.
//!
//! The image is run once for the list of its tests, and then once for each of
//! them, several at a time. A process of this program runs each guest, so that
//! a test that crashes, hangs or is killed is one failed test. Names and output
//! come from guests: they are bounded, and printed only in a safe form.

use super::error::ProjectError;
use super::runner::{MARK, OF_TESTS, run_words};
use crate::cli::exit::Outcome;
use crate::engine::printable;
use crate::lock::lock;
use clap::Parser;
use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// The most that is kept of what a guest prints.
const OUTPUT: u64 = 1 << 20;

/// The exit code of a guest that has crashed, and the words before the message
/// of a panic.
const CRASHED: i32 = 1;
const PANIC: &str = "CRASH: panic";

/// What the user asks of an image of tests: the words of `cargo test -- ...`.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "cargo test --", about = "Run tests, each in a guest")]
pub struct Choice {
    /// Only tests whose name has one of these in it
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Only tests whose name is a filter
    #[arg(long)]
    exact: bool,
    /// No tests whose name has this in it
    #[arg(long, value_name = "FILTER")]
    skip: Vec<String>,
    /// Only ignored tests
    #[arg(long)]
    ignored: bool,
    /// Ignored tests, too
    #[arg(long)]
    include_ignored: bool,
    /// List the tests
    #[arg(long)]
    list: bool,
    /// Print what passed tests have printed, too
    #[arg(long, visible_alias = "nocapture")]
    show_output: bool,
    /// How many guests run at a time
    #[arg(long, value_name = "N")]
    test_threads: Option<usize>,
    /// How long a test may take
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: String,
}

/// A test, as its image names it.
#[derive(Debug, PartialEq, Eq)]
struct Test {
    name: String,
    should_panic: bool,
    ignored: bool,
}

/// What became of a test.
struct Verdict {
    /// Why it has failed, if it has.
    failure: Option<String>,
    output: String,
    took: Duration,
}

/// The counts of a run, and the failures.
#[derive(Default)]
struct Tally {
    next: usize,
    passed: usize,
    failed: Vec<(String, String)>,
}

impl Choice {
    fn takes(&self, test: &Test) -> bool {
        let fits = |filter: &String| match self.exact {
            true => test.name == *filter,
            false => test.name.contains(filter),
        };
        let is_chosen =
            self.filters.is_empty() || self.filters.iter().any(fits);
        is_chosen
            && !self.skip.iter().any(fits)
            && (test.ignored || !self.ignored)
    }

    fn ignores(&self, test: &Test) -> bool {
        test.ignored && !self.ignored && !self.include_ignored
    }
}

/// Runs the tests of `image`, and reports them on standard output.
///
/// # Errors
///
/// [`ProjectError`]: the image does not list its tests, or no process can be
/// started.
pub fn run(image: &Path, choice: &Choice) -> Result<Outcome, ProjectError> {
    let all = list(image)?;
    let tests: Vec<&Test> = all.iter().filter(|t| choice.takes(t)).collect();
    if choice.list {
        for test in &tests {
            say(&format!("{}: test", test.name));
        }
        say(&format!("\n{} tests, 0 benchmarks", tests.len()));
        return Ok(Outcome::PoweredOff(0));
    }
    let plural = if tests.len() == 1 { "" } else { "s" };
    say(&format!("\nrunning {} test{plural}", tests.len()));
    let started = Instant::now();
    let (ignored, tests): (Vec<&Test>, Vec<&Test>) =
        tests.into_iter().partition(|test| choice.ignores(test));
    for test in &ignored {
        say(&format!("test {} ... ignored", test.name));
    }
    let tally = in_threads(image, choice, &tests)?;
    let filtered = all.len() - tests.len() - ignored.len();
    report(&tally);
    let verdict = match tally.failed.is_empty() {
        true => "ok",
        false => "FAILED",
    };
    say(&format!(
        "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; \
         {filtered} filtered out; finished in {:.2}s\n",
        tally.passed,
        tally.failed.len(),
        ignored.len(),
        started.elapsed().as_secs_f64(),
    ));
    Ok(match tally.failed.is_empty() {
        true => Outcome::PoweredOff(0),
        false => Outcome::TestsFailed,
    })
}

/// Runs the tests, several at a time.
fn in_threads(
    image: &Path,
    choice: &Choice,
    tests: &[&Test],
) -> Result<Tally, ProjectError> {
    let usual = || thread::available_parallelism().map_or(1, usize::from);
    let threads = choice.test_threads.unwrap_or_else(usual).max(1);
    let tally = Mutex::new(Tally::default());
    let work = || -> io::Result<()> {
        loop {
            let next = {
                let mut tally = lock(&tally);
                tally.next += 1;
                tests.get(tally.next - 1)
            };
            let Some(test) = next else { return Ok(()) };
            let verdict = try_one(image, choice, test)?;
            note(&mut lock(&tally), test, verdict, choice.show_output);
        }
    };
    let all_right = thread::scope(|scope| {
        let start = |_| thread::Builder::new().spawn_scoped(scope, work);
        let started: io::Result<Vec<_>> =
            (0..threads.min(tests.len())).map(start).collect();
        let ended = started?.into_iter().map(|thread| {
            let lost = |_| Err(io::Error::other("a thread has panicked"));
            thread.join().unwrap_or_else(lost)
        });
        ended.collect::<io::Result<Vec<()>>>()
    });
    all_right.map_err(|e| ProjectError::Process("run the tests", e))?;
    Ok(tally.into_inner().unwrap_or_default())
}

/// Prints the line of a test that has ended.
fn note(tally: &mut Tally, test: &Test, verdict: Verdict, show: bool) {
    let Verdict {
        failure,
        mut output,
        took,
    } = verdict;
    let word = if failure.is_some() { "FAILED" } else { "ok" };
    let attribute = if test.should_panic {
        " - should panic"
    } else {
        ""
    };
    let seconds = took.as_secs_f64();
    say(&format!(
        "test {}{attribute} ... {word} <{seconds:.3}s>",
        test.name
    ));
    match failure {
        Some(why) => {
            output += &why;
            tally.failed.push((test.name.clone(), output));
        }
        None => {
            tally.passed += 1;
            if show && !output.is_empty() {
                say(&format!("---- {} output ----\n{output}", test.name));
            }
        }
    }
}

/// Prints what failed tests have printed, and their names.
fn report(tally: &Tally) {
    if tally.failed.is_empty() {
        return;
    }
    say("\nfailures:\n");
    for (name, output) in &tally.failed {
        say(&format!("---- {name} output ----\n{output}\n"));
    }
    say("\nfailures:");
    for (name, _) in &tally.failed {
        say(&format!("    {name}"));
    }
}

/// Runs one test.
fn try_one(image: &Path, choice: &Choice, test: &Test) -> io::Result<Verdict> {
    let started = Instant::now();
    let word = format!("test={}", test.name);
    let (status, output) = guest(image, &word, &choice.timeout)?;
    let code = status.code().unwrap_or(-1);
    let panicked = code == CRASHED && output.contains(PANIC);
    let failure = match (code, test.should_panic) {
        (0, false) => None,
        (0, true) => Some("the test has not panicked as it should".into()),
        _ if test.should_panic && panicked => None,
        _ if i32::from(Outcome::TimedOut.code()) == code => Some(format!(
            "the test took longer than {}: raise it by --timeout",
            choice.timeout
        )),
        (code, _) => Some(format!("the guest has ended with code {code}")),
    };
    Ok(Verdict {
        failure,
        output,
        took: started.elapsed(),
    })
}

/// Asks the image for its tests.
fn list(image: &Path) -> Result<Vec<Test>, ProjectError> {
    let fails = |error| ProjectError::Process("ask for the tests", error);
    let (status, output) = guest(image, "list-tests", "60s").map_err(fails)?;
    let not = |why: String| ProjectError::Tests {
        image: image.into(),
        why,
    };
    let mut lines = output.lines();
    if !status.success() || lines.next() != Some(MARK) {
        let why = "it does not list its tests, but says: ";
        return Err(not(format!("{why}{}", printable(output.as_bytes()))));
    }
    let test = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let rest: Vec<&str> = words.collect();
        let has = |word| rest.contains(&word);
        Some(Test {
            name,
            should_panic: has("should_panic"),
            ignored: has("ignore"),
        })
    };
    Ok(lines.filter_map(test).collect())
}

/// Runs a guest of `image` with `word` as its command line. Returns what it has
/// printed, and the process that runs it.
fn guest(
    image: &Path,
    word: &str,
    timeout: &str,
) -> io::Result<(ExitStatus, String)> {
    let mut words = run_words(image, &[OsString::from(word)], OF_TESTS);
    words.extend(["--timeout", timeout].map(OsString::from));
    words.push("--die-with-parent".into());
    let (mut shown, output) = io::pipe()?;
    let mut command = Command::new(env::current_exe()?);
    command.args(&words[1..]).stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output);
    let mut child = command.spawn()?;
    // It has the other end.
    drop(command);
    let mut bytes = Vec::new();
    (&mut shown).take(OUTPUT).read_to_end(&mut bytes)?;
    io::copy(&mut shown, &mut io::sink())?;
    Ok((child.wait()?, safe(&bytes)))
}

/// The lines of a guest, without what a terminal would carry out.
fn safe(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(|line| printable(line.as_bytes()) + "\n");
    lines.collect()
}

/// Prints a line, if there is a reader.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The words of `cargo test -- ...`.
///
/// # Errors
///
/// They make no sense, or ask for help.
pub fn choice(words: &[OsString]) -> Result<Choice, clap::Error> {
    let name = OsString::from("cargo test --");
    Choice::try_parse_from([name].iter().chain(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(words: &[&str], name: &str, ignored: bool) -> (bool, bool) {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let choice = choice(&words).unwrap();
        let test = Test {
            name: name.into(),
            should_panic: false,
            ignored,
        };
        (choice.takes(&test), choice.ignores(&test))
    }

    #[test]
    fn tests_are_chosen_as_cargo_does() {
        assert_eq!(takes(&[], "one", false), (true, false));
        assert_eq!(takes(&["on"], "one", false), (true, false));
        assert_eq!(takes(&["two", "n"], "one", false), (true, false));
        assert_eq!(takes(&["on", "--exact"], "one", false), (false, false));
        assert_eq!(takes(&["--skip", "ne"], "one", false), (false, false));
        assert_eq!(takes(&[], "one", true), (true, true));
        assert!(!takes(&["--ignored"], "one", false).0);
        assert_eq!(takes(&["--ignored"], "one", true), (true, false));
        assert_eq!(takes(&["--include-ignored"], "x", true), (true, false));
        assert!(choice(&["--nonsense".into()]).is_err());
    }

    #[test]
    fn a_guest_cannot_speak_to_the_terminal() {
        assert_eq!(safe(b"a\x1b[2J\r\nb\n"), "a\\u{1b}[2J\nb\n");
    }
}
