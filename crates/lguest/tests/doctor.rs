//! `lguest doctor`: one line and one object for each probe, and both true.
//!
//! A test does not know what this machine offers. It takes something away, and
//! checks that the doctor reports it.

#![expect(unsafe_code, reason = "a child loses a right before it starts")]

#[path = "support/refusal.rs"]
mod refusal;
mod support;

use refusal::{refuse, refuse_flags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde_json::Value;
use std::io;
use std::os::unix::process::CommandExt;
use support::{Finished, lguest_with};

/// The report without and with `--json`.
fn examine() -> (Finished, Value) {
    let lines = support::run(&mut lguest_with("doctor"), b"");
    let json = support::run(&mut lguest_with("doctor --json"), b"");
    assert_eq!(lines.code(), json.code());
    let value = serde_json::from_str(&json.stdout);
    (
        lines,
        value.unwrap_or_else(|e| panic!("{e}: {}", json.stdout)),
    )
}

/// Runs the doctor after `take`, which takes something away. It may only make
/// system calls.
fn without(
    take: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> Finished {
    let mut command = lguest_with("doctor");
    // SAFETY: between fork and exec, only system calls.
    unsafe { command.pre_exec(take) };
    support::run(&mut command, b"")
}

/// The line about `name`.
fn line<'a>(found: &'a Finished, state: &str, name: &str) -> &'a str {
    let start = format!("{state:9} {name:13} ");
    let line = found.stdout.lines().find(|line| line.starts_with(&start));
    line.unwrap_or_else(|| panic!("no {start:?} in\n{}", found.stdout))
}

#[test]
fn lines_and_json_say_the_same() {
    let (lines, json) = examine();
    assert_eq!(lines.stderr, "");
    let probes = json["probes"].as_array().unwrap();
    let text: Vec<&str> = lines.stdout.lines().collect();
    assert_eq!(text.len(), probes.len() + 1);
    for (line, probe) in text.iter().zip(probes) {
        let word = |field: &str| probe[field].as_str().unwrap();
        let (state, name) = (word("state"), word("name"));
        assert!(["ok", "degraded", "lacks"].contains(&state), "{state}");
        assert!(line.starts_with(&format!("{state:9} {name:13} ")), "{line}");
        // A report of a lack says what it means and what to do.
        assert_eq!(word("consequence").is_empty(), state == "ok", "{name}");
        assert_eq!(word("cure").is_empty(), state == "ok", "{name}");
    }
    let runs = json["guests_can_run"].as_bool().unwrap();
    assert_eq!(lines.code(), if runs { 0 } else { 121 });
    assert!(runs, "the other tests run guests:\n{}", lines.stdout);
    assert_eq!(text.last(), Some(&"guests can run here"));
}

#[test]
fn the_names_stay_the_same_for_scripts() {
    let (_, json) = examine();
    let names: Vec<&str> = json["probes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|probe| probe["name"].as_str().unwrap())
        .collect();
    let known = "kernel, fsgsbase, calls, 32-bit code, 32-bit calls, ldt, memory files, \
                 write+execute, seccomp, \
                 descriptors, guest, isolation, landlock, namespaces, capabilities, \
                 tracing, processes, address space, mappings, low memory, \
                 locked memory, overcommit, clock, processors, huge pages, \
                 keys, io_uring, tap, net namespace, passt, i686 compiler, mke2fs, \
                 debugfs, ip, qemu";
    assert_eq!(names.join(", "), known);
}

#[test]
fn a_machine_without_local_segments_is_reported() {
    let mut command = lguest_with("doctor");
    refuse(&mut command, libc::SYS_modify_ldt, libc::EPERM);
    let found = support::run(&mut command, b"");
    assert_eq!(found.code(), 121, "{found:?}");
    line(&found, "lacks", "ldt");
    let guest = line(&found, "lacks", "guest");
    assert!(guest.contains("refuses the call modify_ldt"), "{guest}");
    let last = found.stdout.lines().last().unwrap();
    assert_eq!(last, "no guest can run here; lacking: ldt, guest");
}

/// As Linux before 5.19 does.
#[test]
fn a_machine_that_cannot_hold_a_waiting_process_is_reported() {
    const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    let mut command = lguest_with("doctor");
    let flags = Some(WAIT_KILLABLE_RECV);
    refuse_flags(&mut command, libc::SYS_seccomp, flags, libc::EINVAL);
    let found = support::run(&mut command, b"");
    assert_eq!(found.code(), 0, "{found:?}");
    let seccomp = line(&found, "degraded", "seccomp");
    assert!(seccomp.contains("no --isolation=user"), "{seccomp}");
    assert!(seccomp.contains("take Linux 5.19"), "{seccomp}");
    line(&found, "lacks", "isolation");
    line(&found, "ok", "guest");
}

/// As in a container that allows only programs of 64 bits.
#[test]
fn a_machine_that_kills_for_32_bit_calls_is_reported() {
    let everything = SeccompFilter::new(
        [(libc::SYS_reboot, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        TargetArch::x86_64,
    );
    let program = BpfProgram::try_from(everything.unwrap()).unwrap();
    let found = without(move || {
        seccompiler::apply_filter(&program).map_err(io::Error::other)
    });
    assert_eq!(found.code(), 121, "{found:?}");
    line(&found, "lacks", "32-bit calls");
}

#[test]
fn limits_are_reported() {
    let found = without(|| {
        let hard = getrlimit(Resource::Nofile).maximum;
        let few = Rlimit {
            current: Some(10),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, few)?;
        let tight = Rlimit {
            current: Some(2 << 30),
            maximum: getrlimit(Resource::As).maximum,
        };
        setrlimit(Resource::As, tight)?;
        Ok(())
    });
    assert_eq!(found.code(), 121, "{found:?}");
    line(&found, "lacks", "descriptors");
    line(&found, "lacks", "guest");
    line(&found, "degraded", "address space");
    line(&found, "ok", "ldt");
}
