//! The agent as an ordinary process: what programs do, and what clients do.
//!
//! Each test is made with the agent for this machine and with the one for
//! guests, which an x86-64 machine can mostly run, too.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by a panic"
)]

mod files;
mod hostile;
mod machine;
mod processes;

use lg_exec::command::{Command, Limits, Restored, Size};
use lg_exec::credit::WINDOW;
use lg_exec::report::{Failure, Reason, Status};
use machine::{Machine, programs, start};

/// Calls a test with each agent.
fn each(test: impl Fn(&mut Machine)) {
    for program in programs() {
        test(&mut Machine::start(program));
    }
}

#[test]
fn it_says_hello_and_is_ready_again_after_a_restore() {
    each(|machine| {
        assert!(machine.greetings[0].starts_with("Hello"));
        assert_eq!(machine.greetings[1], "Ready");
        // The time of this machine, which a test must not change, is refused.
        machine.tell(&Command::Restored(Restored {
            seconds: i64::MAX,
            nanoseconds: 0,
            random: vec![1; 32],
        }));
        while machine.greetings.len() < 4 {
            machine.step();
        }
        assert_eq!(machine.greetings[0], machine.greetings[2]);
        assert_eq!(machine.greetings[3], "Ready");
    });
}

#[test]
fn output_errors_and_exit_code_come_apart() {
    each(|machine| {
        let run = machine.shell("echo out; echo err >&2; exit 3");
        assert_eq!(machine.status(run), Status::Code(3));
        assert_eq!(machine.runs[&run].out, b"out\n");
        assert_eq!(machine.runs[&run].err, b"err\n");
        assert!(machine.runs[&run].pid > 1);
    });
}

#[test]
fn arguments_environment_and_folder_are_as_asked() {
    each(|machine| {
        let mut asked = start(&["sh", "-c", "pwd; env | sort; echo \"$0$1\""]);
        asked.argv.extend([b"\xff".to_vec(), b"two words".to_vec()]);
        asked.env = vec![b"A=b c".to_vec(), b"HOME=/nowhere".to_vec()];
        asked.cwd = Some(b"/usr".to_vec());
        let run = machine.run(asked);
        assert_eq!(machine.status(run), Status::Code(0));
        let out = &machine.runs[&run].out;
        assert!(out.starts_with(b"/usr\nA=b c\nHOME=/nowhere\n"));
        assert!(out.windows(6).any(|w| w == b"\nPATH="));
        assert!(out.ends_with(b"\xfftwo words\n"));
    });
}

#[test]
fn much_input_comes_out_again() {
    each(|machine| {
        let run = machine.run(start(&["cat"]));
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
        machine.stdin(run, &sent);
        machine.with(run, |run, out| run.client.stdin_end(out));
        assert_eq!(machine.status(run), Status::Code(0));
        assert!(machine.runs[&run].out == sent, "other bytes come out");
    });
}

#[test]
fn a_slow_reader_stops_its_own_program_only() {
    each(|machine| {
        let run = machine.shell("head -c 2000000 /dev/zero; echo end >&2");
        machine.runs.get_mut(&run).unwrap().slow = true;
        let window = WINDOW as usize;
        machine.until(run, |run| run.out.len() > window - 100_000);
        let other = machine.shell("echo hello");
        assert_eq!(machine.status(other), Status::Code(0));
        let length = machine.runs[&run].out.len();
        assert!(length <= window, "{length}");
        assert!(machine.runs[&run].err.is_empty());
        machine.with(run, |run, out| {
            run.slow = false;
            let flow = lg_exec::command::Flow::Stdout;
            run.client.taken(flow, run.out.len(), out);
        });
        assert_eq!(machine.status(run), Status::Code(0));
        assert_eq!(machine.runs[&run].out.len(), 2_000_000);
    });
}

#[test]
fn a_program_that_does_not_read_its_input_ends() {
    each(|machine| {
        let run = machine.shell("exec <&-; sleep 0.2; echo done");
        let much = vec![0; WINDOW as usize];
        machine.with(run, |run, out| run.client.stdin(&much, out));
        assert_eq!(machine.status(run), Status::Code(0));
        assert_eq!(machine.text(run), "done\n");
    });
}

#[test]
fn a_program_on_a_terminal_knows_its_size() {
    each(|machine| {
        let script = "stty size; test -t 0 && test -t 1 && test -t 2; \
                      echo $?; trap 'stty size; exit 7' WINCH; echo ready; \
                      while :; do sleep 0.05; done";
        let mut asked = start(&["sh", "-c", script]);
        asked.terminal = Some(Size { rows: 30, cols: 99 });
        let run = machine.run(asked);
        machine.until(run, |run| run.out.ends_with(b"ready\r\n"));
        let size = Size {
            rows: 40,
            cols: 120,
        };
        machine.with(run, |run, out| run.client.resize(size, out));
        assert_eq!(machine.status(run), Status::Code(7));
        assert_eq!(machine.text(run), "30 99\r\n0\r\nready\r\n40 120\r\n");
    });
}

#[test]
fn control_c_on_a_terminal_interrupts() {
    each(|machine| {
        // Some shells go on if a child has just ended by itself.
        let script = "echo ready; exec sleep 1000";
        let mut asked = start(&["sh", "-c", script]);
        asked.terminal = Some(Size::default());
        let run = machine.run(asked);
        machine.until(run, |run| run.out.ends_with(b"ready\r\n"));
        machine.with(run, |run, out| run.client.stdin(b"\x03", out));
        assert_eq!(machine.status(run), Status::Signal(2));
    });
}

#[test]
fn the_end_of_input_reaches_a_terminal() {
    each(|machine| {
        let mut asked = start(&["sh", "-c", "stty -echo; echo ready; cat"]);
        asked.terminal = Some(Size::default());
        let run = machine.run(asked);
        machine.until(run, |run| run.out.ends_with(b"ready\r\n"));
        machine.with(run, |run, out| {
            run.client.stdin(b"line\n", out);
            run.client.stdin_end(out);
        });
        assert_eq!(machine.status(run), Status::Code(0));
        assert_eq!(machine.text(run), "ready\r\nline\r\n");
    });
}

#[test]
fn what_cannot_be_run_is_said() {
    each(|machine| {
        let mut fails = |asked, wanted| {
            let run = machine.run(asked);
            assert_eq!(machine.failure(run), wanted);
        };
        fails(start(&["no-such-program"]), Failure::NotFound);
        fails(start(&["/no/such/program"]), Failure::NotFound);
        fails(start(&["/etc"]), Failure::NotPermitted);
        fails(start(&["/etc/passwd"]), Failure::NotPermitted);
        fails(start(&[]), Failure::Protocol);
        fails(start(&["a\0b"]), Failure::Protocol);
        let mut asked = start(&["true"]);
        asked.cwd = Some(b"/no/such/folder".to_vec());
        fails(asked, Failure::NoFolder);
        let mut asked = start(&["true"]);
        asked.user = "nobody-of-that-name".into();
        fails(asked, Failure::NoUser);
        let mut asked = start(&["true"]);
        asked.version = 99;
        fails(asked, Failure::Version);
    });
}

#[test]
fn a_user_has_its_own_rights() {
    let own = std::fs::metadata("/proc/self").unwrap();
    if std::os::unix::fs::MetadataExt::uid(&own) != 0 {
        println!("SKIPPED a_user_has_its_own_rights: not root");
        return;
    }
    each(|machine| {
        let mut asked = start(&["sh", "-c", "id -u; id -g; id -G"]);
        asked.user = "4321:8765".into();
        let run = machine.run(asked);
        assert_eq!(machine.status(run), Status::Code(0));
        assert_eq!(machine.text(run), "4321\n8765\n8765\n");
    });
}

/// A file that a program makes when it has come that far.
fn mark_of_this_process() -> std::path::PathBuf {
    let name = format!("lg-agent-mark-{}", std::process::id());
    let mark = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&mark);
    mark
}

#[test]
fn limits_hold() {
    each(|machine| {
        let mut run = |script: &str, limits| {
            let mut asked = start(&["sh", "-c", script]);
            asked.limits = limits;
            let run = machine.run(asked);
            let exited = machine.exited(run);
            (exited.status, exited.reason, machine.text(run))
        };
        let none = Limits::default();
        let killed = Status::Signal(9);
        let mark = mark_of_this_process();
        let script = format!("echo a; >{}; exec sleep 1000", mark.display());
        // A busy machine may need all of the time to start the shell.
        for time_ms in [200, 2000, 20_000] {
            let time_ms = Some(time_ms);
            let found = run(&script, Limits { time_ms, ..none });
            assert_eq!((found.0, found.1), (killed, Reason::Time));
            if std::fs::remove_file(&mark).is_ok() {
                assert_eq!(found.2, "a\n");
                break;
            }
            assert!(time_ms < Some(20_000), "the shell does not start");
        }
        let output = Some(10);
        let found = run("yes abc", Limits { output, ..none });
        assert_eq!(found, (killed, Reason::Output, "abc\nabc\nab".into()));
        let found = run("echo 123456789", Limits { output, ..none });
        let all = "123456789\n".to_string();
        assert_eq!(found, (Status::Code(0), Reason::None, all));
        let limits = Limits {
            memory: Some(64 << 20),
            files: Some(20),
            ..none
        };
        let found = run("ulimit -v; ulimit -n", limits);
        assert_eq!(found.2, "65536\n20\n");
        let file_size = Some(4096);
        let script = "f=$(mktemp); trap 'rm $f' EXIT; \
                      (head -c 9999 /dev/zero >$f); echo $?; wc -c <$f";
        let found = run(script, Limits { file_size, ..none });
        assert!(found.2.ends_with("\n4096\n"), "{found:?}");
        let cpu_seconds = Some(1);
        let found = run(
            "while :; do :; done",
            Limits {
                cpu_seconds,
                ..none
            },
        );
        assert_eq!(found.1, Reason::None);
        assert!(matches!(found.0, Status::Signal(9 | 24)), "{found:?}");
    });
}

#[test]
fn use_of_the_machine_is_reported() {
    each(|machine| {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let run = machine.shell(script);
        let usage = machine.exited(run).usage;
        let used = usage.user_us + usage.system_us;
        assert!(used > 1000 && used <= usage.wall_us * 8, "{usage:?}");
        assert!(usage.max_rss_kib > 100, "{usage:?}");
        assert!(usage.minor_faults > 10, "{usage:?}");
    });
}

#[test]
fn a_hundred_programs_run_at_once() {
    each(|machine| {
        let gate = machine.runs.len();
        let runs: Vec<u32> = (0..100)
            .map(|n| machine.shell(&format!("read x; echo {n} $x; exit {n}")))
            .collect();
        for &run in &runs {
            machine.until(run, |run| run.pid > 0);
        }
        for &run in runs.iter().rev() {
            machine.with(run, |run, out| {
                run.client.stdin(format!("{gate}\n").as_bytes(), out);
            });
        }
        for (n, &run) in (0..100_u8).zip(&runs) {
            assert_eq!(machine.status(run), Status::Code(n));
            assert_eq!(machine.text(run), format!("{n} {gate}\n"));
        }
    });
}
