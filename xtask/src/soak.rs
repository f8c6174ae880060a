//! `cargo xtask soak snapshots`: a machine that is moved again and again.
//!
//! A machine runs under a load. Every 200 ms it is written into a snapshot,
//! killed, and restored. Each restored machine has to answer on its console,
//! and nothing in its output may look like damage. At the end the sizes of the
//! first and the last snapshots are compared.

use crate::many;
use crate::runtime_folder::{RuntimeFolder, figure};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
usage: cargo xtask soak snapshots [--minutes N] [--every MS] [--prompt TEXT]
                                  [--load LINE] [--again LINE] [-- OPTION...]

  --minutes N    how long (10)
  --every MS     how long each machine runs before it is moved (200)
  --prompt TEXT  what the guest prints when it takes commands ('lguest> ')
  --load LINE    is typed once, and goes on in the background
  --again LINE   is typed in each round ('run primes 200000' without options)
  -- OPTION...   options of 'lguest run': a kernel, an initial ram disk, disks
                 (the built-in guest)

LGUEST names the program; without it, target has to have a release build.";

/// The name of the machine.
const NAME: &str = "soak";

/// How long the answer of a machine may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What no output of a guest without damage has.
const DAMAGE: [&str; 8] = [
    "Oops",
    "BUG",
    "panic",
    "Call Trace",
    "Call trace",
    "WRONG",
    "rror:",
    "corrupt",
];

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    time: Duration,
    every: Duration,
    prompt: String,
    load: Option<String>,
    again: Option<String>,
    machine: Vec<String>,
}

impl Options {
    fn read(words: &[&str]) -> Option<Self> {
        let mut options = Self {
            time: Duration::from_secs(600),
            every: Duration::from_millis(200),
            prompt: "lguest> ".into(),
            load: None,
            again: None,
            machine: Vec::new(),
        };
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            if word == "--" {
                options.machine = words.by_ref().map(str::to_owned).collect();
                break;
            }
            let value = words.next()?;
            match word {
                "--minutes" => {
                    let minutes: u64 = value.parse().ok()?;
                    options.time = Duration::from_secs(minutes * 60);
                }
                "--every" => {
                    let milliseconds = value.parse().ok()?;
                    options.every = Duration::from_millis(milliseconds);
                }
                "--prompt" => options.prompt = value.to_owned(),
                "--load" => options.load = Some(value.to_owned()),
                "--again" => options.again = Some(value.to_owned()),
                _ => return None,
            }
        }
        if options.machine.is_empty() && options.again.is_none() {
            options.again = Some("run primes 200000".into());
        }
        Some(options)
    }
}

/// Runs the command. `words` are those behind `soak`.
pub fn main(words: &[&str]) -> ExitCode {
    if let Some((&"many", rest)) = words.split_first() {
        return many::main(rest);
    }
    let options = match words.split_first() {
        Some((&"snapshots", rest)) => Options::read(rest),
        _ => None,
    };
    let Some(options) = options else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    let soak = match Soak::prepare() {
        Ok(soak) => soak,
        Err(error) => {
            eprintln!("xtask: the soak cannot begin: {error}");
            return ExitCode::FAILURE;
        }
    };
    match soak.run(&options) {
        Ok(report) => {
            // What stays is below `target`.
            let _ = std::fs::remove_dir_all(&soak.saved);
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("xtask: {error}");
            eprintln!("xtask: the last snapshot is {}", soak.saved.display());
            ExitCode::FAILURE
        }
    }
}

/// Where the machine and its snapshot are.
struct Soak {
    machines: RuntimeFolder,
    saved: PathBuf,
}

impl Soak {
    fn prepare() -> std::io::Result<Self> {
        let machines = RuntimeFolder::to_soak("machines")?;
        let own = format!("snapshot-{}", std::process::id());
        let saved = machines.folder().with_file_name(own);
        Ok(Self { machines, saved })
    }

    /// Runs a command that has to succeed. Returns its output.
    fn done(&self, words: &[&str]) -> Result<String, String> {
        Ok(self.machines.done(words)?.0)
    }

    fn run(&self, options: &Options) -> Result<String, String> {
        let mut words = vec!["run", "--name", NAME, "--replace", "--detach"];
        words.extend(["--until", &options.prompt]);
        words.extend(options.machine.iter().map(String::as_str));
        self.done(&words)?;
        if let Some(load) = &options.load {
            self.done(&["send", NAME, load])?;
        }
        let saved = self.saved.display().to_string();
        let (start, mut rounds) = (Instant::now(), 0_u32);
        let mut sizes = Vec::new();
        let mut stood = Duration::ZERO;
        let (mut result, mut moved) = (None, Duration::ZERO);
        while start.elapsed() < options.time {
            std::thread::sleep(options.every);
            // A kernel may tell anything while it boots.
            if rounds > 0 {
                self.look(&mut result)?;
            }
            let begun = Instant::now();
            let said = self.done(&["snapshot", NAME, &saved])?;
            let told = |before, after| {
                figure(&said, before, after).unwrap_or_default()
            };
            sizes.push(told(": ", " MiB"));
            let ms = told("stood still for ", " ms");
            stood += Duration::from_secs_f64(ms / 1e3);
            self.done(&["kill", NAME])?;
            self.done(&["restore", &saved, "--name", NAME, "--detach"])?;
            moved += begun.elapsed();
            rounds += 1;
            self.answers(options, rounds, &mut result)?;
        }
        self.look(&mut result)?;
        self.done(&["kill", NAME])?;
        self.done(&["rm", "--all"])?;
        let some = sizes.len().div_ceil(10);
        let mean = |sizes: &[f64]| {
            let number = u32::try_from(sizes.len()).unwrap_or(1).max(1);
            sizes.iter().sum::<f64>() / f64::from(number)
        };
        let times = rounds.max(1);
        Ok(format!(
            "{rounds} snapshots and restores in {:.0} s, nothing wrong; \
             the guest stood {:.1} ms for a snapshot, a move took {:.0} ms; \
             {:.1} MiB in the first tenth of them, {:.1} MiB in the last",
            start.elapsed().as_secs_f64(),
            (stood / times).as_secs_f64() * 1e3,
            (moved / times).as_secs_f64() * 1e3,
            mean(&sizes[..some]),
            mean(&sizes[sizes.len() - some..]),
        ))
    }

    /// The restored machine takes a command, and carries it out.
    fn answers(
        &self,
        options: &Options,
        round: u32,
        result: &mut Option<String>,
    ) -> Result<(), String> {
        if let Some(again) = &options.again {
            self.done(&["send", NAME, again])?;
        }
        let line = format!("echo round{round}is right");
        self.done(&["send", NAME, &line])?;
        let wanted = format!("\nround{round}is right");
        let start = Instant::now();
        while !self.look(result)?.contains(&wanted) {
            if start.elapsed() > PATIENCE {
                return Err(format!("no answer in round {round}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Looks at what the machine has printed, and returns it. A program that
    /// prints a result always has the same one.
    fn look(&self, result: &mut Option<String>) -> Result<String, String> {
        let said = self.done(&["logs", NAME])?.replace('\r', "");
        if let Some(word) = DAMAGE.iter().find(|&&word| said.contains(word)) {
            return Err(format!("the guest has printed '{word}':\n{said}"));
        }
        let results = said.lines().filter(|line| line.starts_with("result "));
        for line in results {
            // Behind the result is the time that it took.
            let own = line.split_whitespace().take(2).collect::<Vec<_>>();
            let own = own.join(" ");
            let first = result.get_or_insert_with(|| own.clone());
            if *first != own {
                return Err(format!("it was '{first}', and is '{own}' now"));
            }
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_say_what_is_soaked() {
        let built_in = Options::read(&["--minutes", "2"]).unwrap();
        assert_eq!(built_in.time, Duration::from_secs(120));
        assert_eq!(built_in.again.as_deref(), Some("run primes 200000"));
        let linux = ["--load", "soak &", "--", "--kernel", "vmlinux"];
        let linux = Options::read(&linux).unwrap();
        assert_eq!(linux.again, None);
        assert_eq!(linux.machine, ["--kernel", "vmlinux"]);
        for bad in [&["--minutes"][..], &["--minutes", "x"], &["nothing", "1"]]
        {
            assert_eq!(Options::read(bad), None);
        }
    }
}
