//! The end of a guest, explained (`--explain`), and its core (`--core`).

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use support::{Finished, Scratch, is_here, lguest, questions, run, skip};

/// The built-in guest with these options, in a panic.
fn panics(options: &[&str]) -> Finished {
    let mut command = lguest();
    command.arg("run").args(options);
    command.args(["--append", "quiet run=\"panic well\""]);
    run(&mut command, b"")
}

#[test]
fn a_panic_is_explained_if_that_is_asked_for() {
    let ended = panics(&["--explain"]);
    assert_eq!(ended.code(), 1);
    let text = &ended.stderr;
    assert!(text.starts_with("lguest: CRASH: panic: well"), "{text}");
    for part in [
        "\n  eax ",
        " cr3 ",
        "\n  it ran the kernel\n  code:\n    c01",
        "\n  frames are not known: there are no symbols (--symbols)\n",
        " hypercalls:\n",
        "\n     2 CRASH            ebx ",
        "\n  usual cause: the guest's own code has panicked",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let ended = panics(&[]);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn the_tables_of_a_fault_are_shown() {
    let mut command = lguest();
    command
        .args(["run", "--explain", "--kernel"])
        .arg(questions());
    command.args(["--append", "ask=unhandled_fault"]);
    let ended = run(&mut command, b"");
    let text = &ended.stderr;
    for part in [
        "unhandled trap 14",
        "\n  page tables for ",
        "(not present)\n    no memory is there\n",
        "\n  usual cause: a page fault before",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

#[test]
fn a_core_is_what_gdb_opens() {
    let scratch = Scratch::new("core");
    let core = scratch.path("core");
    let path = core.to_str().unwrap();
    // A guest that does not die writes none, and what is there stays.
    fs::write(&core, "mine").unwrap();
    let mut command = lguest();
    command.args(["run", "--core", path]);
    command.args(["--append", "quiet run=poweroff"]);
    assert_eq!(run(&mut command, b"").code(), 0);
    assert_eq!(fs::read(&core).unwrap(), b"mine");
    fs::remove_file(&core).unwrap();
    assert_eq!(panics(&["--core", path]).code(), 1);
    let mode = fs::metadata(&core).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it has all that the guest knew");
    let bytes = fs::read(&core).unwrap();
    assert!(bytes.starts_with(b"\x7FELF\x01\x01\x01"));
    assert!(bytes.len() > 32 << 20, "all of its memory");
    if !is_here("gdb") {
        return skip("a_core_is_what_gdb_opens", "there is no gdb");
    }
    let mut gdb = Command::new("gdb");
    gdb.args(["-q", "-nx", "-batch", "-ex", "info registers eip cs"]);
    gdb.args(["-ex", "x/13c 0xc0100000", "-ex", "x/i $eip"]);
    gdb.args(["-core", path]);
    let output = gdb.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    for part in [
        "Program terminated with signal SIGABRT",
        "eip            0xc01",
        "cs             0x61",
        "71 'G'",
        "=> 0xc01",
    ] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    let mut command = lguest();
    command.args(["run", "--core", "/nowhere/core"]);
    let refused = run(&mut command, b"");
    assert_eq!(refused.code(), 120);
    assert!(refused.stderr.contains("core /nowhere/core"));
}
