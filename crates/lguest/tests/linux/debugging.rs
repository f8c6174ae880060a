//! GDB, and a kernel's death explained, with a Linux.

use crate::kit::{BZIMAGE, Given, INITRD, Scratch, VMLINUX, skip};
use crate::support::PATIENCE;
use crate::support::gdb::register::{CS, EAX, EBX, EIP, ESP};
use crate::support::gdb::{Gdb, real, to_hex, word};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where a kernel is.
const KERNEL: u32 = 0xC000_0000;

/// What makes Linux panic: its first program ends.
const DIES: &str = "exec /bin/false";

/// A word on the stack that a kernel which waits does not use.
fn unused(gdb: &mut Gdb) -> u32 {
    (gdb.register(ESP) - 1024) & !3
}

fn a_session(test: &str, options: &[&str]) {
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new(test);
    let at = scratch.path("gdb");
    let listens = format!("--gdb=unix:{}", at.display());
    let mut machine =
        given.shell_of_run(&[&[listens.as_str()], options].concat());
    let mut gdb = Gdb::connect(&at);
    // The shell has shown its prompt, and may not wait for a key yet.
    let deadline = Instant::now() + PATIENCE;
    while gdb.eip() < KERNEL {
        assert!(Instant::now() < deadline, "it never waits in its kernel");
        gdb.send("c");
        std::thread::sleep(Duration::from_millis(50));
        gdb.interrupt();
    }
    let place = gdb.eip();
    // More than ten commands in each round.
    for round in 0..20_u32 {
        let at = unused(&mut gdb);
        gdb.write(at, &round.to_le_bytes());
        assert_eq!(gdb.memory(at, 4), round.to_le_bytes());
        let mut registers = gdb.registers();
        registers[EBX * 4] ^= 0x55;
        gdb.order(&format!("G{}", to_hex(&registers)));
        registers[EBX * 4] ^= 0x55;
        gdb.order(&format!("G{}", to_hex(&registers)));
        assert_eq!(gdb.eip(), word(&registers, EIP));
        gdb.order(&format!("Z0,{place:x},1"));
        gdb.send("c");
        machine.type_in("\r");
        gdb.stops("swbreak:");
        assert_eq!(gdb.eip(), place);
        gdb.order(&format!("z0,{place:x},1"));
        gdb.step();
    }
    let threads = gdb.threads();
    assert_eq!(threads[0].0, 1);
    // The shell's, and that of the kernel or of init.
    assert!(threads.len() > 2, "{threads:?}");
    gdb.order("D");
    drop(gdb);
    assert!(machine.command("echo we''ll").contains("well"));
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

#[test]
fn a_session_of_two_hundred_commands() {
    a_session("a_session_of_two_hundred_commands", &[]);
}

#[test]
fn the_same_session_with_user_processes() {
    let test = "the_same_session_with_user_processes";
    a_session(test, &["--isolation=user"]);
}

/// The address of a function, by the kernel's symbols. `None` without `nm`.
fn function(given: &Given, name: &str) -> Option<u32> {
    let nm = Command::new("nm").arg(given.path(VMLINUX)).output().ok()?;
    let lines = String::from_utf8(nm.stdout).unwrap();
    let is = |line: &&str| line.split_whitespace().nth(2) == Some(name);
    let line = lines
        .lines()
        .find(is)
        .unwrap_or_else(|| panic!("no {name}"));
    Some(u32::from_str_radix(&line[..8], 16).unwrap())
}

/// Steps until a program runs or its kernel does. Returns how many steps that
/// took.
fn step_until(gdb: &mut Gdb, in_program: bool) -> u32 {
    /// What a kernel does for a small call, and a program between two calls.
    const MOST: u32 = 100_000;
    for steps in 0..MOST {
        if (gdb.register(CS) & 3 == 3) == in_program {
            return steps;
        }
        gdb.step();
    }
    panic!("it is still there: {:#x}", gdb.eip());
}

#[test]
fn steps_lead_from_a_system_call_to_its_program_and_back() {
    let test = "steps_lead_from_a_system_call_to_its_program_and_back";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let Some(place) = function(&given, "sys_getuid") else {
        return skip(test, "there is no nm");
    };
    for options in [&[][..], &["--isolation=user"]] {
        let scratch = Scratch::new("gdb-steps");
        let at = scratch.path("gdb");
        let listens = format!("--gdb=unix:{}", at.display());
        let all = [&[listens.as_str()], options].concat();
        let mut machine = given.shell_of_run(&all);
        let mut gdb = Gdb::connect(&at);
        gdb.order(&format!("Z0,{place:x},1"));
        gdb.send("c");
        machine.type_in("id\r");
        gdb.stops("swbreak:");
        assert_eq!(gdb.eip(), place);
        gdb.order(&format!("z0,{place:x},1"));
        assert_ne!(step_until(&mut gdb, true), 0);
        assert!(gdb.eip() < KERNEL);
        // The user's number is the result.
        assert_eq!(gdb.register(EAX), 0);
        assert_ne!(step_until(&mut gdb, false), 0);
        assert!(gdb.eip() > KERNEL);
        gdb.order("D");
        drop(gdb);
        machine.wait_for("uid=0");
        machine.type_in("poweroff -f\r");
        assert_eq!(machine.end().code, 0);
    }
}

/// What GDB says to these commands. `None` if there is no GDB.
fn gdb(test: &str, words: &[&str]) -> Option<std::process::Child> {
    let Some(mut gdb) = real(words) else {
        skip(test, "there is no gdb");
        return None;
    };
    gdb.stdin(Stdio::null()).stdout(Stdio::piped());
    gdb.stderr(Stdio::piped());
    Some(gdb.spawn().unwrap())
}

fn said(gdb: std::process::Child) -> String {
    let output = gdb.wait_with_output().unwrap();
    let all = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn gdb_stops_in_a_system_call_and_shows_how_it_came_there() {
    let test = "gdb_stops_in_a_system_call_and_shows_how_it_came_there";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new("gdb-call");
    let at = scratch.path("gdb");
    let listens = format!("--gdb=unix:{}", at.display());
    let mut machine = given.shell_of_run(&[&listens]);
    let file = format!("file {}", given.path(VMLINUX).display());
    let target = format!("target remote {}", at.display());
    let words = [
        file.as_str(),
        &target,
        "tbreak sys_getuid",
        "continue",
        "bt 1",
        "info threads",
        "stepi",
        "detach",
    ];
    let Some(mut gdb) = gdb(test, &words) else {
        return;
    };
    // This program makes the call. GDB may not be there yet.
    let deadline = Instant::now() + PATIENCE;
    while gdb.try_wait().unwrap().is_none() && Instant::now() < deadline {
        machine.type_in("id\r");
        machine.read_more(Duration::from_millis(300));
    }
    let _ = gdb.kill();
    let said = said(gdb);
    assert!(said.contains("sys_getuid ()"), "{said}");
    assert!(
        said.contains("* 1    Thread 1.1 (processor: it runs"),
        "{said}"
    );
    assert!(said.contains("page directory 0x"), "{said}");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}

/// The explanation has the functions that lead to the panic.
#[track_caller]
fn explains_a_panic(shown: &str) {
    for part in [
        "CRASH: Attempted to kill init!",
        "how the guest was at its end:",
        "it ran the kernel",
        " panic+0x",
        " do_exit",
        "usual cause: the first program has ended",
    ] {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
}

#[test]
fn a_panic_is_explained_and_its_core_opened() {
    let test = "a_panic_is_explained_and_its_core_opened";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new("panic");
    let core = scratch.path("core");
    let writes = format!("--core={}", core.display());
    let ended = given.run_with_options(&["--explain", &writes], DIES);
    assert_eq!(ended.code, 1, "{}", ended.shown);
    explains_a_panic(&ended.shown);
    let file = format!("file {}", given.path(VMLINUX).display());
    let core = format!("core-file {}", core.display());
    let words = [file.as_str(), &core, "bt", "x/s &linux_banner"];
    let Some(gdb) = gdb(test, &words) else { return };
    let said = said(gdb);
    assert!(said.contains("panic ("), "{said}");
    assert!(said.contains("Linux version "), "{said}");
}

#[test]
fn a_packed_kernel_has_the_names_of_its_map() {
    let test = "a_packed_kernel_has_the_names_of_its_map";
    let Some(given) = Given::to(test, &[BZIMAGE, VMLINUX, INITRD]) else {
        return;
    };
    let map = Command::new("nm")
        .arg("-n")
        .arg(given.path(VMLINUX))
        .output();
    let Ok(map) = map else {
        return skip(test, "there is no nm");
    };
    let scratch = Scratch::new("map");
    let file = scratch.path("System.map");
    std::fs::write(&file, map.stdout).unwrap();
    let names = format!("--symbols={}", file.display());
    let kernel = format!("--kernel={}", given.path(BZIMAGE).display());
    let options = ["--explain", &names, &kernel];
    let ended = given.run_with_all_options(&options, DIES);
    assert_eq!(ended.code, 1, "{}", ended.shown);
    explains_a_panic(&ended.shown);
}
