//! Sessions: how they begin and end, and what comes of wrong bytes.

use crate::client::register::{EBX, EIP};
use crate::client::{Debuggee, Gdb, from_hex, to_hex, word};
use crate::support::later::{LATER, ON_PCI};
use crate::support::{PATIENCE, Running, Scratch, built_in, gdb, lguest, run};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Where the guest stands when it waits for a key. At its prompt it may not do
/// so yet.
fn waits_at(gdb: &mut Gdb) -> u32 {
    let deadline = Instant::now() + PATIENCE;
    let mut place = gdb.eip();
    loop {
        gdb.send("c");
        std::thread::sleep(Duration::from_millis(20));
        gdb.interrupt();
        let before = std::mem::replace(&mut place, gdb.eip());
        if place == before {
            return place;
        }
        assert!(Instant::now() < deadline, "it never waits: {place:#x}");
    }
}

/// A scripted session of 200 commands and more, with a guest at its prompt.
fn a_session(options: &[&str]) {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(options);
    let place = waits_at(&mut gdb);
    let mut commands = 0;
    for round in 0..20_u32 {
        let at = 0xC000_0800 + round * 8;
        let before = gdb.memory(at, 4);
        gdb.write(at, &round.to_le_bytes());
        assert_eq!(gdb.memory(at, 4), round.to_le_bytes());
        gdb.write(at, &before);
        let mut registers = gdb.registers();
        let eip = word(&registers, EIP);
        registers[EBX * 4] ^= 0x55;
        gdb.order(&format!("G{}", to_hex(&registers)));
        registers[EBX * 4] ^= 0x55;
        gdb.order(&format!("G{}", to_hex(&registers)));
        assert_eq!(gdb.eip(), eip);
        gdb.order(&format!("Z0,{place:x},1"));
        gdb.send("c");
        // A key that comes before the guest waits does not end a wait.
        let deadline = Instant::now() + PATIENCE;
        loop {
            guest.run.type_in(b"\n");
            if gdb.answers_within(Duration::from_millis(500)) {
                break;
            }
            assert!(Instant::now() < deadline, "it does not come there");
        }
        gdb.stops("swbreak:");
        assert_eq!(gdb.eip(), place);
        gdb.order(&format!("z0,{place:x},1"));
        gdb.step();
        assert!(gdb.monitor("stats").contains("patches"));
        commands += 14;
    }
    assert_eq!(commands, 280);
    gdb.order("D");
    guest.run.type_in(b"echo well\n");
    guest.run.wait_for("\nwell");
    guest.power_off();
}

#[test]
fn a_session_of_two_hundred_commands() {
    a_session(&[]);
}

#[test]
fn the_same_session_with_virtio_devices() {
    for later in [LATER[0], ON_PCI[0]] {
        let scratch = Scratch::new("gdb-virtio");
        let kernel = later.of(&built_in(), &scratch);
        let kernel = format!("--kernel={}", kernel.display());
        a_session(&[&kernel]);
        a_session(&[&kernel, "--isolation=user"]);
    }
}

#[test]
fn the_guests_end_is_told() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    gdb.send("c");
    guest.run.type_in(b"poweroff 7\n");
    assert_eq!(gdb.receive(), "W07");
    assert_eq!(guest.run.finish().code(), 7);
}

#[test]
fn a_guest_that_stands_is_ended_by_a_signal() {
    for options in [&[][..], &["--gdb-wait"]] {
        let guest = Debuggee::start(options);
        let mut gdb = Gdb::connect(&guest.at);
        gdb.registers();
        guest.run.signal(libc::SIGTERM);
        assert_eq!(guest.run.finish().code(), 143);
        assert!(gdb.is_closed());
    }
    // Also while it waits for a debugger that never comes.
    let guest = Debuggee::start(&["--gdb-wait"]);
    guest.run.wait_for_error("waits for GDB");
    guest.run.signal(libc::SIGTERM);
    assert_eq!(guest.run.finish().code(), 143);
}

#[test]
fn bytes_that_are_no_packets_end_the_session_and_not_the_guest() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    let place = gdb.eip();
    gdb.order(&format!("Z0,{place:x},1"));
    // A packet that never ends is too long at some time.
    gdb.send_raw(&[b'$'; 9000]);
    assert!(gdb.is_closed());
    drop(gdb);
    for bytes in [&b"$m#zz"[..], b"$vCont;c:999999#00", b"\x03\x03\x03$G#47"] {
        let mut gdb = Gdb::connect(&guest.at);
        gdb.send_raw(bytes);
        drop(gdb);
    }
    guest.run.type_in(b"echo on\n");
    guest.run.wait_for("\non");
    // Nor does it meet the breakpoint of the first session.
    let mut gdb = Gdb::connect(&guest.at);
    assert_eq!(gdb.memory(place, 1).len(), 1);
    gdb.order("D");
    guest.power_off();
}

#[test]
fn an_interrupt_that_crosses_a_stop_is_one_stop() {
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    // A guest at its prompt waits for an interrupt. The key is one.
    guest.run.type_in(b"\n");
    gdb.step();
    gdb.send_raw(&[3]);
    gdb.send("c");
    guest.run.type_in(b"echo on\n");
    guest.run.wait_for("\non");
    gdb.interrupt();
    gdb.order("D");
    guest.power_off();
}

#[test]
fn a_long_answer_waits_for_a_gdb_that_reads_late_or_never() {
    /// More than a socket takes without a reader.
    const LENGTH: u32 = 1 << 20;
    let (mut guest, mut gdb) = Debuggee::at_its_prompt(&[]);
    gdb.write(0xC000_0800, b"here");
    gdb.send(&format!("mc0000000,{LENGTH:x}"));
    // The Launcher cannot answer all of it yet.
    let memory = from_hex(&gdb.receive());
    assert_eq!(memory.len(), LENGTH as usize);
    assert_eq!(&memory[0x800..0x804], b"here");
    gdb.send(&format!("mc0000000,{LENGTH:x}"));
    drop(gdb);
    guest.run.type_in(b"echo on\n");
    guest.run.wait_for("\non");
    guest.power_off();
}

#[test]
fn only_this_user_may_connect() {
    let guest = Debuggee::start(&[]);
    guest.run.wait_for("lguest> ");
    let mode = std::fs::metadata(&guest.at).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    guest.power_off();
    let refused = |at: &str| {
        let run = run(lguest().args(["run", "--gdb", at]), b"");
        assert_eq!(run.code(), 2, "{at}");
        run.stderr
    };
    assert!(refused("0.0.0.0:1234").contains("ssh -L"));
    assert!(refused("[::]:1234").contains("ssh -L"));
    assert!(refused("nowhere").contains("unix:PATH"));
    assert!(refused("unix:").contains("unix:PATH"));
    assert!(refused("0").contains("1 to 65535"));
    let run = run(lguest().args(["run", "--gdb-wait"]), b"");
    assert_eq!(run.code(), 2);
}

#[test]
fn a_path_that_is_in_use_is_refused() {
    let guest = Debuggee::start(&[]);
    guest.run.wait_for("lguest> ");
    let at = format!("unix:{}", guest.at.display());
    let other = run(lguest().args(["run", "--gdb", &at]), b"");
    assert_eq!(other.code(), 120);
    assert!(
        other.stderr.contains("give another path"),
        "{}",
        other.stderr
    );
    guest.power_off();
    let scratch = Scratch::new("gdb-file");
    let file = scratch.file("file", b"kept");
    let at = format!("unix:{}", file.display());
    let other = run(lguest().args(["run", "--gdb", &at]), b"");
    assert_eq!(other.code(), 120);
    assert_eq!(std::fs::read(file).unwrap(), b"kept");
}

/// Runs GDB with these commands.
pub(crate) fn real_gdb(commands: &[&str]) -> Option<Command> {
    let gdb = gdb::real(commands);
    if gdb.is_none() {
        println!("SKIPPED {}: no gdb", std::thread::current().name()?);
    }
    gdb
}

#[test]
fn gdb_itself_steps_breaks_and_detaches() {
    let guest = Debuggee::start(&["--gdb-wait"]);
    guest.run.wait_for_error("waits for GDB");
    let target = format!("target remote {}", guest.at.display());
    let Some(mut gdb) = real_gdb(&[
        "set architecture i386",
        &target,
        "stepi",
        "stepi",
        "print/x $eax = 0x4711",
        "info registers eax eflags fsbase mxcsr st0",
        "print $xmm1 = $xmm0",
        "tbreak *$eip",
        "x/4i $eip",
        "monitor tables",
        "detach",
    ]) else {
        return;
    };
    let gdb = Running::start(&mut gdb).finish();
    assert_eq!(gdb.code(), 0);
    let said = format!("{}{}", gdb.stdout, gdb.stderr);
    assert!(said.contains("eax            0x4711"), "{said}");
    assert!(said.contains("mxcsr          0x1f80"), "{said}");
    assert!(said.contains("(loaded)"), "{said}");
    assert!(said.contains("detached"), "{said}");
    assert!(!said.contains("rejected"), "{said}");
    guest.run.wait_for("lguest> ");
}

#[test]
fn gdb_itself_starts_the_guest() {
    let lguest = env!("CARGO_BIN_EXE_lguest");
    let target = format!("target remote | {lguest} run --gdb stdio --gdb-wait");
    let Some(mut gdb) = real_gdb(&[
        "set architecture i386",
        &target,
        "stepi",
        "info registers eip",
        "kill",
    ]) else {
        return;
    };
    let gdb = Running::start(&mut gdb).finish();
    assert!(gdb.stdout.contains("eip            0xc01"), "{gdb:?}");
    assert!(gdb.stderr.contains("ended by the debugger"), "{gdb:?}");
}
