//! All processes of a run end with it, and signals reach them.

use super::each;
use super::machine::{Machine, lives, programs};
use lg_exec::report::{Reason, Status};

/// A script that starts a process in a session of its own, whose parent ends,
/// and prints its number and its own.
const DAEMON: &str = "(setsid sh -c 'echo $$; exec sleep 1000' &); \
                      sleep 1000 & echo $!; ";

/// Waits for so many numbers that a run prints.
fn numbers(machine: &mut Machine, run: u32, count: usize) -> Vec<u32> {
    machine.until(run, |run| {
        run.out.iter().filter(|b| **b == b'\n').count() >= count
    });
    let text = machine.text(run);
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn a_signal_reaches_the_program() {
    each(|machine| {
        let script = "trap 'exit 5' TERM; echo ready; \
                      while :; do sleep 0.05; done";
        let run = machine.shell(script);
        machine.until(run, |run| run.out.ends_with(b"ready\n"));
        machine.with(run, |run, out| run.client.signal(15, out));
        assert_eq!(machine.status(run), Status::Code(5));
        let run = machine.shell("kill -11 $$");
        let exited = machine.exited(run);
        assert_eq!(exited.status, Status::Signal(11));
        assert_eq!(exited.reason, Reason::None);
    });
}

#[test]
fn signals_are_not_ignored_in_programs() {
    each(|machine| {
        // A pipe without a reader ends it. Nothing is blocked, nothing ignored.
        let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
        let run = machine.shell(script);
        assert_eq!(machine.status(run), Status::Code(0));
        let none = "0000000000000000";
        let wanted = format!("SigBlk:\t{none}\nSigIgn:\t{none}\n");
        assert_eq!(machine.text(run), wanted);
    });
}

#[test]
fn a_program_gets_no_files_but_its_own() {
    each(|machine| {
        let other = machine.shell("echo; sleep 1000");
        machine.until(other, |run| run.pid > 0);
        let run = machine.shell("ls /proc/self/fd");
        assert_eq!(machine.status(run), Status::Code(0));
        // The fourth is the folder that it lists.
        assert_eq!(machine.text(run), "0\n1\n2\n3\n");
    });
}

#[test]
fn a_client_that_hangs_up_leaves_no_process() {
    each(|machine| {
        let run = machine.shell(&format!("{DAEMON} wait"));
        let pids = numbers(machine, run, 2);
        assert!(pids.len() == 2 && pids.iter().all(|pid| lives(*pid)));
        machine.with(run, |run, out| run.client.hang_up(out));
        assert_eq!(machine.exited(run).reason, Reason::HangUp);
        for pid in pids {
            assert!(!lives(pid), "{pid} lives on");
        }
    });
}

#[test]
fn the_end_of_a_program_ends_all_its_processes() {
    each(|machine| {
        let run = machine.shell(&format!("{DAEMON} read x; exit 4"));
        let pids = numbers(machine, run, 2);
        assert_eq!(pids.len(), 2);
        machine.with(run, |run, out| run.client.stdin(b"\n", out));
        let exited = machine.exited(run);
        assert_eq!(exited.status, Status::Code(4));
        assert_eq!(exited.reason, Reason::None);
        for pid in pids {
            assert!(!lives(pid), "{pid} lives on");
        }
    });
}

#[test]
fn a_fork_bomb_ends_with_its_run() {
    each(|machine| {
        // Each process waits a little, and there are a thousand at the most, so
        // that this machine survives it however late the end comes.
        let script = "f() { echo; sleep 0.1; \
                      [ $1 -lt 9 ] || exec sleep 1000; \
                      f $(($1 + 1)) & f $(($1 + 1)) & wait; }; f 0";
        let run = machine.shell(script);
        machine.until(run, |run| run.out.len() > 30);
        let pid = machine.runs[&run].pid;
        machine.with(run, |run, out| run.client.hang_up(out));
        assert_eq!(machine.exited(run).reason, Reason::HangUp);
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let left = all.filter(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat"));
            let stat = stat.unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_whitespace().nth(3) == Some(&pid.to_string())
        });
        assert_eq!(left.count(), 0);
    });
}

#[test]
fn a_program_that_kills_its_parent_is_still_reported() {
    each(|machine| {
        let run = machine.shell(&format!("{DAEMON} read x; kill -9 $PPID"));
        assert_eq!(numbers(machine, run, 2).len(), 2);
        machine.with(run, |run, out| run.client.stdin(b"\n", out));
        let exited = machine.exited(run);
        assert_eq!(exited.status, Status::Signal(9));
        let run = machine.shell("echo hello");
        assert_eq!(machine.status(run), Status::Code(0));
    });
}

#[test]
fn a_closed_port_ends_everything() {
    for program in programs() {
        let mut machine = Machine::start(program);
        let run = machine.shell(&format!("{DAEMON} wait"));
        let pids = numbers(&mut machine, run, 2);
        assert_eq!(pids.len(), 2);
        assert_eq!(machine.close(), Some(0));
        for pid in pids {
            assert!(!lives(pid), "{pid} lives on");
        }
    }
}
