//! Standard input, output and error that are full, closed, broken or odd.

use crate::support::pty::{Terminal, in_session};
use crate::support::{
    Finished, Running, Scratch, end_of, lguest, program, run, wait_until_full,
};
use rustix::pipe::{PipeFlags, pipe, pipe_with};
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn dev_full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

/// The command by a shell that has done something to its streams.
fn by_shell(redirections: &str) -> Command {
    let mut command = program("sh");
    command
        .arg("-c")
        .arg(format!("exec \"$0\" run {redirections}"));
    command.arg(env!("CARGO_BIN_EXE_lguest"));
    command
}

/// The message about output that cannot be written.
const LOST: &str = "the rest of it is lost";

#[test]
fn output_to_a_full_disk_is_lost_with_one_message() {
    let mut command = lguest();
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut guest = Running::start_as_is(command.stdout(dev_full()));
    guest.type_in(b"help\nhelp\npoweroff 5\n");
    let end = guest.finish();
    assert_eq!(end.code(), 5);
    assert_eq!(end.stderr.matches(LOST).count(), 1, "{end:?}");
    assert!(end.stderr.contains("No space left on device"), "{end:?}");
}

#[test]
fn output_beyond_the_largest_file_is_lost_and_ends_nothing() {
    let scratch = Scratch::new("largest");
    let output = scratch.path("output");
    // The Guest's memory is a file, too.
    let largest = 48 << 20;
    let file = File::create(&output).unwrap();
    file.set_len(largest - 4096).unwrap();
    let mut command = program("sh");
    let script = "ulimit -f 98304; exec \"$0\" run >> \"$1\"";
    command
        .args(["-c", script])
        .arg(env!("CARGO_BIN_EXE_lguest"))
        .arg(&output);
    let mut typed = b"help\n".repeat(40);
    typed.extend(b"poweroff 6\n");
    let end = run(&mut command, &typed);
    assert_eq!(end.code(), 6, "{end:?}");
    assert_eq!(end.stderr.matches(LOST).count(), 1, "{end:?}");
    assert_eq!(file.metadata().unwrap().len(), largest);
}

#[test]
fn a_standard_error_that_is_full_or_closed_changes_no_exit_code() {
    for kind in ["full", "unread", "closed"] {
        let error = || -> Stdio {
            match kind {
                "full" => dev_full(),
                "unread" => {
                    let (reader, writer) = pipe().unwrap();
                    drop(reader);
                    writer.into()
                }
                _ => Stdio::null(),
            }
        };
        let start = || {
            let mut command = match kind {
                "closed" => by_shell("2>&-"),
                _ => lguest(),
            };
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let guest = Running::start_as_is(command.stderr(error()));
            guest.wait_for("lguest> ");
            guest
        };
        let mut guest = start();
        guest.type_in(b"panic in silence\n");
        assert_eq!(guest.finish().code(), 1, "{kind}");
        let guest = start();
        guest.signal(libc::SIGTERM);
        assert_eq!(guest.finish().code(), 143, "{kind}");
    }
    let mut command = lguest();
    command.arg("absent/kernel").stderr(dev_full());
    assert_eq!(command.status().unwrap().code(), Some(2));
}

#[test]
fn statistics_that_cannot_be_written_do_not_hide_how_it_ended() {
    let mut command = lguest();
    let end = run(command.arg("--stats=/dev/full"), b"panic first\n");
    let (ending, failure) = end.stderr.split_once('\n').unwrap();
    assert!(ending.starts_with("lguest: CRASH: "), "{end:?}");
    assert!(failure.contains("cannot write the statistics"), "{end:?}");
    assert_eq!(end.code(), 123);
}

#[test]
fn missing_streams_are_not_replaced_by_other_files() {
    // No file that the Launcher opens may become standard output, because the
    // Guest writes there.
    let scratch = Scratch::new("missing");
    let disk = scratch.file("disk", &[0x55; 64 * 512]);
    let which = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"];
    for redirections in which {
        let disk_word = format!("--disk={}", disk.display());
        let mut command = by_shell(&format!("{disk_word} {redirections}"));
        let mut guest = Running::start(&mut command);
        if !redirections.starts_with('<') {
            guest.type_in(b"help\nhelp\npoweroff 4\n");
            assert_eq!(guest.finish().code(), 4, "{redirections}");
        } else {
            // Not every one of them has an output that shows that it runs.
            guest.wait_until_it_catches(libc::SIGTERM);
            if !redirections.contains(">&- 2") {
                guest.wait_for("lguest> ");
            }
            std::thread::sleep(Duration::from_millis(300));
            assert!(!guest.has_ended(), "{redirections}");
            guest.signal(libc::SIGTERM);
            assert_eq!(guest.finish().code(), 143, "{redirections}");
        }
        assert!(std::fs::read(&disk).unwrap().iter().all(|&b| b == 0x55));
    }
}

#[test]
fn an_input_that_cannot_be_read_is_the_end_of_the_input() {
    for input in ["/", "/dev/null", "/dev/full"] {
        let mut command = lguest();
        let file = File::open(input).unwrap();
        command
            .stdin(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut guest = Running::start_as_is(&mut command);
        guest.wait_for("lguest> ");
        if input == "/dev/full" {
            // This reads as endless zeros, which have to wait.
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(!guest.has_ended(), "{input}");
        guest.signal(libc::SIGTERM);
        let end = guest.finish();
        assert_eq!(end.code(), 143, "{input}");
        assert_eq!(end.stderr, "lguest: ended by SIGTERM\n", "{input}");
    }
}

#[test]
fn streams_that_do_not_block_lose_nothing() {
    // Another process that shares them has made them non-blocking.
    let (input, typed) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    let (shown, output) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    let mut command = lguest();
    command.stdin(input).stdout(output).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    let typing = std::thread::spawn(move || {
        let mut lines = String::new();
        for n in 0..1000 {
            lines += &format!("echo line {n}: {}\n", "y".repeat(80));
        }
        lines += "poweroff\n";
        lguest::machine::terminal::write_all(&typed, lines.as_bytes()).unwrap();
    });
    let (mut all, mut part) = (Vec::new(), [0; 512]);
    loop {
        match rustix::io::read(&shown, &mut part) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&part[..n]),
            // A slow reader: the pipe is full most of the time.
            Err(_) => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    typing.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let all = String::from_utf8_lossy(&all);
    let numbers = all.lines().filter_map(|l| l.strip_prefix("line "));
    let number = |l: &str| l.split(':').next()?.parse::<u32>().ok();
    assert!(numbers.map(number).eq((0..1000).map(Some)));
}

/// Waits for the end of a Launcher on `terminal`, and checks that the terminal
/// is as before.
fn end_on(terminal: &Terminal, mut child: Child) -> i32 {
    let Some(status) = end_of(&mut child) else {
        child.kill().unwrap();
        panic!("it hangs");
    };
    assert!(terminal.is_as_before(), "{:?}", terminal.modes());
    status.code().unwrap()
}

#[test]
fn keys_end_a_guest_whose_output_is_not_read() {
    let mut terminal = Terminal::new();
    let (shown, output) = pipe().unwrap();
    let mut command = in_session(&lguest());
    command.stdin(terminal.end()).stdout(output);
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    drop(command);
    terminal.type_in(&b"help\r".repeat(400));
    wait_until_full(&shown);
    terminal.type_in(b"\x03\x03\x03");
    assert_eq!(end_on(&terminal, child), 130);
    drop(shown);
}

#[test]
fn a_signal_ends_a_guest_on_a_terminal_that_is_not_read() {
    let mut terminal = Terminal::new();
    let mut command = in_session(&lguest());
    let child = command
        .stdin(terminal.end())
        .stdout(terminal.end())
        .stderr(terminal.end())
        .spawn()
        .unwrap();
    terminal.type_in(&b"help\r".repeat(400));
    wait_until_full(terminal.keyboard());
    let pid = rustix::process::Pid::from_child(&child);
    let term = rustix::process::Signal::TERM;
    rustix::process::kill_process(pid, term).unwrap();
    assert_eq!(end_on(&terminal, child), 143);
}

#[test]
fn the_end_of_a_terminal_ends_the_guest() {
    let terminal = Terminal::new();
    let mut command = in_session(&lguest());
    let mut child = command
        .stdin(terminal.end())
        .stdout(terminal.end())
        .stderr(terminal.end())
        .spawn()
        .unwrap();
    // Until it is raw, signals are not caught yet.
    terminal.wait_until_raw();
    drop((terminal, command));
    assert_eq!(child.wait().unwrap().code(), Some(129));
}

#[test]
fn the_end_of_a_terminal_can_be_ignored() {
    let terminal = Terminal::new();
    let mut command = program("setsid");
    command.args(["--ctty", "sh", "-c"]);
    command.arg("trap '' HUP; exec \"$0\" run");
    command.arg(env!("CARGO_BIN_EXE_lguest"));
    let mut child = command
        .stdin(terminal.end())
        .stdout(terminal.end())
        .stderr(terminal.end())
        .spawn()
        .unwrap();
    // Until it is raw, signals are not caught yet.
    terminal.wait_until_raw();
    drop((terminal, command));
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    let pid = rustix::process::Pid::from_child(&child);
    let term = rustix::process::Signal::TERM;
    rustix::process::kill_process(pid, term).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_guest_ends_even_if_that_cannot_be_reported() {
    // The output is full, and so is standard error, which is the same pipe.
    let (shown, output) = pipe().unwrap();
    let mut command = lguest();
    command.stdin(Stdio::piped());
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let mut guest = Running::start_as_is(&mut command);
    drop(command);
    guest.type_in(&b"help\n".repeat(400));
    wait_until_full(&shown);
    guest.signal(libc::SIGTERM);
    let end: Finished = guest.finish();
    assert_eq!(end.code(), 143);
    drop(shown);
}
