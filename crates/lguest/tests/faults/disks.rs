//! Disks whose files cannot take a write.
//!
//! The Guest gets an error (result 2 for that request) and goes on. Every write
//! that was acknowledged is in the file.

use crate::support::{Running, Scratch, is_here, lguest, run, skip, tool};
use std::path::Path;
use std::process::Command;

const SECTOR: usize = 512;

/// Sectors that one `dd` writes here.
const SECTORS: usize = 64;

/// The input for `count` of them, one after the other, and for the end.
fn writes(count: usize) -> Vec<u8> {
    let dd = |n| format!("dd {} {SECTORS} yes\n", n * SECTORS);
    let lines: String = (0..count).map(dd).collect();
    (lines + "poweroff 7\n").into_bytes()
}

/// Whether each `dd` was acknowledged.
fn answers(said: &str) -> impl Iterator<Item = bool> {
    said.lines().filter_map(|line| {
        let done = line.contains("read back the same");
        let refused = line.contains("dd: the disk could not do it");
        (done || refused).then_some(done)
    })
}

/// Which writes were acknowledged to the Guest. The others were refused, and
/// all acknowledged ones are in `file`.
fn acknowledged(said: &str, file: &[u8], count: usize) -> Vec<bool> {
    let answers: Vec<bool> = answers(said).collect();
    assert_eq!(answers.len(), count, "{said}");
    for (n, piece) in file.chunks(SECTORS * SECTOR).enumerate().take(count) {
        let mut sectors = piece.chunks(SECTOR);
        let whole = piece.len() == SECTORS * SECTOR
            && sectors.all(|s| s.iter().any(|&byte| byte != 0));
        assert!(whole || !answers[n], "{n} was acknowledged: {said}");
    }
    answers
}

fn with_disk(disk: &Path, options: &str) -> Command {
    let mut command = lguest();
    command.args(["run", "--append=quiet"]);
    command.arg(format!("--disk={}{options}", disk.display()));
    command
}

#[test]
fn a_file_system_that_is_full_refuses_and_loses_nothing() {
    let test = "a_file_system_that_is_full_refuses_and_loses_nothing";
    let own = |command: &str| {
        let mut own = tool("unshare");
        own.args(["--map-root-user", "--mount", "sh", "-c", command]);
        own
    };
    let may = "mount -t tmpfs -o size=256k none /tmp";
    if !own(may).output().is_ok_and(|o| o.status.success()) {
        return skip(test, "this user cannot mount a file system here");
    }
    let scratch = Scratch::new("full");
    let after = scratch.file("after", b"");
    std::fs::create_dir(scratch.path("mount")).unwrap();
    let mut command = own("mount -t tmpfs -o size=256k none \"$1\" || exit 99
         truncate -s 1M \"$1/disk\"
         \"$0\" run --append=quiet \"--disk=$1/disk\"
         code=$?
         cat \"$1/disk\" > \"$2\"
         exit $code");
    command.arg(env!("CARGO_BIN_EXE_lguest"));
    command.arg(scratch.path("mount")).arg(&after);
    let count = 30;
    let end = run(&mut command, &writes(count)).ends_well(7);
    let file = std::fs::read(after).unwrap();
    let answers = acknowledged(&end.stdout, &file, count);
    assert!(answers[..4].iter().all(|&done| done), "{answers:?}");
    assert!(answers[10..].iter().all(|&done| !done), "{answers:?}");
}

#[test]
fn a_file_that_may_not_grow_refuses_and_ends_nothing() {
    let test = "a_file_that_may_not_grow_refuses_and_ends_nothing";
    if !is_here("prlimit") {
        return skip(test, "there is no prlimit");
    }
    let scratch = Scratch::new("largest");
    // The Guest's memory is a file, too.
    let largest = 48 << 20;
    let disk = scratch.file("disk", b"");
    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    file.set_len(2 * largest).unwrap();
    let limited = |largest: u64| {
        let mut command = tool("prlimit");
        command.arg(format!("--fsize={largest}"));
        let lguest = with_disk(&disk, "");
        command.arg(lguest.get_program()).args(lguest.get_args());
        command
    };
    let middle = largest / SECTOR as u64;
    let typed = format!(
        "dd {} 8 yes\ndd {} 8 yes\ndd {middle} 8 yes\ndd 3 8 yes\n\
         poweroff 7\n",
        middle - 8,
        middle - 4,
    );
    let end = run(&mut limited(largest), typed.as_bytes()).ends_well(7);
    let answers: Vec<bool> = answers(&end.stdout).collect();
    assert_eq!(answers, [true, false, false, true], "{end:?}");
    // If not even that is allowed, a sentence says so.
    let end = run(&mut limited(1 << 20), b"");
    assert_eq!(end.code(), 121, "{end:?}");
    let words = "a file may have only 1 MiB; lift that";
    assert!(end.stderr.contains(words), "{end:?}");
}

#[test]
fn a_file_that_is_cut_short_meanwhile_grows_again() {
    let scratch = Scratch::new("cut");
    let disk = scratch.file("disk", &[0; 4 * SECTORS * SECTOR]);
    let mut guest = Running::start(&mut with_disk(&disk, ""));
    guest.type_in(format!("dd 0 {SECTORS} yes\n").as_bytes());
    guest.wait_for("read back the same");
    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    file.set_len(0).unwrap();
    guest.type_in(format!("dd {SECTORS} {SECTORS} yes\n").as_bytes());
    guest.wait_for_nth("read back the same", 2);
    guest.type_in(b"poweroff 8\n");
    guest.finish().ends_well(8);
    let now = std::fs::read(&disk).unwrap();
    assert_eq!(now.len(), 2 * SECTORS * SECTOR);
    assert!(now[..SECTORS * SECTOR].iter().all(|&byte| byte == 0));
}

#[test]
fn a_disk_that_fails_sometimes_loses_nothing() {
    let scratch = Scratch::new("fail");
    let count = 200;
    let disk = scratch.file("disk", &vec![0; count * SECTORS * SECTOR]);
    let end = run(&mut with_disk(&disk, ",fail=10"), &writes(count));
    let end = end.ends_well(7);
    let file = std::fs::read(&disk).unwrap();
    let answers = acknowledged(&end.stdout, &file, count);
    // Of two or more requests, one in ten each.
    let failed = answers.iter().filter(|&&done| !done).count();
    assert!((10..100).contains(&failed), "{failed} of {count}");
}
