//! Threads: the processor, and each page directory.

use crate::client::register::{CS, EAX, EIP};
use crate::client::{Debuggee, Gdb, from_hex, to_hex, word};
use crate::support::Running;
use crate::user::{SPINS, in_user_code};

/// The only thread whose description has this in it.
#[track_caller]
fn thread_with(gdb: &mut Gdb, part: &str) -> u32 {
    let all = gdb.threads();
    let mut found = all.iter().filter(|(_, about)| about.contains(part));
    let first = found.next().unwrap_or_else(|| panic!("{part}: {all:?}"));
    assert!(found.next().is_none(), "{part}: {all:?}");
    first.0
}

/// The number of the last thread that is a page directory and is not loaded.
/// Those before it are older.
#[track_caller]
fn last_other(gdb: &mut Gdb) -> u32 {
    let all = gdb.threads();
    let is = |(_, about): &&(u32, String)| {
        about.starts_with("page directory") && !about.ends_with(", loaded")
    };
    all.iter().rfind(is).unwrap_or_else(|| panic!("{all:?}")).0
}

/// What `g` answers for one register; `None` if it is not known.
fn register(gdb: &mut Gdb, number: usize) -> Option<u32> {
    let all = gdb.ask("g");
    let digits = &all[number * 8..][..8];
    (digits != "xxxxxxxx").then(|| word(&from_hex(digits), 0))
}

fn each_directory_is_a_thread(options: &[&str]) {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(options);
    assert_eq!(thread_with(&mut gdb, "processor: it "), 1);
    let kernel = thread_with(&mut gdb, ", loaded");
    gdb.send("c");
    guest.run.type_in(SPINS);
    in_user_code(&mut gdb);
    assert_eq!(thread_with(&mut gdb, "it runs user code"), 1);
    let program = thread_with(&mut gdb, ", loaded");
    assert_ne!(
        program, kernel,
        "the kernel's page directory is another one"
    );
    // Both have the kernel's memory; only one has the program's.
    let eip = gdb.eip();
    let code = gdb.memory(eip, 8);
    assert_eq!(code.len(), 8);
    let shared = gdb.memory(0xC010_0000, 64);
    gdb.choose(program);
    assert_eq!(gdb.eip(), eip);
    assert_eq!(gdb.memory(eip, 8), code);
    gdb.choose(kernel);
    assert_eq!(gdb.memory(eip, 8), []);
    assert_eq!(gdb.memory(0xC010_0000, 64), shared);
    assert_eq!(register(&mut gdb, EIP), None, "no program has run in it");
    let registers = to_hex(&vec![0; crate::client::ALL]);
    assert!(gdb.ask(&format!("G{registers}")).starts_with('E'));
    // A step is the processor's, whatever thread is chosen.
    gdb.choose(program);
    gdb.send(&format!("vCont;s:{program:x};c"));
    gdb.stops("thread:01;");
    assert_eq!(gdb.registers()[CS * 4] & 3, 3);
    gdb.send("k");
    assert_eq!(guest.run.finish().code(), 137);
}

#[test]
fn each_page_directory_is_a_thread() {
    each_directory_is_a_thread(&[]);
}

#[test]
fn so_it_is_with_user_processes() {
    each_directory_is_a_thread(&["--isolation=user"]);
}

#[test]
fn where_a_program_was_is_seen_when_another_directory_is_loaded() {
    for options in [&[][..], &["--isolation=user"]] {
        let (mut guest, mut gdb) = Debuggee::at_its_prompt(options);
        gdb.send("c");
        guest.run.type_in(b"run primes 100\n");
        guest.run.wait_for_nth("lguest> ", 2);
        gdb.interrupt();
        let program = last_other(&mut gdb);
        gdb.choose(program);
        let eip = register(&mut gdb, EIP).unwrap();
        assert!(eip < 0xC000_0000, "{eip:#x}");
        assert_eq!(register(&mut gdb, CS).unwrap() & 3, 3);
        assert_eq!(register(&mut gdb, EAX), None);
        gdb.choose(1);
        assert!(gdb.eip() > 0xC000_0000);
        gdb.order("D");
        guest.power_off();
    }
}

#[test]
fn a_thread_that_is_not_there_has_nothing() {
    let (guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    let all = gdb.threads();
    for (number, _) in &all {
        gdb.order(&format!("T{number:x}"));
    }
    assert!(gdb.ask("T77").starts_with('E'));
    gdb.choose(0x77);
    assert!(gdb.ask("g").starts_with('E'));
    assert_eq!(gdb.memory(0xC010_0000, 4), []);
    gdb.choose(1);
    assert_eq!(gdb.memory(0xC010_0000, 4).len(), 4);
    gdb.order("D");
    guest.power_off();
}

#[test]
fn gdb_itself_shows_threads() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    gdb.send("c");
    guest.run.type_in(SPINS);
    in_user_code(&mut gdb);
    let eip = gdb.eip();
    // The program stays where it was when it was left.
    drop(gdb);
    let target = format!("target remote {}", guest.at.display());
    let code = format!("x/2i {eip:#x}");
    let Some(mut gdb) = crate::session::real_gdb(&[
        "set architecture i386",
        &target,
        "info threads",
        "thread 2",
        &code,
        "thread 1",
        "stepi",
        "kill",
    ]) else {
        return;
    };
    let gdb = Running::start(&mut gdb).finish();
    let said = format!("{}{}", gdb.stdout, gdb.stderr);
    assert!(
        said.contains("* 1    Thread 1.1 (processor: it runs"),
        "{said}"
    );
    assert!(said.contains("(page directory 0x"), "{said}");
    assert!(said.contains(", loaded)"), "{said}");
    assert!(
        said.contains("[Switching to thread 2 (Thread 1.2)]"),
        "{said}"
    );
    assert!(said.contains("<unavailable> in ?? ()"), "{said}");
    assert!(!said.contains("ambiguous"), "{said}");
}
