//! Sessions with the built-in guest, through pipes.
//!
//! They do what a script does: lines in, lines out, an exit code, and the
//! counters.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::io::{Read, Write};
use std::process::{Child, Output, Stdio};
use std::time::Duration;
use support::processes::Process;
use support::{Running, at_rest, wait_until_full};

#[test]
fn typed_lines_are_answered_and_the_end_is_clean() {
    let run = session(&[], "uptime\npoweroff\n");
    assert_eq!(run.status.code(), Some(0));
    let said = text(&run.stdout);
    let ready = said.lines().find(|l| l.starts_with("lguest guest ready"));
    assert!(ready.unwrap().contains(" ms since the Launcher started"));
    assert!(said.contains("\nup "), "{said}");
    assert_eq!(text(&run.stderr), "");
}

#[test]
fn the_guests_exit_code_is_passed_on_if_it_is_no_code_of_ours() {
    assert_eq!(session(&[], "poweroff 7\n").status.code(), Some(7));
    assert_eq!(session(&[], "poweroff 119\n").status.code(), Some(119));
    let run = session(&[], "poweroff 120\n");
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("counts as 1"));
}

#[test]
fn a_crash_is_reported_in_a_sentence() {
    let run = session(&[], "panic out of \u{1b}[31mpaint\n");
    assert_eq!(run.status.code(), Some(1));
    let said = text(&run.stderr);
    assert!(said.starts_with("lguest: CRASH: "), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_long_paste_arrives_whole() {
    let mut lines = String::new();
    for i in 0..250 {
        lines += &format!("echo line {i:04} {}\n", "y".repeat(40));
    }
    lines += "poweroff\n";
    assert!(lines.len() > 10_000);
    let run = session(&[], &lines);
    assert_eq!(run.status.code(), Some(0));
    let said = text(&run.stdout);
    let answers = said.lines().filter(|line| line.starts_with("line "));
    let numbers = answers.map(|line| line[5..9].parse::<u32>().unwrap());
    assert!(numbers.eq(0..250), "{said}");
}

#[test]
fn the_shell_edits_characters_and_not_bytes() {
    // "Grüße", with the ü put in by the left arrow, and one letter erased.
    let line = "echo Gr\u{df}\u{20ac}\x7fe\x1b[D\x1b[D\u{fc}\n";
    let run = session(&[], &format!("{line}poweroff\n"));
    assert_eq!(run.status.code(), Some(0));
    let said = text(&run.stdout);
    assert!(said.contains("\nGr\u{fc}\u{df}e\n"), "{said}");
}

#[test]
fn the_end_of_the_input_ends_nothing_and_a_signal_does() {
    let mut guest = Running::start(&mut support::lguest());
    guest.close_input();
    guest.wait_for("lguest> ");
    std::thread::sleep(Duration::from_millis(50));
    assert!(!guest.has_ended());
    guest.signal(libc::SIGTERM);
    let end = guest.finish();
    assert_eq!(end.code(), 143);
    assert_eq!(end.stderr, "lguest: ended by SIGTERM\n");
}

#[test]
fn an_idle_guest_lets_all_processes_sleep() {
    let guest = Running::start(&mut support::lguest());
    // A start that waits for its program's file is at rest, too.
    guest.wait_for("lguest> ");
    let launcher = Process::find(guest.pid()).unwrap();
    let before = at_rest(|| launcher.switches());
    std::thread::sleep(Duration::from_secs(2));
    let times = launcher.switches() - before;
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.finish().code(), 143);
    assert!(times <= 4, "{times} times in 2 s");
}

#[test]
fn output_that_is_not_read_does_not_delay_a_signal() {
    let mut run = start(&[]);
    let lines = "help\n".repeat(400);
    let mut keyboard = run.stdin.take().unwrap();
    let typing = std::thread::spawn(move || {
        let _ = keyboard.write_all(lines.as_bytes());
        keyboard
    });
    wait_until_full(run.stdout.as_ref().unwrap());
    signal(&run, rustix::process::Signal::TERM);
    // Two signals at once would count as one. On a busy machine the output may
    // have been at rest for another reason, and then the first one is enough.
    let launcher = Process::find(run.id()).unwrap();
    if launcher.has_thread_or_ends("patience") {
        signal(&run, rustix::process::Signal::TERM);
    }
    assert_eq!(run.wait().unwrap().code(), Some(143));
    let mut said = String::new();
    run.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "lguest: ended by SIGTERM\n");
    drop(typing.join());
}

#[test]
fn the_counters_follow_the_guests_output() {
    let run = session(&["--stats=-"], "poweroff\n");
    let said = text(&run.stdout);
    let json = &said[said.find("{\n").unwrap()..];
    assert!(json.contains("\"ending\": \"powered off\""), "{json}");
    assert!(json.contains("\"exit_code\": 0"), "{json}");
    assert!(json.contains("\"bytes_in\": 9"), "{json}");
    assert!(json.ends_with("}\n"), "{json}");
}

#[test]
fn a_disk_is_written_before_the_launcher_ends() {
    let name = format!("lguest-session-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, vec![0; 64 * 512]).unwrap();
    let disk = format!("--block={}", path.display());
    let run = session(&[&disk], "dd 3 8 yes\npoweroff\n");
    let file = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(text(&run.stdout).contains("read back the same"));
    let touched = |at: usize| file[at * 512..][..512].iter().any(|&b| b != 0);
    let sectors: Vec<_> = (0..64).filter(|&at| touched(at)).collect();
    assert_eq!(sectors, (3..11).collect::<Vec<_>>());
}

fn start(words: &[&str]) -> Child {
    support::lguest()
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn session(words: &[&str], typed: &str) -> Output {
    let mut run = start(words);
    let mut keyboard = run.stdin.take().unwrap();
    let typed = typed.to_owned();
    // The Guest may print more than a pipe holds before it has read all.
    let typing = std::thread::spawn(move || {
        keyboard.write_all(typed.as_bytes()).unwrap();
        keyboard
    });
    let output = run.wait_with_output().unwrap();
    drop(typing.join().unwrap());
    output
}

fn signal(run: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(run);
    rustix::process::kill_process(pid, signal).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap().replace('\r', "")
}
