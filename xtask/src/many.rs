//! `cargo xtask soak many`: hundreds of idle machines beside each other.
//!
//! They are started one after the other. Then it is measured what all of them
//! cost, how long the list of them takes, and how long their end. Nothing may
//! be left of them. The figures of docs/machines.md are from this.

use crate::family::family;
use crate::place;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const HELP: &str = "\
usage: cargo xtask soak many [--machines N] [--memory SIZE]

  --machines N   how many (300)
  --memory SIZE  the memory of each (16M)

It fails if all together use more than 4 GiB, if 'lguest ps' takes 100 ms or
more, or if something is left. LGUEST names the program; without it, target has
to have a release build.";

/// What all machines together may use, in KiB.
const MEMORY_MOST: u64 = 4 << 20;

/// What `lguest ps` may take.
const LIST_MOST: Duration = Duration::from_millis(100);

/// How many starts are averaged, at the beginning and at the end.
const SOME: usize = 30;

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    machines: usize,
    memory: String,
}

impl Options {
    fn read(words: &[&str]) -> Option<Self> {
        let mut options = Self {
            machines: 300,
            memory: "16M".into(),
        };
        for pair in words.chunks(2) {
            match *pair {
                ["--machines", value] => {
                    options.machines = value.parse().ok()?
                }
                ["--memory", value] => options.memory = value.to_owned(),
                _ => return None,
            }
        }
        (options.machines > 0).then_some(options)
    }
}

/// Runs the command. `words` are those behind `soak many`.
pub(crate) fn main(words: &[&str]) -> ExitCode {
    let Some(options) = Options::read(words) else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where the machines are.
struct Place {
    lguest: PathBuf,
    folder: PathBuf,
}

impl Place {
    fn prepare() -> std::io::Result<Self> {
        let root = place::root();
        let named = std::env::var_os("LGUEST").map(PathBuf::from);
        let lguest = named.unwrap_or_else(|| place::release(&root));
        let folder = format!("target/soak/many-{}", std::process::id());
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder)?;
        let lguest = std::fs::canonicalize(lguest)?;
        Ok(Self { lguest, folder })
    }

    /// Runs a command that has to succeed. Returns its output, and how long it
    /// took.
    fn done(&self, words: &[&str]) -> Result<(String, Duration), String> {
        let mut command = Command::new(&self.lguest);
        command.args(words).env("XDG_RUNTIME_DIR", &self.folder);
        let start = Instant::now();
        let output = command.output().map_err(|error| error.to_string())?;
        let time = start.elapsed();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok((said(&output.stdout), time)),
            false => Err(format!("{words:?}: {}", said(&output.stderr))),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.done(&["kill", "--all"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(options: &Options) -> Result<(), String> {
    let place = Place::prepare().map_err(|error| error.to_string())?;
    place.start(options)?;
    let (list, _) = place.done(&["ps", "--json"])?;
    let launchers = processes(&list);
    if launchers.len() != options.machines {
        return Err(format!("'ps' lists {} of them", launchers.len()));
    }
    let families = launchers.iter().map(|&launcher| family(launcher));
    let all: Vec<u32> = families.flatten().collect();
    let memory: u64 = all.iter().map(|&process| memory_of(process)).sum();
    println!(
        "all together: {} processes, {} MiB",
        all.len(),
        memory >> 10
    );
    let lists = (0..9).map(|_| Ok(place.done(&["ps"])?.1));
    let mut lists = lists.collect::<Result<Vec<_>, String>>()?;
    lists.sort_unstable();
    let list = lists[lists.len() / 2];
    let (_, end) = place.done(&["kill", "--all"])?;
    println!("ps takes {}, and kill --all {}", ms(list), ms(end));
    place.is_empty(&all)?;
    if memory > MEMORY_MOST {
        return Err("they use more than 4 GiB".into());
    }
    if list >= LIST_MOST {
        return Err("the list takes too long".into());
    }
    println!("nothing is left");
    Ok(())
}

impl Place {
    /// Starts all machines, one after the other.
    fn start(&self, options: &Options) -> Result<(), String> {
        let mut starts = Vec::with_capacity(options.machines);
        let memory = format!("--memory={}", options.memory);
        for number in 0..options.machines {
            let name = format!("--name=m{number}");
            let words = ["run", "--detach", "--until=lguest> ", &name, &memory];
            starts.push(self.done(&words)?.1);
        }
        let some = SOME.min(starts.len());
        let first = mean(&starts[..some]);
        let last = mean(&starts[starts.len() - some..]);
        println!(
            "{} machines with {}: the first {some} started in {} each, the \
             last {some} in {}",
            starts.len(),
            options.memory,
            ms(first),
            ms(last),
        );
        Ok(())
    }

    /// Whether these processes have ended and no file is there.
    fn is_empty(&self, processes: &[u32]) -> Result<(), String> {
        let left = processes.iter().filter(|&&process| lives(process)).count();
        if left > 0 {
            return Err(format!("{left} processes are left"));
        }
        let files = std::fs::read_dir(&self.folder);
        if files.is_ok_and(|mut files| files.next().is_some()) {
            let folder = self.folder.display();
            return Err(format!("something is left in {folder}"));
        }
        Ok(())
    }
}

fn mean(times: &[Duration]) -> Duration {
    let number = u32::try_from(times.len()).unwrap_or(1).max(1);
    times.iter().sum::<Duration>() / number
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// The processes of the Launchers in a list as JSON.
fn processes(list: &str) -> Vec<u32> {
    let after = list.split("\"pid\":").skip(1);
    after
        .filter_map(|rest| {
            let rest = rest.trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            rest[..end].parse().ok()
        })
        .collect()
}

/// The memory of a process in KiB; a shared page is divided among its users.
fn memory_of(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"));
    let text = text.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether a process is there, and no zombie.
fn lives(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_say_how_many() {
        let options = Options::read(&[]).unwrap();
        assert_eq!((options.machines, &*options.memory), (300, "16M"));
        let words = ["--machines", "3", "--memory", "4M"];
        let options = Options::read(&words).unwrap();
        assert_eq!((options.machines, &*options.memory), (3, "4M"));
        for bad in [&["--machines"][..], &["--machines", "0"], &["x", "1"]] {
            assert_eq!(Options::read(bad), None);
        }
    }

    #[test]
    fn a_list_has_processes() {
        let list = "[\n {\"pid\": 12, \"x\": 1}, {\"pid\":7}\n]";
        assert_eq!(processes(list), [12, 7]);
        assert!(memory_of(std::process::id()) > 0);
        assert!(lives(std::process::id()));
    }
}
