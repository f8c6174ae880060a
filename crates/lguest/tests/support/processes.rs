//! The processes of a virtual machine, as /proc has them.
//!
//! The views are children of the Launcher, like the view spawner, and carry its
//! name; so every child of a Launcher is a part of its machine.

use std::fs;
use std::time::{Duration, Instant};

/// A process, as long as it runs. Its number may be given to another one, but
/// not with the same start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    born: u64,
}

/// The contents of /proc/PID/stat.
struct Stat {
    parent: u32,
    session: u32,
    state: char,
    ticks: u64,
    born: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain any text, so this parses from the last parenthesis.
    let rest = text.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        born: number(19)?,
    })
}

impl Process {
    /// The process with this number.
    pub(crate) fn find(pid: u32) -> Option<Self> {
        let born = stat(pid)?.born;
        Some(Self { pid, born })
    }

    /// Whether it still runs; a zombie does not.
    pub(crate) fn lives(self) -> bool {
        stat(self.pid)
            .is_some_and(|s| s.born == self.born && !"ZX".contains(s.state))
    }

    /// Ticks of the clock that it has used, its threads' together.
    pub(crate) fn ticks(self) -> u64 {
        stat(self.pid).map_or(0, |s| s.ticks)
    }

    /// How often its threads went to sleep or were preempted.
    pub(crate) fn switches(self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid));
        let threads = threads.into_iter().flatten().flatten();
        let of = |path: std::path::PathBuf| -> u64 {
            let text = fs::read_to_string(path.join("status"));
            let text = text.unwrap_or_default();
            let counts = text.lines().filter_map(|line| {
                let (name, count) = line.split_once(':')?;
                name.ends_with("ctxt_switches").then_some(())?;
                count.trim().parse::<u64>().ok()
            });
            counts.sum()
        };
        threads.map(|thread| of(thread.path())).sum()
    }

    /// Waits until it has a thread of this name.
    #[track_caller]
    pub(crate) fn wait_for_thread(self, name: &str) {
        assert!(self.has_thread_or_ends(name), "{self:?} has ended");
    }

    /// Waits until it has a thread of this name, or has ended. Returns whether
    /// there is that thread.
    #[track_caller]
    pub(crate) fn has_thread_or_ends(self, name: &str) -> bool {
        let has_it = || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid));
            threads.into_iter().flatten().flatten().any(|thread| {
                let comm = fs::read_to_string(thread.path().join("comm"));
                comm.is_ok_and(|comm| comm.trim() == name)
            })
        };
        let deadline = Instant::now() + super::PATIENCE;
        while self.lives() {
            if has_it() {
                return true;
            }
            assert!(Instant::now() < deadline, "{self:?} has no {name}");
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Its name.
    pub(crate) fn name(self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid));
        name.unwrap_or_default().trim().to_owned()
    }

    /// Sends it a signal.
    pub(crate) fn signal(self, signal: i32) {
        let pid = i32::try_from(self.pid).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// Reaps it if it is a child of this process that has ended.
    pub(crate) fn reap(self) {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Some(pid) = pid {
            // Another thread may have reaped it.
            let _ = waitid(WaitId::Pid(pid), options);
        }
    }

    /// Waits until it has gone.
    #[track_caller]
    pub(crate) fn wait_until_gone(self) {
        let deadline = Instant::now() + super::PATIENCE;
        while self.lives() {
            assert!(Instant::now() < deadline, "{self:?} does not go");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The children of process `pid`, the oldest first. Of two that are as old as
/// each other, to a tick, the one that leads a session is first: the view
/// spawner. Numbers begin again after the largest, and decide last.
pub(crate) fn children(pid: u32) -> Vec<Process> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let child = |child: u32| {
        let stat = stat(child).filter(|stat| stat.parent == pid)?;
        Some((stat.born, stat.session != child, child))
    };
    let mut found: Vec<_> = numbers.filter_map(child).collect();
    found.sort_unstable();
    let found = found.into_iter();
    found.map(|(born, _, pid)| Process { pid, born }).collect()
}

/// Waits until the spare user has no processes from the run before. Those that
/// the Launcher did not reap count until the machine's first process has reaped
/// them.
#[track_caller]
pub(crate) fn wait_until_the_user_has_no_processes() {
    let user = format!("\nUid:\t{}\t", super::spare_user());
    let is_of_the_user = |entry: fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status"));
        status.is_ok_and(|status| status.contains(&user))
    };
    let deadline = Instant::now() + super::PATIENCE;
    let all = || fs::read_dir("/proc").unwrap().flatten();
    while all().any(is_of_the_user) {
        assert!(Instant::now() < deadline, "a process stays");
        std::thread::sleep(Duration::from_millis(5));
    }
}
