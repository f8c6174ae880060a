//! `--net user`: a network without root, made by passt.
//!
//! Each test runs as this user, and again as an ordinary user if this one is
//! root: passt does different things for the two.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{
    PATIENCE, Running, Scratch, free_port, is_here, program, run, skip, tool,
};

/// A user without rights.
const UNPRIVILEGED: &str = "65534";

/// The words of the built-in guest.
const WORDS: &str = "--append=quiet ip=10.0.2.15/24 gw=10.0.2.2";

/// The command as one user may run it.
struct User {
    command: PathBuf,
    unprivileged: bool,
    _scratch: Scratch,
}

/// The users that `test` runs as. None, if passt is missing.
fn users(test: &str) -> Vec<User> {
    if !is_here("passt") {
        skip(test, "there is no passt");
        return Vec::new();
    }
    let user = |unprivileged| {
        let kind = if unprivileged { "ordinary" } else { "self" };
        let scratch = Scratch::new(&format!("{test}-{kind}"));
        let command = scratch.lguest("lguest");
        User {
            command,
            unprivileged,
            _scratch: scratch,
        }
    };
    let mut users = vec![user(false)];
    if !rustix::process::geteuid().is_root() {
        skip(test, "as root: this user is not");
    } else if is_here("setpriv") {
        users.push(user(true));
    } else {
        skip(test, "as an ordinary user: there is no setpriv");
    }
    users
}

impl User {
    fn lguest(&self, net: &str) -> Command {
        let mut command = if self.unprivileged {
            let mut command = tool("setpriv");
            command.args(["--reuid", UNPRIVILEGED, "--regid", UNPRIVILEGED]);
            command.args(["--clear-groups", "--bounding-set=-all"]);
            command.arg("--inh-caps=-all").arg(&self.command);
            command
        } else {
            program(&self.command)
        };
        command.args(["run", WORDS]).arg(format!("--net={net}"));
        command
    }

    /// A Guest at its prompt.
    fn guest(&self, net: &str) -> Running {
        let guest = Running::start(&mut self.lguest(net));
        guest.wait_for("lguest> ");
        guest
    }
}

/// The process that a Launcher has started as `name`.
fn child(guest: &Running, name: &str) -> (Pid, OwnedFd) {
    child_of(guest, name).unwrap()
}

/// The same, if it is still there.
fn child_of(guest: &Running, name: &str) -> Option<(Pid, OwnedFd)> {
    let tasks = format!("/proc/{0}/task/{0}/children", guest.pid());
    let children = std::fs::read_to_string(tasks).unwrap();
    let is_it = |pid: &&str| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim().starts_with(name))
    };
    let pid = children.split_whitespace().find(is_it)?;
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?))
}

/// Waits for the end of a process.
fn wait_for_the_end(process: &OwnedFd) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    let ended = poll(&mut ended, Some(&patience)).unwrap();
    assert_eq!(ended, 1, "passt does not end");
}

/// passt from before 2023-03-27 takes a connection to which nothing was sent
/// for one whose answer is missing, and resets it after eight pauses of two
/// seconds. This side sees an end of the data as any other.
const RESET: Duration = Duration::from_secs(16);

/// Takes 8 MB from the Guest's tcp-send. On a busy machine that may take so
/// long that passt resets the connection. Then it is tried again.
fn take_from(guest: &mut Running, here: &TcpListener) {
    let port = here.local_addr().unwrap().port();
    for attempt in 1..=4 {
        guest.type_in(format!("tcp-send 10.0.2.2 8 {port}\n").as_bytes());
        let (mut stream, _) = here.accept().unwrap();
        let start = Instant::now();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        if bytes.len() == 8_000_000 {
            return;
        }
        let took = start.elapsed();
        assert!(took > RESET, "{} bytes in {took:?}", bytes.len());
        guest.wait_for_nth("tcp-send: the connection has ended", attempt);
    }
    panic!("passt resets each connection");
}

/// Sends 8 MB to the Guest's tcp-serve by a published port.
fn send_to(guest: &mut Running, port: u16) {
    guest.type_in(b"tcp-serve\n");
    guest.wait_for("listening on 10.0.2.15:5001");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&vec![7; 8_000_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.wait_for("received 8000000 bytes");
}

#[test]
fn a_guest_reaches_this_machine_and_is_reached() {
    for user in users("a_guest_reaches_this_machine_and_is_reached") {
        let port = free_port();
        let net = format!("user,publish={port}:5001");
        let mut guest = user.guest(&net);
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        take_from(&mut guest, &here);
        guest.wait_for("sent 8000000 bytes");
        send_to(&mut guest, port);
        guest.type_in(b"poweroff\n");
        guest.finish().ends_well(0);
        // passt has ended before the Launcher, so its port is free.
        let again = user.guest(&net);
        drop(again);
    }
}

#[test]
fn a_restricted_guest_reaches_nothing_and_is_reached() {
    for user in users("a_restricted_guest_reaches_nothing_and_is_reached") {
        let port = free_port();
        let net = format!("user,restrict,publish={port}:5001");
        let mut guest = user.guest(&net);
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = here.local_addr().unwrap().port();
        here.set_nonblocking(true).unwrap();
        // passt learns the Guest's Ethernet address from this.
        guest.type_in(b"ping 10.0.2.2 2\n");
        let said = guest.wait_for(" of 2 answered");
        assert!(said.contains(" 0 of 2 answered"), "{said}");
        guest.type_in(format!("tcp-send 10.0.2.2 1 {ours}\n").as_bytes());
        // Time for a few attempts, which nothing outside of the Guest shows. On
        // a busy machine there are fewer, and the test cannot fail by that.
        std::thread::sleep(std::time::Duration::from_millis(500));
        guest.type_in(b"\x03");
        send_to(&mut guest, port);
        assert!(here.accept().is_err(), "it has reached this machine");
        guest.type_in(b"poweroff\n");
        guest.finish().ends_well(0);
    }
}

#[test]
fn a_restricted_guest_reaches_what_is_allowed_and_nothing_else() {
    let test = "a_restricted_guest_reaches_what_is_allowed_and_nothing_else";
    for user in users(test) {
        let listener = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            (listener, port)
        };
        let (first, one) = listener();
        let (second, two) = listener();
        let (other, three) = listener();
        let net = format!(
            "user,restrict,allow=10.0.2.2:{one},allow=10.0.2.2:{two},\
             allow=10.0.2.2:{three}/udp,allow=192.0.2.7:{three}"
        );
        let mut guest = user.guest(&net);
        other.set_nonblocking(true).unwrap();
        guest.type_in(format!("tcp-send 10.0.2.2 1 {three}\n").as_bytes());
        // As for a Guest that may reach nothing.
        std::thread::sleep(std::time::Duration::from_millis(500));
        guest.type_in(b"\x03");
        for here in [first, second] {
            take_from(&mut guest, &here);
        }
        guest.wait_for_nth("sent 8000000 bytes", 2);
        guest.type_in(b"ping 10.0.2.2 1\n");
        let said = guest.wait_for(" of 1 answered");
        assert!(said.contains(" 0 of 1 answered"), "{said}");
        assert!(other.accept().is_err(), "it has reached another port");
        guest.type_in(b"poweroff\n");
        guest.finish().ends_well(0);
    }
}

#[test]
fn names_that_are_allowed_are_looked_up_before_the_guest_begins() {
    let test = "names_that_are_allowed_are_looked_up_before_the_guest_begins";
    if !is_here("passt") {
        return skip(test, "there is no passt");
    }
    let scratch = Scratch::new("names");
    let script = scratch.file(
        "script",
        b"#!/bin/sh\n\
          echo \"$@\" >>$ASKED\n\
          case $2 in\n\
          known.example) echo 192.0.2.7 STREAM known.example;;\n\
          here.example) echo 127.0.1.1 STREAM here.example;;\n\
          *) exit 2;;\n\
          esac\n",
    );
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let getent = scratch.program("getent", &script);
    let path = std::env::var("PATH").unwrap();
    let folder = getent.parent().unwrap().display();
    let asked = scratch.path("asked");
    let run_with = |net: &str, path: &str| {
        let mut command = support::lguest();
        let net = format!("--net=user,restrict,{net}");
        command.args(["run", "--append=quiet", &net]);
        command.env("PATH", path).env("ASKED", &asked);
        run(&mut command, b"poweroff\n")
    };
    let path = format!("{folder}:{path}");
    let twice = "allow=Known.example:443,allow=known.example:80/udp";
    run_with(twice, &path).ends_well(0);
    let lines = std::fs::read_to_string(&asked).unwrap();
    assert_eq!(lines, "ahosts known.example\n");
    for (name, code, said) in [
        ("missing.example", 120, "finds no address of that name"),
        ("here.example", 120, "10.0.2.2 is this machine's loopback"),
        ("127.0.0.1", 120, "10.0.2.2 is this machine's loopback"),
    ] {
        let end = run_with(&format!("allow={name}:80"), &path);
        assert_eq!(end.code(), code, "{end:?}");
        assert!(end.stderr.contains(said), "{end:?}");
        assert_eq!(end.stderr.lines().count(), 1, "{end:?}");
    }
    let end = run_with("allow=a.example:80", "/nonexistent");
    assert_eq!(end.code(), 121, "{end:?}");
    assert!(end.stderr.contains("no program getent"), "{end:?}");
}

#[test]
fn the_end_of_passt_is_told_and_survived() {
    for user in users("the_end_of_passt_is_told_and_survived") {
        let mut guest = user.guest("user");
        let (pid, process) = child(&guest, "passt");
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        wait_for_the_end(&process);
        guest.wait_for_error("passt has ended");
        guest.type_in(b"echo still here\n");
        guest.wait_for("\nstill here");
        guest.type_in(b"poweroff\n");
        assert_eq!(guest.finish().code(), 0);
    }
}

#[test]
fn passt_ends_with_a_launcher_that_is_killed() {
    for user in users("passt_ends_with_a_launcher_that_is_killed") {
        let guest = user.guest("user");
        let (_, process) = child(&guest, "passt");
        guest.signal(libc::SIGKILL);
        assert_eq!(guest.finish().signal(), Some(libc::SIGKILL));
        wait_for_the_end(&process);
    }
}

#[test]
fn a_network_that_cannot_be_made_names_the_cure() {
    for user in users("a_network_that_cannot_be_made_names_the_cure") {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let net = format!("user,publish={port}:80");
        let end = run(&mut user.lguest(&net), b"");
        assert_eq!(end.code(), 120, "{end:?}");
        assert!(end.stderr.contains("publish another one"), "{end:?}");
        // The cure works.
        drop(taken);
        let end = run(&mut user.lguest(&net), b"poweroff\n");
        assert_eq!(end.code(), 0, "{end:?}");
    }
}

#[test]
fn passt_inherits_no_descriptor_but_its_socket() {
    let scratch = Scratch::new("inherits");
    let list = scratch.path("list");
    let script = scratch.file(
        "script",
        b"#!/bin/sh\n\
          for fd in /proc/$$/fd/*; do readlink $fd; done >$LIST\n",
    );
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let passt = scratch.program("passt", &script);
    // As a shell may leave one open.
    let (inherited, _end) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
    let number = rustix::fs::fstat(&inherited).unwrap().st_ino;
    let mut command = support::lguest();
    let path = std::env::var("PATH").unwrap();
    let folder = passt.parent().unwrap().display();
    command
        .args(["run", "--net=user"])
        .env("PATH", format!("{folder}:{path}"))
        .env("LIST", &list);
    let end = run(&mut command, b"");
    assert_eq!(end.code(), 121, "{end:?}");
    assert!(end.stderr.contains("passt has ended"), "{end:?}");
    let list = std::fs::read_to_string(list).unwrap();
    assert!(!list.contains(&format!("pipe:[{number}]")), "{list}");
    assert_eq!(list.matches("socket:").count(), 1, "{list}");
}

/// What stands in for a passt that was taken over. It has a filter as passt has
/// when it is ready, and then does what its last line says.
const HOSTILE: &str = r#"#!/usr/bin/env python3
import ctypes, os, sys, time
link = int(sys.argv[sys.argv.index("--fd") + 1])
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
allow = ctypes.create_string_buffer(b"\x06\0\0\0\0\0\xff\x7f", 8)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, b"passt", 0, 0, 0)
libc.prctl(38, 1, 0, 0, 0)
rules = Filter(1, ctypes.addressof(allow))
if libc.prctl(22, 2, ctypes.byref(rules)): sys.exit("no filter")
frame = b"\0\0\0\x3c" + b"\xff" * 6 + b"\x02" * 54
def write(text):
    while text: text = text[os.write(link, text):]
"#;

/// One that does each of this, and what the Launcher says of its network.
const HOSTILITIES: [(&str, &str); 3] = [
    ("write(frame * 1000); time.sleep(3600)", ""),
    (
        "write(frame + b'\\xff' * 60); os.read(link, 1 << 16)",
        "a frame of 4294967295 bytes",
    ),
    ("write(frame + frame[:9])", "passt has ended"),
];

/// A Guest at its prompt, whose passt is a hostile one that `does` this.
fn with_hostile_passt(scratch: &Scratch, does: &str) -> Running {
    let script = format!("{HOSTILE}{does}\n");
    let script = scratch.file("script", script.as_bytes());
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let passt = scratch.program("passt", &script);
    let path = std::env::var("PATH").unwrap();
    let folder = passt.parent().unwrap().display();
    let mut command = support::lguest();
    command
        .args(["run", WORDS, "--net=user"])
        .env("PATH", format!("{folder}:{path}"));
    let guest = Running::start(&mut command);
    guest.wait_for("lguest> ");
    guest
}

#[test]
fn a_hostile_passt_harms_no_more_than_its_network() {
    if !is_here("python3") {
        let test = "a_hostile_passt_harms_no_more_than_its_network";
        return skip(test, "there is no python3");
    }
    for (n, (does, said)) in HOSTILITIES.into_iter().enumerate() {
        let scratch = Scratch::new(&format!("hostile-{n}"));
        let mut guest = with_hostile_passt(&scratch, does);
        let process = child_of(&guest, "passt").map(|(_, process)| process);
        let stays = said.is_empty();
        assert!(process.is_some() || !stays, "it does not end by itself");
        if !stays {
            guest.wait_for_error(said);
        }
        guest.type_in(b"ping 10.0.2.2 1\necho still here\n");
        guest.wait_for("\nstill here");
        guest.type_in(b"poweroff\n");
        assert_eq!(guest.finish().code(), 0, "{does}");
        if let Some(process) = process {
            wait_for_the_end(&process);
        }
    }
}

#[test]
fn a_hostile_passt_does_not_outlive_a_launcher_that_is_killed() {
    let test = "a_hostile_passt_does_not_outlive_a_launcher_that_is_killed";
    if !is_here("python3") {
        return skip(test, "there is no python3");
    }
    let scratch = Scratch::new("hostile-orphan");
    let guest = with_hostile_passt(&scratch, "time.sleep(3600)");
    let (_, process) = child(&guest, "passt");
    let launcher = i32::try_from(guest.pid()).ok().and_then(Pid::from_raw);
    rustix::process::kill_process(launcher.unwrap(), Signal::KILL).unwrap();
    wait_for_the_end(&process);
}

#[test]
fn without_passt_the_package_is_named() {
    let mut command = support::lguest();
    command
        .args(["run", "--net=user"])
        .env("PATH", "/nonexistent");
    let end = run(&mut command, b"");
    assert_eq!(end.code(), 121, "{end:?}");
    assert!(end.stderr.contains("install the package passt"), "{end:?}");
    assert_eq!(end.stderr.lines().count(), 1, "{end:?}");
}
