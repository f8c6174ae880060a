//! Each limit at its edge, and its cure, which is run.
//!
//! The limits are soft ones, so that the cure can lift them. The cure is the
//! text between backticks in the sentence. A shell runs it under the same
//! limit, and then starts the command again.

use crate::rows::{
    BAD_MACHINE, ask_doctor, doctor_agrees, each, run_guest, says, works,
};
use crate::support::processes::wait_until_the_user_has_no_processes;
use crate::support::{PATIENCE, Scratch, is_here, skip, spare_user};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A resource, a soft limit that is too low, and a part of the message.
type Row = (&'static str, u32, u64, &'static str);

const ROWS: [Row; 14] = [
    (
        "fsize",
        libc::RLIMIT_FSIZE,
        0,
        "a file may have only 0 bytes",
    ),
    (
        "fsize",
        libc::RLIMIT_FSIZE,
        4096,
        "a file may have only 4 KiB",
    ),
    (
        "fsize",
        libc::RLIMIT_FSIZE,
        8 << 20,
        "a file may have only 8 MiB",
    ),
    ("data", libc::RLIMIT_DATA, 2 << 20, "only 2 MiB of data"),
    ("data", libc::RLIMIT_DATA, 4 << 20, "only 4 MiB of data"),
    ("data", libc::RLIMIT_DATA, 8 << 20, "only 8 MiB of data"),
    // A debug build of the command takes 20 MiB itself.
    (
        "as",
        libc::RLIMIT_AS,
        28 << 20,
        "only 28 MiB of address space",
    ),
    (
        "as",
        libc::RLIMIT_AS,
        32 << 20,
        "only 32 MiB of address space",
    ),
    ("nofile", libc::RLIMIT_NOFILE, 6, "may open only 6 files"),
    ("nofile", libc::RLIMIT_NOFILE, 9, "may open only 9 files"),
    ("nofile", libc::RLIMIT_NOFILE, 15, "may open only 15 files"),
    ("nofile", libc::RLIMIT_NOFILE, 18, "may open only 18 files"),
    (
        "stack",
        libc::RLIMIT_STACK,
        131_072,
        "only 128 KiB of stack",
    ),
    (
        "sigpending",
        libc::RLIMIT_SIGPENDING,
        0,
        "only 0 timers and waiting signals",
    ),
];

/// Sets a soft limit, which may be lifted again.
fn limit(command: &mut Command, resource: u32, soft: u64) {
    let set = move || {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel writes `limit`.
        unsafe { libc::getrlimit(resource, &raw mut limit) };
        limit.rlim_cur = soft.min(limit.rlim_max);
        // SAFETY: the kernel reads `limit`.
        unsafe { libc::setrlimit(resource, &raw const limit) };
        Ok(())
    };
    // SAFETY: between fork and exec, only system calls.
    unsafe { command.pre_exec(set) };
}

/// The command that a sentence advises.
fn cure(sentence: &str) -> &str {
    let mut parts = sentence.split('`');
    let cure = parts.nth(1).filter(|_| parts.next().is_some());
    cure.unwrap_or_else(|| panic!("no command in {sentence}"))
}

/// Makes a shell of `command` that does `first` and becomes the command.
fn after(first: &str, command: &mut Command) {
    let mut shell = Command::new("bash");
    let script = format!("{first} && exec \"$0\" \"$@\"");
    shell.args(["-c", &script]).arg(command.get_program());
    shell.args(command.get_args());
    *command = shell;
}

#[test]
fn limits_of_a_process() {
    let has_bash = is_here("bash");
    each(&ROWS, |&(name, resource, soft, words)| {
        let row = format!("{name}={soft}");
        let take = |command: &mut Command| limit(command, resource, soft);
        let sentence = says(&row, &run_guest(take), BAD_MACHINE);
        assert!(sentence.contains(words), "{row}: {sentence}");
        let found = ask_doctor(take);
        // Without a stack the doctor says the same before it begins.
        if name == "stack" {
            assert_eq!(says(&row, &found, BAD_MACHINE), sentence);
        } else {
            doctor_agrees(&row, &found, &sentence);
        }
        if has_bash {
            let cured = run_guest(|command| {
                after(cure(&sentence), command);
                limit(command, resource, soft);
            });
            works(&row, &cured);
        }
    });
    if !has_bash {
        skip("limits_of_a_process", "there is no bash to carry out cures");
    }
}

/// Each number, from too few to enough: the command works, or it says why not.
#[test]
fn every_number_of_descriptors() {
    let numbers: Vec<u64> = (4..34).collect();
    let ends = each(&numbers, |&count| {
        let row = format!("nofile={count}");
        let take = |command: &mut Command| {
            limit(command, libc::RLIMIT_NOFILE, count);
        };
        let end = run_guest(take);
        let runs = end.code() == 0;
        if runs {
            works(&row, &end);
        } else {
            says(&row, &end, BAD_MACHINE);
        }
        let found = ask_doctor(take);
        assert_eq!(found.code() == 0, runs, "{row}: {found:?}");
        runs
    });
    assert!(ends.is_sorted(), "more is never worse: {ends:?}");
    assert_eq!(ends.last(), Some(&true));
}

/// Files of a run need descriptors, too. The message must not blame them.
#[test]
fn descriptors_for_files() {
    let numbers: Vec<u64> = (4..19).collect();
    each(&numbers, |&count| {
        let row = format!("nofile={count}");
        let scratch = Scratch::new("descriptors");
        let disks = ["a", "b", "c"].map(|name| scratch.file(name, &[0; 4096]));
        let end = run_guest(|command| {
            command.arg("run");
            for disk in &disks {
                command.arg("--disk").arg(disk);
            }
            limit(command, libc::RLIMIT_NOFILE, count);
        });
        let sentence = says(&row, &end, BAD_MACHINE);
        let words = format!("may open only {count} files; raise that");
        assert!(sentence.contains(&words), "{sentence}");
    });
}

/// `command` by a [`spare_user`], with a copy of the program that this user may
/// run.
fn unprivileged(command: &mut Command, program: &Path, count: u64) {
    let mut other = Command::new(program);
    other.args(command.get_args());
    *command = other;
    limit(command, libc::RLIMIT_NPROC, count);
    as_spare_user(command);
}

fn as_spare_user(command: &mut Command) {
    wait_until_the_user_has_no_processes();
    let user = spare_user();
    command.uid(user).gid(user).current_dir("/");
}

#[test]
fn processes_of_a_user() {
    if !rustix::process::geteuid().is_root() {
        return skip(
            "processes_of_a_user",
            "not root: this user has other processes",
        );
    }
    let scratch = Scratch::new("processes");
    let program = scratch.lguest("lguest");
    let mut runs = false;
    for count in 1..10 {
        let row = format!("nproc={count}");
        let take =
            |command: &mut Command| unprivileged(command, &program, count);
        let end = run_guest(take);
        runs = end.code() == 0;
        if runs {
            works(&row, &end);
            continue;
        }
        let sentence = says(&row, &end, BAD_MACHINE);
        let words = format!("this user may have only {count} processes");
        assert!(sentence.contains(&words), "{sentence}");
        // The doctor is a process, too.
        let found = ask_doctor(take);
        assert_eq!(found.code(), BAD_MACHINE, "{row}: {found:?}");
        assert!(found.stdout.contains(&words), "{row}: {found:?}");
        if is_here("bash") {
            let cured = run_guest(|command| {
                unprivileged(command, &program, count);
                let limited = Command::new(command.get_program());
                *command = limited;
                after(cure(&sentence), command);
                limit(command, libc::RLIMIT_NPROC, count);
                as_spare_user(command);
            });
            works(&row, &cured);
        }
    }
    assert!(runs, "nine are enough");
}

/// A control group with few processes. Dropping it removes it.
struct Group(PathBuf);

impl Group {
    /// `None` if it cannot be made here.
    fn new() -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let place = |line: &str| {
            let mut parts = line.splitn(3, ':');
            let root = match parts.nth(1)? {
                "" => "/sys/fs/cgroup",
                "pids" => "/sys/fs/cgroup/pids",
                _ => return None,
            };
            let path = parts.next()?.trim_start_matches('/');
            let name = format!("lguest-needs-{}", std::process::id());
            let group = Path::new(root).join(path).join(name);
            std::fs::create_dir(&group).ok()?;
            let group = Self(group);
            group.set("16").ok()?;
            Some(group)
        };
        own.lines().find_map(place)
    }

    fn set(&self, limit: &str) -> std::io::Result<()> {
        std::fs::write(self.0.join("pids.max"), limit)
    }

    /// Waits until the processes of the run before do not count any more.
    fn wait_until_empty(&self) {
        let current = self.0.join("pids.current");
        let start = Instant::now();
        while std::fs::read_to_string(&current).unwrap().trim() != "0" {
            assert!(start.elapsed() < PATIENCE, "a process stays");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes `command` run in it.
    fn around(&self, command: &mut Command) {
        self.wait_until_empty();
        let mut shell = Command::new("sh");
        let script = "echo $$ >\"$1/cgroup.procs\"; shift; exec \"$@\"";
        shell.args(["-c", script, "sh"]).arg(&self.0);
        shell.arg(command.get_program()).args(command.get_args());
        *command = shell;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Zombies are gone a moment later.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn processes_of_a_control_group() {
    let Some(group) = Group::new() else {
        return skip(
            "processes_of_a_control_group",
            "no control group can be made",
        );
    };
    let take = |command: &mut Command| group.around(command);
    let mut runs = false;
    for count in 1..10 {
        let row = format!("pids.max={count}");
        group.set(&count.to_string()).unwrap();
        let end = run_guest(take);
        runs = end.code() == 0;
        if runs {
            works(&row, &end);
            continue;
        }
        let sentence = says(&row, &end, BAD_MACHINE);
        let words = format!("control group may have only {count} processes");
        assert!(sentence.contains(&words), "{sentence}");
        assert!(sentence.contains("; raise its pids.max ("), "{sentence}");
        // The doctor is a process, too.
        let found = ask_doctor(take);
        assert_eq!(found.code(), BAD_MACHINE, "{row}: {found:?}");
        assert!(found.stdout.contains(&words), "{row}: {found:?}");
    }
    assert!(runs, "nine are enough");
    group.set("max").unwrap();
    works("pids.max=max", &run_guest(take));
}

/// The kernel kills a process that has used too much processor time.
#[test]
fn processor_time() {
    let mut hangs = crate::support::lguest();
    let set = || {
        let limit = libc::rlimit {
            rlim_cur: 1,
            rlim_max: 1,
        };
        // SAFETY: the kernel reads `limit`.
        unsafe { libc::setrlimit(libc::RLIMIT_CPU, &raw const limit) };
        Ok(())
    };
    // SAFETY: between fork and exec, only system calls.
    unsafe { hangs.pre_exec(set) };
    let end = crate::support::run(&mut hangs, b"run primes 100000000\n");
    assert_eq!(end.code(), 122, "{end:?}");
    let words = "was killed (SIGKILL): a process may work for only 1 s, and \
                 one was killed for it; lift that (`ulimit -t unlimited`)";
    assert!(end.stderr.contains(words), "{end:?}");
}
