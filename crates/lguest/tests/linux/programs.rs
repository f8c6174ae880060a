//! Programs in the machine that check their kernel's promises.

use crate::kit::{Given, INITRD, Scratch, VMLINUX, skip};

#[test]
fn traps_signals_memory_and_registers_are_as_on_a_real_machine() {
    let test = "traps_signals_memory_and_registers_are_as_on_a_real_machine";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let exact = ["--no-fast-path=flat-code"];
    let ended = given.run(64, &exact, "/tests/correct 2 strict");
    ended.must_have_said("CORRECTNESS PASS");
    // By default a jump into the kernel is reported at its first trap.
    let ended = given.run(64, &[], "/tests/correct 2 strict");
    ended.must_have_said("CORRECTNESS ");
    let wrong = ended.shown.lines().filter(|l| l.starts_with("CHECK FAIL"));
    let wrong: Vec<_> = wrong.filter(|l| !l.contains("jump away")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn they_are_also_with_user_processes() {
    let test = "they_are_also_with_user_processes";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let walled = ["--isolation=user"];
    let ended = given.run(64, &walled, "/tests/correct 2 strict");
    ended.must_have_said("CORRECTNESS PASS");
    let tests = "/tests/filetest /tmp/f 4 1 both && /tests/nettool lo 20";
    let ended = given.run(64, &walled, tests);
    ended.must_have_said("FILETEST PASS");
    ended.must_have_said("NETLO PASS");
}

#[test]
fn files_and_the_loopback_network_keep_their_data() {
    let test = "files_and_the_loopback_network_keep_their_data";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let tests = "/tests/filetest /tmp/f 16 1 both && /tests/nettool lo 50";
    let ended = given.run(64, &[], tests);
    ended.must_have_said("FILETEST PASS");
    ended.must_have_said("NETLO PASS");
}

/// Registers that a program gives to its kernel by `vm86`, in a signal's frame
/// or as a debugger do not change its privilege.
#[test]
fn no_selector_gives_a_program_its_kernels_level() {
    let test = "no_selector_gives_a_program_its_kernels_level";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    for isolation in ["--isolation=guest", "--isolation=user"] {
        let ended = given.run(64, &[isolation], "/tests/levels");
        if ended.shown.contains("RUN-EXIT 127") {
            return skip(test, "the initial ram disk has no /tests/levels");
        }
        ended.must_have_said("LEVELS PASS");
        if ended.shown.contains("LEVELS SKIPPED vm86") {
            skip(test, "the kernel was built without vm86");
        }
    }
}

/// Bases, limits and types of descriptors, in every segment register.
#[test]
fn segments_are_as_their_descriptors_say() {
    let test = "segments_are_as_their_descriptors_say";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    for isolation in ["--isolation=guest", "--isolation=user"] {
        let ended = given.run(64, &[isolation], "/tests/segments guest");
        if ended.shown.contains("RUN-EXIT 127") {
            return skip(test, "the initial ram disk has no /tests/segments");
        }
        ended.must_have_said("SEGMENTS PASS");
    }
}

#[test]
fn programs_execute_what_was_written_last() {
    let test = "programs_execute_what_was_written_last";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new("code");
    let disk = scratch.path("disk");
    std::fs::write(&disk, [0; 1 << 16]).unwrap();
    let block = format!("--block={}", disk.display());
    for options in [
        &[][..],
        &["--no-fast-path=linear"],
        &["--no-fast-path=eager"],
        &["--isolation=user"],
    ] {
        let options = [&[block.as_str()], options].concat();
        let program = format!("/tests/code -d {}a", given.disks());
        let ended = given.run(64, &options, &program);
        if ended.shown.contains("RUN-EXIT 127") {
            return skip(test, "the initial ram disk has no /tests/code");
        }
        ended.must_have_said("CODE disk: 0 of 100 wrong");
        ended.must_have_said("CODE PASS");
    }
}

/// A debugger's hardware breakpoints and watchpoints stop its program.
#[test]
fn debug_registers_stop_a_program() {
    let test = "debug_registers_stop_a_program";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    for isolation in ["--isolation=guest", "--isolation=user"] {
        let ended = given.run(64, &[isolation], "/tests/watch");
        if ended.shown.contains("RUN-EXIT 127") {
            return skip(test, "the initial ram disk has no /tests/watch");
        }
        ended.must_have_said("WATCH PASS");
    }
}

/// System calls of programs cross into the kernel and back in 32-bit code, and
/// so does the kernel behind an interrupt; not where that is switched off.
#[test]
fn system_calls_cross_only_if_they_may() {
    let test = "system_calls_cross_only_if_they_may";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let scratch = Scratch::new("crossings");
    let stats = scratch.path("stats");
    let count = |name: &str| {
        let text = std::fs::read_to_string(&stats).unwrap();
        let (_, rest) = text.split_once(&format!("\"{name}\": "))?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse::<u64>().ok()
    };
    for (options, some, back) in [
        (&[][..], true, true),
        (&["--no-fast-path=back"], true, false),
        (&["--no-fast-path=crossing"], false, false),
        (&["--isolation=user"], false, false),
    ] {
        let written = format!("--stats={}", stats.display());
        let mut options = options.to_vec();
        options.push(&written);
        let mut machine = given.shell(&options);
        let copied = "dd if=/dev/zero bs=1 count=50000 2>/dev/null | wc -c";
        assert_eq!(machine.command(copied), "50000\n");
        machine.type_in("poweroff -f\r");
        assert_eq!(machine.end().code, 0);
        let calls = count("system_calls").unwrap_or(0);
        assert!(calls >= 100_000, "{calls}");
        let crossed = count("crossings_in").unwrap_or(0);
        assert_eq!(crossed > 50_000, some, "{crossed}");
        assert_eq!(crossed > 0, some, "{crossed}");
        // A kernel that waits is interrupted where it waits.
        let back_again = count("crossings_back").unwrap_or(0);
        assert_eq!(back_again > 0, back, "{back_again}");
    }
}
