//! The memory and processor time that processes use.
//!
//! A system is a process with all that it has started. So the figures include
//! its helpers.

use crate::family::{family, tasks};
use std::fs;
use std::time::{Duration, Instant};

/// Memory of a system in KiB, without its guest's, and its page tables. A
/// shared page is divided among its users.
pub(super) struct Memory {
    pub(super) own: f64,
    pub(super) page_tables: f64,
}

/// The memory of a system without its guest's, which is mapped from files of
/// these names.
pub(super) fn memory(process: u32, guest: &[&str]) -> Memory {
    let mut memory = Memory {
        own: 0.0,
        page_tables: 0.0,
    };
    for process in family(process) {
        let maps = read(&format!("/proc/{process}/smaps"));
        memory.own += beyond(&maps, guest);
        let status = read(&format!("/proc/{process}/status"));
        let line = status.lines().find_map(|l| l.strip_prefix("VmPTE:"));
        memory.page_tables += line.map_or(0.0, kib);
    }
    memory
}

/// KiB of the mappings in an `smaps` that are of no such file.
fn beyond(maps: &str, guest: &[&str]) -> f64 {
    let mut counts = true;
    let mut sum = 0.0;
    for line in maps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            counts = !guest.iter().any(|name| line.contains(name));
        } else if let Some(pss) = line.strip_prefix("Pss:").filter(|_| counts) {
            sum += kib(pss);
        }
    }
    sum
}

fn kib(text: &str) -> f64 {
    let number = text.split_whitespace().next();
    number.and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

/// How much of one processor these systems use, in percent, over a time.
pub(super) fn load(processes: &[u32], time: Duration) -> f64 {
    let all: Vec<u32> = processes.iter().flat_map(|&p| family(p)).collect();
    let spent = || all.iter().map(|&p| run_time(p)).sum::<Duration>();
    let start = Instant::now();
    let before = spent();
    std::thread::sleep(time);
    let used = spent().saturating_sub(before);
    100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64()
}

/// The processor time of all threads of a process.
fn run_time(process: u32) -> Duration {
    let tasks = tasks(process);
    let times = tasks.iter().map(|task| {
        let text = read(&format!("{task}/schedstat"));
        let first = text.split_whitespace().next();
        first.and_then(|n| n.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(times.sum())
}

/// A file in /proc; empty if the process has ended.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_memory_does_not_count() {
        let maps = "\
10000-20000 rw-s 00000000 00:01 5 /memfd:lguest-memory (deleted)
Size:                 64 kB
Pss:                  40 kB
30000-40000 rw-p 00000000 00:00 0
Pss:                   7 kB
Pss_Dirty:             6 kB
40000-50000 r-xp 00000000 00:01 9 /bin/x
Pss:                   1 kB
";
        assert_eq!(beyond(maps, &["lguest-memory"]), 8.0);
        assert_eq!(beyond(maps, &[]), 48.0);
    }

    #[test]
    fn a_process_that_sleeps_uses_no_time_but_memory() {
        let mut sleeper = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let used = load(&[sleeper.id()], Duration::from_millis(100));
        let memory = memory(sleeper.id(), &[]);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(used < 50.0, "{used}");
        assert!(memory.own > 0.0 && memory.page_tables > 0.0);
    }
}
