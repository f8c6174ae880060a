//! Fuzzing: the same targets under libFuzzer, or under our own driver.
//!
//! libFuzzer needs a C++ compiler and code with coverage counters, which a
//! stable rustc can make. Without a C++ compiler, the driver in `fuzz/targets`
//! runs the same functions with random inputs. It does not measure coverage,
//! but it finds bugs that are easy to find.

use crate::place::{self, TARGET};
use crate::program::exists;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// How the targets are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Guided by coverage.
    LibFuzzer,
    /// Any inputs.
    Driver,
}

/// Compiles the entries that only fuzzing needs.
const DOORS: &str = "--cfg fuzzing";

/// The flags of cargo-fuzz, without the sanitizer, which needs a nightly
/// compiler.
const COVERAGE: &str = "\
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// The seed of libFuzzer.
const SEED: u32 = 2007;

/// The limits of an input, in seconds and in megabytes.
const PATIENCE: u32 = 20;
const MEMORY_MB: u32 = 2048;

/// How long CI fuzzes each target.
const SECONDS: u32 = 30;

/// How long to fuzz each target, in seconds: LGUEST_FUZZ_SECONDS, or CI's time.
pub fn seconds() -> u32 {
    let said = std::env::var("LGUEST_FUZZ_SECONDS").ok();
    said.and_then(|said| said.parse().ok()).unwrap_or(SECONDS)
}

impl Engine {
    /// The best engine on this machine.
    pub fn best() -> Self {
        if exists("c++") {
            Self::LibFuzzer
        } else {
            Self::Driver
        }
    }

    /// The name for output.
    pub fn name(self) -> &'static str {
        match self {
            Self::LibFuzzer => "libFuzzer",
            Self::Driver => "random inputs",
        }
    }

    /// Builds all targets.
    pub fn build(self, root: &Path) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(root.join("fuzz")).args([
            "build",
            "--release",
            "--locked",
        ]);
        match self {
            Self::LibFuzzer => cargo
                .args(["--package", "lg-fuzz-targets", "--target", TARGET])
                .env("RUSTFLAGS", format!("{DOORS} {COVERAGE}")),
            Self::Driver => cargo
                .args(["--package", "lg-fuzz", "--target-dir"])
                .arg("target/driver")
                .env("RUSTFLAGS", DOORS),
        };
        cargo
    }

    /// Runs one target for `seconds`.
    ///
    /// # Errors
    ///
    /// A folder for new inputs cannot be made.
    pub fn run(
        self,
        root: &Path,
        target: &str,
        seconds: u32,
    ) -> io::Result<Command> {
        let fuzz = root.join("fuzz");
        if self == Self::Driver {
            let built = fuzz.join("target/driver").join(TARGET);
            let mut command = Command::new(built.join("release/lg-fuzz"));
            command.args([target, "--seconds", &seconds.to_string()]);
            return Ok(command);
        }
        // New inputs go to a folder of their own. The corpus of the tree is
        // only read.
        let found = fuzz.join("target/corpus").join(target);
        let kept = fuzz.join("corpus").join(target);
        let artifacts = fuzz.join("artifacts").join(target);
        for folder in [&found, &kept, &artifacts] {
            fs::create_dir_all(folder)?;
        }
        let program = fuzz.join("target").join(TARGET).join("release");
        let mut command = Command::new(program.join(target));
        command
            .arg(found)
            .arg(kept)
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={seconds}"))
            // With the same seed every time, so that a failure can be repeated.
            .arg(format!("-seed={SEED}"))
            .arg(format!("-timeout={PATIENCE}"))
            .arg(format!("-rss_limit_mb={MEMORY_MB}"))
            .args(["-max_len=2048", "-print_final_stats=1"]);
        Ok(command)
    }

    /// A summary of a run, in a few words.
    pub fn summary(self, output: &str) -> String {
        match self {
            Self::LibFuzzer => {
                let lines = output.lines();
                let runs = lines.clone().find_map(|line| {
                    line.strip_prefix("stat::number_of_executed_units: ")
                });
                let coverage = lines.rev().find_map(|line| {
                    let (_, rest) = line.split_once(" cov: ")?;
                    rest.split_whitespace().next()
                });
                let runs = runs.unwrap_or("?");
                let coverage = coverage.unwrap_or("?");
                format!("{runs} executions, coverage {coverage}")
            }
            Self::Driver => {
                let last = output.lines().last().unwrap_or_default();
                let said = last.split_once(": ").map_or(last, |(_, s)| s);
                said.to_owned()
            }
        }
    }
}

/// The names of all targets.
pub fn targets(root: &Path) -> Vec<String> {
    let folder = root.join("fuzz/fuzz_targets");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> =
        files.filter_map(|file| stem(file.path())).collect();
    names.sort();
    names
}

/// `cargo xtask fuzz`: names the targets, or runs some of them.
pub fn main(words: &[&str]) -> ExitCode {
    let root = place::root();
    let all = targets(&root);
    let mut chosen = Vec::new();
    let mut seconds = seconds();
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        if word == "--seconds" {
            let said = words.next().and_then(|said| said.parse().ok());
            seconds = said.unwrap_or(seconds);
        } else if all.iter().any(|target| target == word) {
            chosen.push(word);
        } else {
            eprintln!("xtask: there is no fuzz target `{word}`");
            return ExitCode::from(2);
        }
    }
    if chosen.is_empty() {
        println!("{}", all.join("\n"));
        return ExitCode::SUCCESS;
    }
    let engine = Engine::best();
    let built = engine.build(&root).status();
    let mut good = built.is_ok_and(|status| status.success());
    for target in chosen {
        let status = engine.run(&root, target, seconds);
        let status = status.and_then(|mut command| command.status());
        good &= status.is_ok_and(|status| status.success());
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_libfuzzer_is_understood() {
        let output = "\
#2\tINITED cov: 20 ft: 30 corp: 1/1b exec/s: 0 rss: 40Mb
#9\tNEW    cov: 25 ft: 37 corp: 2/3b lim: 4 exec/s: 0 rss: 40Mb
stat::number_of_executed_units: 1234
";
        let summary = Engine::LibFuzzer.summary(output);
        assert_eq!(summary, "1234 executions, coverage 25");
    }

    #[test]
    fn every_target_has_a_body() {
        let root = place::root();
        let bodies = root.join("fuzz/targets/src");
        let names = targets(&root);
        assert!(names.len() >= 10, "{names:?}");
        for name in names {
            assert!(bodies.join(format!("{name}.rs")).exists(), "{name}");
        }
    }
}
