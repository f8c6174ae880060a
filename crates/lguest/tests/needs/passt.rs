//! `--net user` on machines that lack something passt or its start needs.
//!
//! Each row says one sentence with a cure, and ends with the code for a machine
//! that lacks something. Without the network, the same machine runs the Guest.

use crate::containers::{can, inside};
use crate::filters::refuse;
use crate::rows::{BAD_MACHINE, run_guest, works};
use crate::support::{Finished, Scratch, is_here, lguest, run, skip};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Runs a Guest with the network, after `take` has taken something away.
fn with_network(take: impl Fn(&mut Command)) -> Finished {
    let mut command = lguest();
    command.args(["run", "--net=user"]);
    take(&mut command);
    run(&mut command, b"echo it works\npoweroff\n")
}

/// Checks that a run ended with one sentence, which has these words.
#[track_caller]
fn says(row: &str, end: &Finished, words: &[&str]) {
    assert_eq!(end.code(), BAD_MACHINE, "{row}: {end:?}");
    assert_eq!(end.stderr.lines().count(), 1, "{row}: {end:?}");
    assert!(
        end.stderr.starts_with("lguest: network: "),
        "{row}: {end:?}"
    );
    for word in words {
        assert!(end.stderr.contains(word), "{row}: no {word}: {end:?}");
    }
}

/// Whether passt is here. Otherwise `test` is skipped.
fn has_passt(test: &str) -> bool {
    if !is_here("passt") {
        skip(test, "there is no passt");
    }
    is_here("passt")
}

#[test]
fn a_machine_that_refuses_what_passt_calls() {
    if !has_passt("a_machine_that_refuses_what_passt_calls") {
        return;
    }
    // The other calls are those that every run needs.
    for error in [libc::EPERM, libc::ENOSYS] {
        let take = |command: &mut Command| {
            refuse(command, libc::SYS_unshare, error);
        };
        let words = ["passt cannot confine itself", "allows unshare"];
        says(&format!("unshare {error}"), &with_network(take), &words);
    }
    let end = with_network(|_| ());
    works("nothing refused", &end);
}

#[test]
fn a_program_passt_that_cannot_be_started_is_named() {
    let scratch = Scratch::new("no-passt");
    let file = scratch.file("passt", b"#!/bin/sh\n");
    let folder = file.parent().unwrap().to_owned();
    let permissions = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&file, permissions).unwrap();
    let end = with_network(|command| {
        command.env("PATH", &folder);
    });
    let words = ["cannot start passt", "look at its file in PATH"];
    says("not executable", &end, &words);
}

#[test]
fn a_machine_without_user_namespaces() {
    let test = "a_machine_without_user_namespaces";
    let set =
        |value| format!("echo {value} >/proc/sys/user/max_user_namespaces");
    if !has_passt(test) || !can(test, &set(0)) {
        return;
    }
    let end = with_network(|command| inside(command, &set(0)));
    let words = ["passt cannot confine itself", "max_user_namespaces=1000"];
    says("no namespaces", &end, &words);
    let end = run_guest(|command| inside(command, &set(0)));
    works("without the network", &end);
    let end = with_network(|command| inside(command, &set(1000)));
    works("cured", &end);
}

#[test]
fn a_machine_without_a_way_out() {
    let test = "a_machine_without_a_way_out";
    // A network namespace of its own has no interface but a loopback.
    let alone = |command: &mut Command| {
        let mut outer = Command::new("unshare");
        outer.args(["--user", "--map-root-user", "--net"]);
        outer.arg(command.get_program()).args(command.get_args());
        *command = outer;
    };
    let mut nothing = Command::new("true");
    alone(&mut nothing);
    let can = nothing.output().is_ok_and(|out| out.status.success());
    if !has_passt(test) || !can {
        return skip(test, "no network namespace can be made here");
    }
    let words = ["finds no network of this machine", "a default route"];
    says("alone", &with_network(alone), &words);
    works("without the network", &run_guest(alone));
}

#[test]
fn a_machine_without_proc() {
    let test = "a_machine_without_proc";
    let script = "mount -t tmpfs none /proc";
    if !has_passt(test) || !can(test, script) {
        return;
    }
    let end = with_network(|command| inside(command, script));
    says(
        "no /proc",
        &end,
        &["passt needs /proc", "mount -t proc proc /proc"],
    );
    works("without", &run_guest(|command| inside(command, script)));
    let cure = format!("{script} && mount -t proc proc /proc");
    works("cured", &with_network(|command| inside(command, &cure)));
}
