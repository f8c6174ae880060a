//! `lguest exec` in a machine whose agent is played by this test.
//!
//! The command line, the control socket and the multiplexer are those of a
//! user. So all that happens to a client is shown without Linux.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

#[path = "../support/mod.rs"]
mod support;

mod machine;

use machine::Machine;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg,
};
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::pty::Session;
use support::{Finished, PATIENCE, Running, run};

/// Runs a command without input.
#[track_caller]
fn exec(machine: &Machine, options: &str, command: &[&str]) -> Finished {
    run(&mut machine.exec(options, command), b"")
}

#[test]
fn everything_passes_through() {
    let machine = Machine::new("through", true);
    let end = exec(&machine, "", &["echo", "hello", "world"]);
    assert_eq!((end.stdout.as_str(), end.code()), ("hello world\n", 0));
    assert_eq!(end.stderr, "done\n");
    // More than any window.
    let input: Vec<u8> = (0..3_000_000_u32)
        .map(|n| b'a' + u8::try_from(n % 23).unwrap())
        .collect();
    let end = run(&mut machine.exec("", &["cat"]), &input);
    assert_eq!(end.code(), 0, "{}", end.stderr);
    assert!(end.stdout.as_bytes() == input, "{}", end.stdout.len());
}

#[test]
fn the_code_is_that_of_the_command() {
    let machine = Machine::new("codes", true);
    for (command, code) in [
        (&["exit", "0"][..], 0),
        (&["exit", "7"], 7),
        (&["exit", "255"], 255),
        (&["kill", "9"], 137),
        (&["kill", "15"], 143),
    ] {
        let end = exec(&machine, "", command);
        assert_eq!((end.code(), end.stderr.as_str()), (code, ""));
    }
    let end = exec(&machine, "--timeout 1m", &["late"]);
    assert_eq!(end.code(), 124);
    assert_eq!(end.stderr, "lguest: ended by --timeout after 60s\n");
    let end = exec(&machine, "", &["missing"]);
    assert_eq!(end.code(), 127);
    let said = "lguest: there is no \u{fffd}[2J'missing'\n";
    assert_eq!(end.stderr, said);
}

#[test]
fn options_reach_the_agent() {
    let machine = Machine::new("options", true);
    let options = "--env A=b --env LGUEST_EXEC_TEST --cwd /src --user me:1 \
                   --timeout 5m --memory 64M --processes 9 --file-limit 1G \
                   --output-limit 1M";
    let mut command = machine.exec(options, &["show"]);
    command.env("LGUEST_EXEC_TEST", "here");
    let end = run(&mut command, b"");
    let expected = "env A=b LGUEST_EXEC_TEST=here cwd /src user me:1 \
                    terminal false limits Some(300000) Some(67108864) Some(9) \
                    Some(1073741824) Some(1048576)\n";
    assert_eq!((end.stdout.as_str(), end.stderr.as_str()), (expected, ""));
    for (options, said) in [
        ("--env =x", "--env '=x': give NAME=VALUE"),
        ("--env LGUEST_NO_SUCH", "there is no such variable here"),
        ("--base file", "cannot be used with"),
    ] {
        let end = exec(&machine, options, &["show"]);
        assert_eq!(end.code(), 2, "{options}");
        assert!(end.stderr.contains(said), "{}", end.stderr);
    }
}

#[test]
fn json_has_all_of_it() {
    let machine = Machine::new("json", true);
    let parsed = |end: &Finished| -> serde_json::Value {
        serde_json::from_str(&end.stdout).unwrap()
    };
    let end = exec(&machine, "--json", &["echo", "hi"]);
    let result = parsed(&end);
    assert_eq!(result["stdout"], "hi\n");
    assert_eq!(result["stderr"], "done\n");
    assert_eq!(
        (&result["code"], &result["reason"]),
        (&0.into(), &"exited".into())
    );
    assert_eq!(result["command_seconds"], 1.5);
    assert_eq!(result["max_rss_kib"], 4096);
    let result = parsed(&exec(&machine, "--json", &["bytes"]));
    assert_eq!(result["stdout_base64"], "/wA=");
    let end = exec(&machine, "--json", &["kill", "9"]);
    let result = parsed(&end);
    assert_eq!((end.code(), &result["signal"]), (137, &9.into()));
    let end = exec(&machine, "--json", &["missing"]);
    let result = parsed(&end);
    assert_eq!((end.code(), &result["reason"]), (127, &"failed".into()));
    assert_eq!(end.stderr, "");
    let end = exec(&machine, "--json --timeout 100ms", &["ignore"]);
    let result = parsed(&end);
    assert_eq!((end.code(), &result["reason"]), (124, &"timeout".into()));
}

#[test]
fn signals_are_passed_on_and_insisting_ends() {
    let machine = Machine::new("signals", true);
    let running = Running::start(&mut machine.exec("", &["sleep"]));
    running.wait_for("it runs");
    running.signal(libc::SIGTERM);
    machine.seen.wait_for("signal 15");
    assert_eq!(running.finish().code(), 143);
    // One that does nothing about it.
    let running = Running::start(&mut machine.exec("", &["ignore"]));
    running.wait_for("it runs");
    // Signals of one kind that come at once are one signal.
    for times in 1..=2 {
        running.signal(libc::SIGINT);
        machine.seen.wait_for_nth("signal 2", times);
    }
    running.signal(libc::SIGINT);
    assert_eq!(running.finish().code(), 130);
    machine.seen.wait_for("hung up ignore");
}

#[test]
fn a_client_that_is_killed_is_hung_up() {
    let machine = Machine::new("killed", true);
    let running = Running::start(&mut machine.exec("", &["ignore"]));
    machine.seen.wait_for("ignore");
    drop(running);
    machine.seen.wait_for("hung up ignore");
}

#[test]
fn a_dead_parent_ends_it_unless_it_is_told_otherwise() {
    let machine = Machine::new("parent", true);
    for (options, name, ends) in
        [("", "sleep", true), ("--outlive-parent", "ignore", false)]
    {
        let exec = machine.exec(options, &[name]);
        let words: Vec<String> = std::iter::once(exec.get_program())
            .chain(exec.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let mut shell = support::program("sh");
        for (name, value) in exec.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        // The shell waits for a line, and ends.
        let words = words.join(" ");
        let line = format!("{words} >/dev/null 2>&1 & echo $!; read line");
        let mut shell = Running::start(shell.args(["-c", &line]));
        let pid = shell.wait_for("\n");
        machine.seen.wait_for(name);
        shell.close_input();
        let pid: u32 = pid.trim().parse().unwrap();
        if ends {
            machine.seen.wait_for("hung up sleep");
            continue;
        }
        // It goes on, and passes signals on.
        shell.finish();
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let signal = rustix::process::Signal::USR1;
        rustix::process::kill_process(pid, signal).unwrap();
        machine.seen.wait_for("signal 10");
    }
}

#[test]
fn a_reader_that_leaves_ends_it() {
    let machine = Machine::new("reader", true);
    let mut command = machine.exec("", &["cat"]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut running = Running::start_as_is(command.stdout(writer));
    drop(command);
    drop(reader);
    // For a moment there may be another reader: a process that another test
    // has just forked.
    let deadline = Instant::now() + PATIENCE;
    while !running.has_ended() {
        assert!(Instant::now() < deadline, "it goes on without a reader");
        running.type_in(b"a line\n");
        std::thread::sleep(Duration::from_millis(5));
    }
    let end = running.finish();
    assert_eq!((end.code(), end.stderr.as_str()), (141, ""));
    machine.seen.wait_for("hung up cat");
}

#[test]
fn a_terminal_is_passed_on_and_put_back() {
    let machine = Machine::new("terminal", true);
    let session = Session::start(&machine.exec("", &["cat"]));
    machine.seen.wait_for("cat");
    session.terminal.wait_until_raw();
    session.terminal.resize(90, 30);
    machine.seen.wait_for("90 x 30");
    assert_eq!(session.finish().code(), 0);
    // A signal puts it back, too.
    let session = Session::start(&machine.exec("", &["ignore"]));
    machine.seen.wait_for("ignore");
    session.terminal.wait_until_raw();
    session.signal(libc::SIGHUP);
    assert_eq!(session.finish().code(), 129);
}

#[test]
fn agents_that_lie_are_noticed() {
    let machine = Machine::new("lies", true);
    for command in ["unstarted", "flood"] {
        // Nobody reads, so the client gives no credit: it could be as fast as
        // the agent, which would not lie then.
        let (_unread, stdout) = std::io::pipe().unwrap();
        let mut client = machine.exec("", &[command]);
        client.stdin(Stdio::null()).stderr(Stdio::piped());
        let client = Running::start_as_is(client.stdout(stdout));
        let end = client.finish();
        assert_eq!(end.code(), 122, "{command}: {}", end.stderr);
        let said = "the agent in the guest is broken or hostile";
        let other = "the agent in the guest has sent more than";
        let known = end.stderr.contains(said) || end.stderr.contains(other);
        assert!(known, "{}", end.stderr);
    }
    let other = Running::start(&mut machine.exec("", &["sleep"]));
    machine.seen.wait_for("sleep");
    let end = exec(&machine, "", &["other"]);
    // The neighbour gets what is said in its name, and is told of it.
    assert_eq!((end.code(), end.stdout.as_str()), (0, ""));
    assert_eq!(other.finish().code(), 99);
    let end = exec(&machine, "--patience 100ms", &["silent"]);
    assert_eq!(end.code(), 126);
    assert!(end.stderr.contains("has not answered within 100ms"));
    let end = exec(&machine, "--output-limit 10", &["echo", "0123456789"]);
    assert_eq!(end.code(), 125, "{}", end.stderr);
    // This one ends all.
    let end = exec(&machine, "", &["garbage"]);
    assert_eq!(end.code(), 122);
    assert!(
        end.stderr.contains("a frame of 4294967295"),
        "{}",
        end.stderr
    );
    let end = exec(&machine, "", &["echo"]);
    assert_eq!(end.code(), 126);
    assert!(end.stderr.contains("no command can be run there any more"));
}

#[test]
fn numbers_and_texts_of_an_agent_are_bounded() {
    let machine = Machine::new("boasts", true);
    // What comes after the end is not looked at.
    let end = exec(&machine, "--json", &["boast"]);
    assert_eq!(end.code(), 3, "{}", end.stderr);
    let result: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!(
        (&result["code"], &result["stdout"]),
        (&3.into(), &"".into())
    );
    assert_eq!(result["max_rss_kib"], u64::MAX);
    // Credit for more than a client may have under way.
    let end = exec(&machine, "", &["lend"]);
    assert_eq!(end.code(), 122);
    assert!(end.stderr.contains("broken or hostile"), "{}", end.stderr);
    let end = exec(&machine, "", &["shout"]);
    assert_eq!(end.code(), 127);
    assert_eq!(end.stderr.lines().count(), 1);
    let line = end.stderr.trim_end();
    assert!(!line.chars().any(char::is_control), "{line}");
    assert!(end.stderr.len() <= 3 * lg_exec::frame::PAYLOAD_MOST);
}

#[test]
fn an_agent_that_reads_nothing_holds_nobody() {
    let machine = Machine::new("deaf", true);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut command = machine.exec("", &["deaf"]);
    command.stdin(reader).stdout(Stdio::piped());
    let held = Running::start_as_is(command.stderr(Stdio::piped()));
    drop(command);
    machine.seen.wait_for("deaf");
    // More than all buffers on the way, until the command ends.
    let writer =
        std::thread::spawn(
            move || {
                while writer.write_all(&[b'x'; 1 << 16]).is_ok() {}
            },
        );
    let end = exec(&machine, "--patience 200ms", &["echo"]);
    assert_eq!(end.code(), 126, "{}", end.stderr);
    let end = exec(&machine, "--timeout 200ms", &["echo"]);
    assert_eq!(end.code(), 124, "{}", end.stderr);
    held.signal(libc::SIGHUP);
    assert_eq!(held.finish().code(), 129);
    writer.join().unwrap();
}

#[test]
fn an_agent_that_ends_ends_its_commands() {
    let machine = Machine::new("ended", true);
    let end = exec(&machine, "", &["close"]);
    assert_eq!(end.code(), 122);
    assert_eq!(end.stderr, "lguest: the agent in the guest has ended\n");
}

#[test]
fn a_machine_without_an_agent_says_how_to_start_one() {
    let machine = Machine::new("without", false);
    let end = exec(&machine, "", &["echo"]);
    assert_eq!(end.code(), 126);
    let said = "lguest: machine 'web' cannot do that: it has no port to an \
                agent: start it with 'lguest run --agent'\n";
    assert_eq!(end.stderr, said);
}

/// Calls `exec` with this descriptor. Returns the line of the answer.
fn call_with(machine: &Machine, given: Option<BorrowedFd<'_>>) -> String {
    let stream = UnixStream::connect(machine.control()).unwrap();
    let line = b"{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"exec\"}\n";
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = Vec::from_iter(given);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&files));
    }
    let parts = [IoSlice::new(line)];
    let sent = sendmsg(&stream, &parts, &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(line.len()));
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn a_call_needs_a_socket() {
    let machine = Machine::new("socket", true);
    let line = call_with(&machine, None);
    assert!(line.contains("no descriptor came with the call"), "{line}");
    let (_reader, pipe) = std::io::pipe().unwrap();
    let internet = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for other in [pipe.as_fd(), internet.as_fd()] {
        let line = call_with(&machine, Some(other));
        assert!(line.contains("is no local stream socket"), "{line}");
    }
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let line = call_with(&machine, Some(theirs.as_fd()));
    assert!(line.contains("\"stream\":1"), "{line}");
}

#[test]
fn many_commands_run_at_once() {
    let machine = Machine::new("many", true);
    let runs: Vec<Running> = (0..20)
        .map(|n| {
            let mut run = Running::start(&mut machine.exec("", &["cat"]));
            run.type_in(format!("number {n}\n").repeat(1000).as_bytes());
            run
        })
        .collect();
    for (n, mut run) in runs.into_iter().enumerate() {
        run.close_input();
        let end = run.finish();
        let expected = format!("number {n}\n").repeat(1000);
        assert!(end.stdout == expected, "{n}: {}", end.stderr);
    }
}
