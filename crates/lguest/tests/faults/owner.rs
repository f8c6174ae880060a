//! The end of a Guest's owner: time limits, ends of streams, parents.

use crate::support::pty::Session;
use crate::support::{Gathered, Running, Scratch, lguest_with, program, run};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_time_limit_ends_a_guest_that_waits_or_computes() {
    let start = Instant::now();
    // On a busy machine the time may be over before the prompt is there.
    let session = Session::start(&lguest_with("run --timeout 300ms"));
    let end = session.ends(124);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let words = "lguest: ended by --timeout after 300ms\r\n";
    let before = end.stdout.strip_suffix(words);
    assert!(
        before.is_some_and(|text| text.is_empty() || text.ends_with("\r\n")),
        "{end:?}"
    );
    let mut computes = lguest_with("--timeout=500ms");
    let end = run(&mut computes, b"run primes 40000000\n");
    assert_eq!(end.code(), 124, "{end:?}");
    assert_eq!(end.stderr, "lguest: ended by --timeout after 500ms\n");
    let mut in_time = lguest_with("run --timeout 1h");
    run(&mut in_time, b"poweroff 3\n").ends_well(3);
}

#[test]
fn a_guest_has_time_to_use_piped_input() {
    let mut command = lguest_with("run --exit-on-eof");
    let lines = b"run primes 100\necho that was it\n";
    let end = run(&mut command, lines);
    assert_eq!(end.code(), 125, "{end:?}");
    assert!(end.stdout.contains("\nthat was it"), "{end:?}");
    assert_eq!(
        end.stderr,
        "lguest: ended by --exit-on-eof: standard input has ended\n"
    );
    // There is no wait for a Guest that ends by itself.
    let start = Instant::now();
    let mut command = lguest_with("--exit-on-eof");
    run(&mut command, b"uptime\npoweroff 7\n").ends_well(7);
    let end = run(&mut lguest_with("run --exit-on-eof"), b"");
    assert_eq!(end.code(), 125, "{end:?}");
    println!("{:?}", start.elapsed());
}

#[test]
fn without_the_option_the_end_of_the_input_ends_nothing() {
    let mut guest = Running::start(&mut lguest_with("run"));
    guest.wait_for("lguest> ");
    guest.close_input();
    // This takes longer than a Guest with --exit-on-eof would have.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!guest.has_ended());
    guest.signal(libc::SIGTERM);
    assert_eq!(guest.finish().code(), 143);
}

/// The command by a shell, which stays its parent.
fn by_a_parent(words: &str) -> Command {
    let mut command = program("sh");
    let script = format!("\"$0\" run {words} & wait");
    command.arg("-c").arg(script);
    command.arg(env!("CARGO_BIN_EXE_lguest"));
    command
}

#[test]
fn the_end_of_a_killed_parent_ends_the_guest() {
    let parent = Running::start(&mut by_a_parent("--die-with-parent"));
    parent.wait_for("lguest> ");
    parent.signal(libc::SIGKILL);
    // Its streams are the guest's, too, so this waits for both.
    let end = parent.finish();
    assert_eq!(end.signal(), Some(libc::SIGKILL));
    assert_eq!(
        end.stderr,
        "lguest: ended because its parent has ended (--die-with-parent)\n"
    );
}

#[test]
fn a_thread_of_the_parent_may_end() {
    // The kernel's signal for this counts threads, not processes.
    let start = || Running::start(&mut lguest_with("run --die-with-parent"));
    let mut guest = std::thread::spawn(start).join().unwrap();
    guest.wait_for("lguest> ");
    guest.type_in(b"echo still here\n");
    guest.wait_for("\nstill here");
    guest.type_in(b"poweroff 5\n");
    guest.finish().ends_well(5);
}

#[test]
fn a_parent_that_ended_before_the_start_is_noticed() {
    let us = std::process::id();
    let words = |parent: u32| format!("run --die-with-parent={parent}");
    run(&mut lguest_with(&words(us)), b"poweroff 4\n").ends_well(4);
    let end = run(&mut lguest_with(&words(us + 1)), b"poweroff 4\n");
    assert_eq!(end.code(), 143, "{end:?}");
    assert_eq!(end.stdout, "");
    assert!(end.stderr.contains("its parent has ended"), "{end:?}");
}

/// The message when the output has lost its reader.
const UNREAD: &str =
    "lguest: ended because its output has no reader any more\n";

#[test]
fn an_output_without_a_reader_ends_the_guest() {
    // | head -1: the guest is at its prompt by then, and writes nothing.
    let mut command = program("sh");
    let script = "{ \"$0\" run; echo \"ended $?\" >&2; } | head -1";
    command.args(["-c", script, env!("CARGO_BIN_EXE_lguest")]);
    let guest = Running::start(&mut command);
    guest.wait_for("lguest guest 0.1.0");
    let end = guest.finish();
    assert_eq!(end.stderr, format!("{UNREAD}ended 141\n"));

    let (output, reader) = UnixStream::pair().unwrap();
    let mut command = lguest_with("run");
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    command.stdout(std::os::fd::OwnedFd::from(output));
    let guest = Running::start_as_is(&mut command);
    drop(command);
    let shown = Gathered::from(Some(reader.try_clone().unwrap()));
    shown.wait_for("lguest> ", 1, String::new);
    reader.shutdown(std::net::Shutdown::Both).unwrap();
    drop((reader, shown));
    let end = guest.finish();
    assert_eq!((end.code(), &*end.stderr), (141, UNREAD));
}

#[test]
fn a_pipe_with_a_name_may_find_a_new_reader() {
    let scratch = Scratch::new("fifo");
    let fifo = scratch.path("fifo");
    assert!(program("mkfifo").arg(&fifo).status().unwrap().success());
    // Open for both, so that neither open waits for the other.
    let open = || {
        let both = std::fs::File::options().read(true).write(true).open(&fifo);
        both.unwrap()
    };
    let reader = open();
    let writer = std::fs::File::options().write(true).open(&fifo).unwrap();
    let mut command = lguest_with("run");
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut guest = Running::start_as_is(command.stdout(writer));
    drop(command);
    let shown = |file: std::fs::File, text| {
        Gathered::from(Some(file)).wait_for(text, 1, String::new)
    };
    // A thread that reads it would keep the pipe open.
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"lguest> ") {
        let mut part = [0; 4096];
        let n = rustix::io::read(&reader, &mut part).unwrap();
        bytes.extend_from_slice(&part[..n]);
    }
    drop(reader);
    guest.type_in(b"echo this is not read\n");
    guest.wait_for_error("it is lost until it is read again");
    assert!(!guest.has_ended());
    let reader = open();
    guest.type_in(b"echo this is read\n");
    shown(reader, "\nthis is read");
    guest.type_in(b"poweroff 2\n");
    assert_eq!(guest.finish().code(), 2);
}

#[test]
fn a_log_has_the_output_as_text_and_is_appended_to() {
    let scratch = Scratch::new("log");
    let log = scratch.file("log", b"before\n");
    let words = format!("run --log {}", log.display());
    let end = run(&mut lguest_with(&words), b"echo hello\npoweroff\n");
    let end = end.ends_well(0);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(end.stdout.contains('\r'), "{end:?}");
    assert_eq!(text, format!("before\n{}", end.stdout.replace('\r', "")));
    // It is written even if the output has no reader.
    let words = format!("run --log {} >/dev/full", log.display());
    let mut command = program("sh");
    let script = format!("exec \"$0\" {words}");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_lguest")]);
    let end = run(&mut command, b"echo once more\npoweroff\n");
    assert_eq!(end.code(), 0, "{end:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("\nonce more\n"), "{text}");
}

#[test]
fn a_log_that_cannot_be_written_is_reported_once() {
    let mut command = lguest_with("run --log /dev/full");
    let end = run(&mut command, b"help\necho hello\nhelp\npoweroff 6\n");
    assert_eq!(end.code(), 6, "{end:?}");
    assert!(end.stdout.contains("\nhello"), "{end:?}");
    assert_eq!(end.stderr.lines().count(), 1, "{end:?}");
    let words = "lguest: cannot write the log /dev/full (No space left on";
    assert!(end.stderr.starts_with(words), "{end:?}");
}

#[test]
fn a_log_is_made_for_guests_that_start() {
    let scratch = Scratch::new("log-made");
    let log = scratch.path("log");
    let words = format!("run --log {}", log.display());
    let refused = format!("{words} --kernel {}", log.display());
    let end = run(&mut lguest_with(&refused), b"");
    assert_eq!(end.code(), 120, "{end:?}");
    assert!(!log.exists());
    run(&mut lguest_with(&words), b"poweroff 9\n").ends_well(9);
    assert!(log.exists());
    let folder = format!("run --log {}", scratch.path("").display());
    let end = run(&mut lguest_with(&folder), b"");
    assert_eq!(end.code(), 120, "{end:?}");
    assert!(end.stderr.contains("Is a directory"), "{end:?}");
}
