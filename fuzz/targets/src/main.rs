//! A driver for the targets that needs only a stable compiler.
//!
//! Inputs are random, or random changes of the corpus. The seed is printed, and
//! the same seed makes the same inputs. The driver does not measure coverage,
//! so libFuzzer finds more. An input that panics or does not end is kept in
//! `artifacts`.

use lg_fuzz::{TARGETS, Target};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const HELP: &str = "\
usage: lg-fuzz TARGET [--seconds N] [--seed N] [FILE...]

Runs the target with random inputs, or with these files.
targets:";

/// No input may take longer.
const PATIENCE: u64 = 20;

/// The longest random input.
const MAX_LEN: usize = 1024;

/// The input that is being run, so that it can be kept if it fails.
static CURRENT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Inputs begun so far.
static BEGUN: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let Some(target) = TARGETS.iter().find(|t| t.name == name) else {
        eprintln!("{HELP}");
        for target in TARGETS {
            eprintln!("  {}", target.name);
        }
        return ExitCode::from(2);
    };
    let (mut seconds, mut seed) = (30, clock());
    let mut files = Vec::new();
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok());
        match word.as_str() {
            "--seconds" => seconds = number().unwrap_or(seconds),
            "--seed" => seed = number().unwrap_or(seed),
            _ => files.push(PathBuf::from(word)),
        }
    }
    watch(target.name);
    let done = if files.is_empty() {
        random(target, seconds, seed)
    } else {
        let runs = files
            .iter()
            .map(|file| fs::read(file).map(|input| run(target, &input)));
        runs.collect::<io::Result<Vec<bool>>>()
            .map(|all| all.iter().all(|good| *good))
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lg-fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs for `seconds`. Returns whether no input failed.
fn random(target: &Target, seconds: u64, seed: u64) -> io::Result<bool> {
    let corpus = corpus(target.name)?;
    let mut random = Random(seed | 1);
    let start = Instant::now();
    let (mut runs, mut good) = (0_u64, true);
    for input in &corpus {
        good &= run(target, input);
        runs += 1;
    }
    while good && start.elapsed() < Duration::from_secs(seconds) {
        let input = random.input(&corpus);
        good = run(target, &input);
        runs += 1;
    }
    println!(
        "{}: {runs} executions in {} s, corpus {}, seed {seed}",
        target.name,
        start.elapsed().as_secs(),
        corpus.len()
    );
    Ok(good)
}

/// Runs one input. Returns whether it succeeded. If not, it is kept.
fn run(target: &Target, input: &[u8]) -> bool {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    if let Ok(mut current) = CURRENT.lock() {
        current.clear();
        current.extend_from_slice(input);
    }
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if result.is_err() {
        keep(target.name, "crash", input);
    }
    result.is_ok()
}

/// Starts a thread that ends the process if an input does not end.
fn watch(name: &'static str) {
    std::thread::spawn(move || {
        let mut last = u64::MAX;
        loop {
            std::thread::sleep(Duration::from_secs(PATIENCE));
            let now = BEGUN.load(Ordering::Relaxed);
            if now == last {
                if let Ok(current) = CURRENT.lock() {
                    keep(name, "hang", &current);
                }
                std::process::exit(1);
            }
            last = now;
        }
    });
}

fn folder(kind: &str, name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join("..").join(kind).join(name)
}

fn keep(name: &str, how: &str, input: &[u8]) {
    let folder = folder("artifacts", name);
    let sum = input.iter().fold(0xCBF2_9CE4_8422_2325_u64, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
    });
    let file = folder.join(format!("{how}-{sum:016x}"));
    let kept =
        fs::create_dir_all(folder).and_then(|()| fs::write(&file, input));
    match kept {
        Ok(()) => eprintln!("lg-fuzz: {how}: see {}", file.display()),
        Err(error) => eprintln!("lg-fuzz: {how}, not kept: {error}"),
    }
}

fn corpus(name: &str) -> io::Result<Vec<Vec<u8>>> {
    let Ok(files) = fs::read_dir(folder("corpus", name)) else {
        return Ok(Vec::new());
    };
    let paths: io::Result<Vec<PathBuf>> =
        files.map(|file| Ok(file?.path())).collect();
    let mut paths = paths?;
    paths.sort();
    paths.into_iter().map(fs::read).collect()
}

fn clock() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    now.map_or(1, |now| now.as_secs())
}

/// Xorshift: fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap_or(0) % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    /// A changed input from the corpus, or a random one.
    fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        if corpus.is_empty() || self.below(8) == 0 {
            let len = self.below(MAX_LEN);
            return (0..len).map(|_| self.byte()).collect();
        }
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(8) {
            self.change(&mut input, corpus);
        }
        input.truncate(4 * MAX_LEN);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(6) {
            0 => input.insert(at, self.byte()),
            1 if at < input.len() => drop(input.remove(at)),
            2 if at < input.len() => input[at] = self.byte(),
            3 if at < input.len() => input[at] ^= 1 << self.below(8),
            4 => input.truncate(at),
            _ => {
                // The beginning of this one, the end of another.
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}
