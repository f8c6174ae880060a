//! The console of a machine, on a terminal that comes and goes.
//!
//! Each end of a session checks that the terminal is as before.

use crate::place::Place;
use crate::support::pty::Session;
use crate::support::{PATIENCE, Running, wait_until_full};
use std::time::Instant;

fn attach(place: &Place, name: &str) -> Session {
    let session = on_a_terminal(place, &format!("console {name}"));
    session.wait_for("lguest> ");
    session
}

/// Runs a command with all its streams on a terminal.
pub(crate) fn on_a_terminal(place: &Place, words: &str) -> Session {
    let command = place.command(words);
    let mut words = std::process::Command::new("sh");
    // A signal may end it. It leaves no core file.
    words.args(["-c", "ulimit -c 0; exec env \"$@\"", "sh"]);
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            let mut word = key.to_owned();
            word.push("=");
            word.push(value);
            words.arg(word);
        }
    }
    words.arg(command.get_program()).args(command.get_args());
    Session::start(&words)
}

#[test]
fn a_console_is_left_and_found_again() {
    let place = Place::new("attach");
    place.start("web");
    let mut session = attach(&place, "web");
    session.wait_for("lguest guest ready");
    session.type_in(b"echo one\r");
    session.wait_for("\none");
    // What is typed before the key that leaves arrives, what comes after not.
    session.type_in(b"echo two\r\x1decho three\r");
    let end = session.ends(0);
    assert!(end.stdout.contains("left 'web', which runs on"), "{end:?}");
    let printed = place.wait_for("web", "\ntwo");
    assert!(!printed.contains("three"), "{printed}");
    let mut session = attach(&place, "web");
    session.wait_for("\ntwo");
    session.type_in(b"poweroff 5\r");
    let end = session.ends(5);
    let words = "machine 'web' has ended: powered off with code 5";
    assert!(end.stdout.contains(words), "{end:?}");
}

#[test]
fn a_client_that_is_killed_or_loses_its_terminal_changes_nothing() {
    let place = Place::new("killed-client");
    place.start("web");
    let launcher = place.launcher("web");
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        let session = attach(&place, "web");
        session.wait_until(|s| !s.terminal.is_as_before());
        session.signal(signal);
        session.ends(128 + signal);
    }
    let session = attach(&place, "web");
    session.signal(libc::SIGKILL);
    session.finish();
    // A signal of a broken process.
    let session = attach(&place, "web");
    session.wait_until(|s| !s.terminal.is_as_before());
    session.signal(libc::SIGABRT);
    session.wait_for("lguest: ended by SIGABRT");
    session.wait_until(|s| s.terminal.is_as_before());
    assert_eq!(session.finish().signal(), Some(libc::SIGABRT));
    // Its terminal is closed.
    drop(attach(&place, "web"));
    // The next one may type.
    let mut session = attach(&place, "web");
    session.type_in(b"echo on\r");
    session.wait_for("\non");
    session.type_in(b"\x1d");
    session.ends(0);
    assert!(launcher.lives());
}

#[test]
fn a_launcher_that_is_killed_gives_the_terminal_back() {
    let place = Place::new("killed-launcher");
    place.start("web");
    let session = attach(&place, "web");
    session.wait_until(|s| !s.terminal.is_as_before());
    place.launcher("web").signal(libc::SIGKILL);
    let end = session.ends(123);
    assert!(end.stdout.contains("its launcher was killed"), "{end:?}");
}

#[test]
fn one_types_and_the_others_look() {
    let place = Place::new("one-types");
    place.start("web");
    let mut first = attach(&place, "web");
    first.type_in(b"echo 1st\r");
    first.wait_for("\n1st");
    let mut second = attach(&place, "web");
    second.wait_for("types on 'web', so this only looks");
    second.type_in(b"echo 2nd\r");
    second.type_in(b"\x1d");
    second.ends(0);
    first.type_in(b"echo 3rd\r");
    assert!(!first.wait_for("\n3rd").contains("2nd"));
    first.type_in(b"\x1d");
    first.ends(0);
}

#[test]
fn fifty_lookers_see_everything() {
    let place = Place::new("fifty");
    place.start("web");
    let look = |_| Running::start(&mut place.command("console --look web"));
    let lookers: Vec<Running> = (0..50).map(look).collect();
    for looker in &lookers {
        looker.wait_for("lguest> ");
    }
    let clients = place.done("inspect web");
    assert!(clients.contains("\"clients\": 51"), "{clients}");
    place.done("send web help");
    place.wait_for("web", "poweroff");
    place.done("stop web");
    let all = place.done("logs web");
    for looker in lookers {
        let end = looker.finish();
        assert_eq!(end.code(), 0, "{end:?}");
        assert_eq!(end.stdout, all);
    }
}

/// A looker whose terminal takes no output keeps nothing waiting: not the
/// Guest, not the others, not the end.
#[test]
fn a_looker_that_does_not_read_delays_nothing() {
    let place = Place::new("stuck");
    place.start("web");
    let mut stuck = place.command("console --look web");
    let (out, theirs) = std::io::pipe().unwrap();
    stuck.stdout(theirs).stderr(std::process::Stdio::null());
    stuck.stdin(std::process::Stdio::null());
    let mut stuck = stuck.spawn().unwrap();
    let mut session = attach(&place, "web");
    // More than the pipe, the sockets and the ring hold.
    for n in 0..60 {
        session.type_in(&b"help\r".repeat(20));
        session.type_in(format!("echo round{n}\r").as_bytes());
        session.wait_for(&format!("\nround{n}\r"));
    }
    wait_until_full(&out);
    let start = Instant::now();
    session.type_in(b"poweroff\r");
    session.ends(0);
    assert!(start.elapsed() < PATIENCE / 2);
    drop(out);
    assert!(crate::support::end_of(&mut stuck).is_some());
}
