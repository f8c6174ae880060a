//! `cargo xtask soak many`: hundreds of idle machines beside each other.
//!
//! They are started one after the other. Then it is measured what all of them
//! cost, how long the list of them takes, and how long their end. Nothing may
//! be left of them. The figures of docs/machines.md are from this.

use crate::family::{family, pss};
use crate::runtime_folder::RuntimeFolder;
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
usage: cargo xtask soak many [--machines N] [--memory SIZE]

  --machines N   how many (300)
  --memory SIZE  the memory of each (16M)

It fails if all together use more than 4 GiB, if 'lguest ps' takes 100 ms or
more, or if something is left. LGUEST names the program; without it, target has
to have a release build.";

/// What all machines together may use, in KiB.
const MEMORY_MOST: f64 = 4.0 * 1024.0 * 1024.0;

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

fn run(options: &Options) -> Result<(), String> {
    let machines = RuntimeFolder::to_soak("many").map_err(|e| e.to_string())?;
    start(&machines, options)?;
    let (list, _) = machines.done(&["ps", "--json"])?;
    let launchers = processes(&list);
    if launchers.len() != options.machines {
        return Err(format!("'ps' lists {} of them", launchers.len()));
    }
    let families = launchers.iter().map(|&launcher| family(launcher));
    let all: Vec<u32> = families.flatten().collect();
    let memory: f64 = all.iter().map(|&process| pss(process)).sum();
    println!(
        "all together: {} processes, {:.0} MiB",
        all.len(),
        memory / 1024.0
    );
    let lists = (0..9).map(|_| Ok(machines.done(&["ps"])?.1));
    let mut lists = lists.collect::<Result<Vec<_>, String>>()?;
    lists.sort_unstable();
    let list = lists[lists.len() / 2];
    let (_, end) = machines.done(&["kill", "--all"])?;
    println!("ps takes {}, and kill --all {}", ms(list), ms(end));
    nothing_is_left(&machines, &all)?;
    if memory > MEMORY_MOST {
        return Err("they use more than 4 GiB".into());
    }
    if list >= LIST_MOST {
        return Err("the list takes too long".into());
    }
    println!("nothing is left");
    Ok(())
}

/// Starts all machines, one after the other.
fn start(machines: &RuntimeFolder, options: &Options) -> Result<(), String> {
    let mut starts = Vec::with_capacity(options.machines);
    let memory = format!("--memory={}", options.memory);
    for number in 0..options.machines {
        let name = format!("--name=m{number}");
        let words = ["run", "--detach", "--until=lguest> ", &name, &memory];
        starts.push(machines.done(&words)?.1);
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
fn nothing_is_left(
    machines: &RuntimeFolder,
    processes: &[u32],
) -> Result<(), String> {
    let left = processes.iter().filter(|&&process| lives(process)).count();
    if left > 0 {
        return Err(format!("{left} processes are left"));
    }
    let files = std::fs::read_dir(machines.folder());
    if files.is_ok_and(|mut files| files.next().is_some()) {
        let folder = machines.folder().display();
        return Err(format!("something is left in {folder}"));
    }
    Ok(())
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
    let list: Vec<Value> = serde_json::from_str(list).unwrap_or_default();
    let pids = list.iter().filter_map(|machine| machine["pid"].as_u64());
    pids.flat_map(u32::try_from).collect()
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
        assert!(lives(std::process::id()));
    }
}
