//! A run of CI: commands, their results, and the counts.
//!
//! It prints a line for each command. If a command fails, it prints the end of
//! the command's log, too. The counts come last.

use crate::program::{self, Ended};
use crate::tally::{self, Tally};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// The time limit of each program.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// How much of a log is shown after a failure.
const SHOWN: usize = 80;

/// A run of CI.
pub struct Ci {
    /// The root of the tree.
    pub root: PathBuf,
    /// `--quick`: leave out long steps.
    pub quick: bool,
    start: Instant,
    step: &'static str,
    tally: Tally,
    not_done: Vec<String>,
    wrong: Vec<String>,
    failures: Vec<String>,
}

/// How the end of a program is judged.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// By its exit status.
    Status,
    /// By the results of its tests, of which each counts.
    Tests,
    /// By its exit status. This one means "cannot be done here".
    StatusOrSkip(i32),
}

impl Ci {
    /// A run that has done nothing yet.
    pub fn new(root: PathBuf, quick: bool) -> Self {
        Self {
            root,
            quick,
            start: Instant::now(),
            step: "",
            tally: Tally::default(),
            not_done: Vec::new(),
            wrong: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Begins a step. The next commands belong to it.
    pub fn begin(&mut self, step: &'static str, what: &str) {
        println!("{step}: {what}");
        self.step = step;
    }

    /// Runs a cargo command in the root. The label is for the output.
    pub fn cargo(&mut self, label: &str, words: &str) -> bool {
        let mut command = Command::new("cargo");
        command.args(words.split_whitespace());
        self.command(label, command, Verdict::Status)
    }

    /// Runs a command in the root, and counts its result.
    pub fn command(
        &mut self,
        label: &str,
        command: Command,
        verdict: Verdict,
    ) -> bool {
        let Some(ended) = self.run(label, command, "") else {
            return false;
        };
        match verdict {
            Verdict::StatusOrSkip(code) if ended.code == Some(code) => {
                let why = ended.output.lines().last().unwrap_or_default();
                self.skip(label, why);
                false
            }
            Verdict::Tests => {
                let tally = Tally::of_tests(&ended.output, ended.succeeded());
                let skipped = tally::skipped(&ended.output);
                self.not_done.extend(skipped.map(str::to_owned));
                self.failures.extend(tally::failures(&ended.output));
                self.count(label, &ended, tally, &format!("  {tally}"))
            }
            _ => {
                let tally = Tally::one(ended.succeeded());
                self.count(label, &ended, tally, "")
            }
        }
    }

    /// Runs a command in the root. The caller judges and counts the result. A
    /// command that cannot be started is counted here.
    pub fn run(
        &mut self,
        label: &str,
        mut command: Command,
        input: &str,
    ) -> Option<Ended> {
        if command.get_current_dir().is_none() {
            command.current_dir(&self.root);
        }
        let log = self.log(label);
        match program::run(command, input, &log, PATIENCE) {
            Ok(ended) => Some(ended),
            Err(error) => {
                self.fail(label, &error.to_string());
                None
            }
        }
    }

    /// Runs commands, as many at a time as there are processors, and calls
    /// `done` for each that has ended. One that cannot be started is counted.
    pub fn run_together(
        &mut self,
        commands: Vec<(String, Command)>,
        mut done: impl FnMut(&mut Self, &str, &Ended),
    ) {
        let together = thread::available_parallelism().map_or(1, usize::from);
        let commands = commands
            .into_iter()
            .map(|(label, command)| (self.log(&label), label, command));
        let commands = Mutex::new(commands.collect::<Vec<_>>().into_iter());
        let (sender, ended) = channel();
        thread::scope(|scope| {
            for _ in 0..together {
                let (commands, sender) = (&commands, sender.clone());
                scope.spawn(move || {
                    loop {
                        let next =
                            commands.lock().ok().and_then(|mut c| c.next());
                        let Some((log, label, command)) = next else {
                            break;
                        };
                        let ended = program::run(command, "", &log, PATIENCE);
                        if sender.send((label, ended)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for (label, ended) in ended {
                match ended {
                    Ok(ended) => done(self, &label, &ended),
                    Err(error) => self.fail(&label, &error.to_string()),
                }
            }
        });
    }

    /// Where the log of a command goes.
    fn log(&self, label: &str) -> PathBuf {
        let name =
            format!("{} {label}.log", self.step).replace([' ', '/'], "-");
        self.root.join("target/ci").join(name)
    }

    /// Records a program's result, and prints the end of its log after a
    /// failure.
    pub fn count(
        &mut self,
        label: &str,
        ended: &Ended,
        tally: Tally,
        remark: &str,
    ) -> bool {
        let good = tally.failed == 0;
        let word = if good { "ok" } else { "FAILED" };
        let seconds = ended.time.as_secs_f64();
        println!("  {word:6} {label:38} {seconds:6.1} s{remark}");
        self.tally += tally;
        if !good {
            let lines: Vec<&str> = ended.output.lines().collect();
            let from = lines.len().saturating_sub(SHOWN);
            for line in &lines[from..] {
                println!("  | {line}");
            }
            println!("  | all of it: {}", ended.log.display());
            self.wrong.push(format!("{}: {label}", self.step));
        }
        good
    }

    /// Records a failure without a log.
    pub fn fail(&mut self, label: &str, why: &str) {
        println!("  FAILED {label}: {why}");
        self.tally += Tally::one(false);
        self.wrong.push(format!("{}: {label}: {why}", self.step));
    }

    /// Records a success without a log.
    pub fn pass(&mut self, label: &str) {
        println!("  ok     {label}");
        self.tally += Tally::one(true);
    }

    /// Records that something cannot be done on this machine.
    pub fn skip(&mut self, label: &str, why: &str) {
        println!("  SKIPPED {label}: {why}");
        self.tally += Tally::SKIPPED;
        self.not_done
            .push(format!("SKIPPED {}: {label}: {why}", self.step));
    }

    /// Prints what was skipped, the failures, and the counts. Failed tests come
    /// late, so that they are in the kept part of a long log.
    pub fn sum_up(&self) -> ExitCode {
        let time = self.start.elapsed();
        println!();
        for line in &self.not_done {
            println!("{line}");
        }
        for test in &self.failures {
            println!("{test}");
        }
        for line in &self.wrong {
            println!("FAILED {line}");
        }
        println!("{:.0} seconds", time.as_secs_f64());
        println!("{}", self.tally);
        ExitCode::from(u8::from(self.tally.failed != 0))
    }
}
