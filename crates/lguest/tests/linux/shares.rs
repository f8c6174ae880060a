//! A folder of this machine, mounted by 9P in the machine.
//!
//! The kernel needs `CONFIG_NET_9P_VIRTIO` and `CONFIG_9P_FS`, and the initial
//! ram disk `/tests/share` (`tests/linux-programs/share.c`).

use crate::kit::{Given, INITRD, Scratch, VMLINUX, children, skip};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder to share, beside one that is not.
struct Shared {
    scratch: Scratch,
}

impl Shared {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        fs::create_dir(scratch.path("shared")).unwrap();
        fs::create_dir(scratch.path("outside")).unwrap();
        fs::write(scratch.path("outside/secret"), "secret").unwrap();
        Self { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path("shared").join(name)
    }

    /// The option of `lguest run` that shares it.
    fn option(&self, more: &str) -> String {
        format!("--share={},tag{more}", self.path("").display())
    }
}

/// What keeps a test from running, by its output.
fn lacks(shown: &str) -> Option<&'static str> {
    if shown.contains("SHARE NONE") || shown.contains("has no 9P") {
        return Some("the kernel cannot mount by 9P");
    }
    let without = shown.contains("RUN-EXIT 127");
    without.then_some("the initial ram disk has no /tests/share")
}

/// Runs `/tests/share tag WHAT` on a share. Returns whether it could be run;
/// then it has passed.
fn passes(test: &str, given: &Given, shared: &str, what: &str) -> bool {
    let ended = given.run_with_options(&[shared], what);
    if let Some(why) = lacks(&ended.shown) {
        skip(test, why);
        return false;
    }
    ended.must_have_said("SHARE PASS");
    let wrong = ended.shown.contains("SHARE WRONG");
    assert!(!wrong, "{}", ended.shown);
    true
}

/// How Linux mounts it: without and with its page cache, in small and in large
/// messages.
/// The program reads plus signs as commas.
const WAYS: &[&str] = &["", " msize=131072", " cache=loose+msize=512000"];

#[test]
fn a_share_is_a_file_system() {
    let test = "a_share_is_a_file_system";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    for way in WAYS {
        let shared = Shared::new("files");
        let what = format!("/tests/share tag files{way}");
        if !passes(test, &given, &shared.option(""), &what) {
            return;
        }
        // Everything was removed again.
        let left = fs::read_dir(shared.path("")).unwrap();
        assert_eq!(left.count(), 0, "{way}");
    }
}

#[test]
fn a_tree_of_two_thousand_files_is_copied_both_ways() {
    let test = "a_tree_of_two_thousand_files_is_copied_both_ways";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let shared = Shared::new("tree");
    grow(&shared.path("from"));
    let what = "/tests/share tag tree msize=131072";
    if !passes(test, &given, &shared.option(""), what) {
        return;
    }
    let (from, to) = (shared.path("from"), shared.path("to"));
    assert_eq!(same(&from, &to), 2000);
}

/// Makes a tree of 2000 files and links.
fn grow(root: &Path) {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for n in 0..2000_u64 {
        let folder = root.join(format!("{}/{}", n % 7, n % 31));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("file {n}"));
        if n % 20 == 0 {
            symlink(format!("../{}/anywhere", n % 3), &path).unwrap();
            continue;
        }
        let size = match n % 50 {
            1 => 100_000 + next() % 200_000,
            2 => 0,
            _ => next() % 8192,
        };
        let bytes: Vec<u8> =
            (0..size).map(|_| next().to_le_bytes()[3]).collect();
        fs::write(&path, bytes).unwrap();
        let mode = [0o644, 0o600, 0o755, 0o444][(n % 4) as usize];
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(&path, mode).unwrap();
    }
}

/// Compares two trees. Returns how many files and links they have.
fn same(one: &Path, other: &Path) -> usize {
    let list = |folder: &Path| {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(list(one), list(other), "{}", one.display());
    let mut count = 0;
    for name in list(one) {
        let (one, other) = (one.join(&name), other.join(&name));
        let kind = fs::symlink_metadata(&one).unwrap();
        let is = fs::symlink_metadata(&other).unwrap();
        assert_eq!(kind.mode(), is.mode(), "{}", other.display());
        if kind.is_dir() {
            count += same(&one, &other);
            continue;
        }
        count += 1;
        if kind.is_symlink() {
            let text = |path| fs::read_link(path).unwrap();
            assert_eq!(text(&one), text(&other));
        } else {
            let bytes = |path| fs::read(path).unwrap();
            assert!(bytes(&one) == bytes(&other), "{}", other.display());
        }
    }
    count
}

#[test]
fn large_folders_signals_and_refusals() {
    let test = "large_folders_signals_and_refusals";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    let shared = Shared::new("many");
    fs::create_dir(shared.path("many")).unwrap();
    for n in 0..10_000 {
        fs::write(shared.path(&format!("many/{n}")), "").unwrap();
    }
    fs::write(shared.path("file"), "unchanged").unwrap();
    symlink("../outside/secret", shared.path("out")).unwrap();
    symlink("../outside", shared.path("outdir")).unwrap();
    // Before Linux 4.2, a read that a signal interrupts may be wrong.
    let kinds: &[&str] = match given.has_pci() {
        true => &["many", "flush", "hostile"],
        false => &["many", "hostile"],
    };
    for what in kinds {
        let what = format!("/tests/share tag {what}");
        if !passes(test, &given, &shared.option(""), &what) {
            return;
        }
    }
    let read_only = shared.option(",ro");
    passes(test, &given, &read_only, "/tests/share tag refused");
    let file = fs::read_to_string(shared.path("file")).unwrap();
    assert_eq!(file, "unchanged");
    let outside = shared.scratch.path("outside");
    let outside: Vec<_> = fs::read_dir(outside).unwrap().collect();
    assert_eq!(outside.len(), 1);
    let program = fs::metadata(shared.path("program")).unwrap();
    assert_eq!(program.mode() & 0o7777, 0o755);
}

/// The machine, and another share, go on without it.
#[test]
fn the_end_of_a_server_is_an_error_and_no_more() {
    let test = "the_end_of_a_server_is_an_error_and_no_more";
    let Some(given) = Given::to(test, &[VMLINUX, INITRD]) else {
        return;
    };
    if given.is_of_2007() {
        return skip(test, "the kernel cannot mount by 9P");
    }
    let shared = Shared::new("server");
    let other = Shared::new("other");
    for shared in [&shared, &other] {
        fs::write(shared.path("file"), "in the file\n").unwrap();
    }
    let second = other.option("").replace(",tag", ",other");
    let mut machine =
        given.shell_of_run(&[&shared.option(""), &second, "--verbose"]);
    let servers: Vec<u32> = children(machine.id())
        .into_iter()
        .filter(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name == "lguest-share\n")
        })
        .collect();
    assert_eq!(servers.len(), 2);
    let mount = "mount -t 9p -o trans=virtio,version=9p2000.L";
    let said = machine.command(&format!(
        "mkdir /a /b; {mount} tag /a && {mount} other /b; cat /a/file /b/file"
    ));
    if said.contains("No such device") {
        return skip(test, "the kernel cannot mount by 9P");
    }
    assert_eq!(said.matches("in the file").count(), 2, "{said}");
    let first = servers[0].to_string();
    let kill = Command::new("kill").args(["-9", &first]).status();
    assert!(kill.unwrap().success());
    machine.wait_for("share tag: its server has ended (by signal 9)");
    let said = machine.command("cat /a/file; ls /a; cat /b/file; echo on");
    assert!(said.contains("error"), "{said}");
    assert_eq!(said.matches("in the file").count(), 1, "{said}");
    assert!(said.contains("on\n"), "{said}");
    machine.type_in("poweroff -f\r");
    assert_eq!(machine.end().code, 0);
}
