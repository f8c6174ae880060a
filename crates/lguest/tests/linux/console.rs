//! The console as a user has it: a terminal with a shell.

use crate::kit::{Given, INITRD, Machine, VMLINUX, skip};
use std::fmt::Write;
use std::time::{Duration, Instant};

#[test]
fn lines_can_be_edited() {
    let Some(given) = Given::to("lines_can_be_edited", &[VMLINUX, INITRD])
    else {
        return;
    };
    let mut machine = given.shell(&[]);
    // Two letters are typed and erased. A letter is inserted further left. A
    // line is discarded. The last line is repeated.
    machine.type_in("echo onetw\x7f\x7f two\x1b[D\x1b[D\x1b[DX\r");
    machine.wait_for("\none Xtwo\r\n");
    machine.type_in("echo never\x15echo fresh\r");
    machine.wait_for("\nfresh\r\n");
    machine.type_in("\x1b[A\r");
    machine.wait_for("\nfresh\r\n");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn jobs_are_controlled_by_keys() {
    let test = "jobs_are_controlled_by_keys";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let mut machine = given.shell(&[]);
    // The shell shows the end of a line before it starts what is in the line. A
    // key that comes before that counts as text.
    let start = |machine: &mut Machine, line: &str| {
        machine.type_in(&format!("{line}\r"));
        machine.wait_for(&format!("{line}\r\n"));
        std::thread::sleep(Duration::from_secs(2));
    };
    start(&mut machine, "sleep 1000");
    machine.type_in("\x03");
    machine.wait_for("# ");
    assert_eq!(machine.command("echo $?"), "130\n");
    start(&mut machine, "sleep 1001");
    machine.type_in("\x1a");
    machine.wait_for("Stopped");
    machine.wait_for("# ");
    assert!(machine.command("jobs").contains("Stopped"));
    machine.command("bg");
    assert!(machine.command("jobs").contains("Running"));
    start(&mut machine, "fg");
    machine.type_in("\x03");
    machine.wait_for("# ");
    assert_eq!(machine.command("jobs"), "");
    start(&mut machine, "cat");
    machine.type_in("back\r");
    machine.wait_for("back\r\nback\r\n");
    machine.type_in("\x04");
    machine.wait_for("# ");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn the_guest_learns_the_size_of_the_terminal() {
    let test = "the_guest_learns_the_size_of_the_terminal";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    if !given.has_pci() {
        return skip(test, "Linux before 4.0 is not told of a change");
    }
    let mut machine = Machine::start(&given.words(64, &[]));
    // The driver is told when it is ready.
    machine.resize(101, 37);
    machine.wait_until_ready();
    for (columns, rows) in [(101, 37), (80, 25), (132, 43)] {
        machine.resize(columns, rows);
        let size = format!("{rows} {columns}\n");
        let patience = Instant::now() + Duration::from_secs(60);
        // The interrupt may come after the next command.
        while machine.command("stty size") != size {
            assert!(Instant::now() < patience, "{}", machine.text());
        }
    }
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn a_paste_of_10_kb_arrives_whole() {
    let test = "a_paste_of_10_kb_arrives_whole";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let mut paste = String::new();
    for i in 0..200 {
        writeln!(paste, "{i:04} {}", "z".repeat(46)).unwrap();
    }
    assert!(paste.len() >= 10_000);
    let mut machine = given.shell(&[]);
    machine.type_in(
        "stty -echo; echo BEG''IN; cat >/tmp/paste; stty echo; echo EN''D\r",
    );
    machine.wait_for("BEGIN\r\n");
    std::thread::sleep(Duration::from_millis(300));
    machine.type_in(&paste.replace('\n', "\r"));
    machine.type_in("\x04");
    machine.finish_command(Duration::from_secs(60));
    // Compared by lines, so that a failure shows only what is missing.
    let came = machine.command("cat /tmp/paste");
    for (came, sent) in came.lines().zip(paste.lines()) {
        assert_eq!(came, sent);
    }
    assert_eq!(came.len(), paste.len());
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn three_interrupts_end_the_launcher() {
    let test = "three_interrupts_end_the_launcher";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let mut machine = given.shell(&[]);
    // In one write: between two of them a busy machine could take more than a
    // second, and then they would not count.
    machine.type_in("\x03\x03\x03");
    let ended = machine.end();
    assert_eq!(ended.code, 130, "{}", ended.shown);
}
