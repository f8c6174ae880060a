//! The command in a root directory that contains nothing else.
//!
//! There is no library, no `/proc` and no `/dev`. The root is read-only, and
//! the user is an ordinary one without capabilities. So are hardened images
//! "from scratch". The command needs no other file, so it runs there, too.

#![expect(unsafe_code, reason = "namespaces of one's own, and chroot")]
#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod support;

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Finished, Scratch, run, skip};

/// The number of a user without rights on this machine.
const USER: u32 = 1000;

// One test, because a copy of the command cannot be started while a child of
// another test has it open to write.
#[test]
fn the_command_runs_in_an_empty_root_as_an_ordinary_user() {
    let test = "the_command_runs_in_an_empty_root_as_an_ordinary_user";
    let Some(root) = Root::new(test) else { return };
    let end = root.run(&["--verbose"], b"uptime\npoweroff 3\n");
    assert_eq!(end.code(), 3, "{end:?}");
    assert!(end.stdout.contains("lguest guest ready"), "{end:?}");
    let end = root.run(&["--isolation=user"], b"run primes 100\npoweroff 4\n");
    assert_eq!(end.code(), 4, "{end:?}");
    // Its version and the doctor's report need no file, either.
    let end = root.run(&["--version"], b"").ends_well(0);
    assert!(end.stdout.starts_with("lguest "), "{end:?}");
    let end = root.run(&["doctor"], b"");
    assert_eq!(end.code(), 0, "{end:?}");
    nothing_can_be_done_in(&root);
}

/// Checks that the root is as this test needs it.
fn nothing_can_be_done_in(root: &Root) {
    let end = root.run(&["--stats=/log"], b"");
    assert_eq!(end.code(), 120, "{end:?}");
    assert!(end.stderr.contains("Read-only file system"), "{end:?}");
    let mut command = root.command();
    command.arg("run").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    // Its exec has succeeded, so it is in the root by now.
    let proc = format!("/proc/{}", child.id());
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let files = std::fs::read_dir(format!("{proc}/root"))
        .map(|all| all.map(|file| file.unwrap().file_name()).collect());
    child.kill().unwrap();
    child.wait().unwrap();
    let files: Result<Vec<_>, _> = files;
    // Only root may follow that link.
    if let Ok(files) = files {
        assert_eq!(files, ["lguest"]);
    }
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
}

/// A directory with the command in it, to be the root of a process.
struct Root(Scratch);

impl Root {
    /// `None`, with a message, if it cannot be made here.
    fn new(test: &str) -> Option<Self> {
        if !cfg!(target_feature = "crt-static") {
            skip(test, "this build needs the machine's C library");
            return None;
        }
        let scratch = Scratch::new("empty-root");
        let command = scratch.lguest("lguest");
        for path in [&scratch.path(""), &command] {
            let all = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, all).unwrap();
        }
        let root = Self(scratch);
        if let Err(error) = root.command().arg("--version").output() {
            skip(test, &format!("no root of one's own: {error}"));
            return None;
        }
        Some(root)
    }

    /// The command in this root, as [`USER`].
    fn command(&self) -> Command {
        let mut command = Command::new("/lguest");
        command.env_clear();
        let root = path(&self.0.path(""));
        // SAFETY: the call returns a number.
        let us = unsafe { libc::geteuid() };
        let map = CString::new(format!("{USER} {us} 1")).unwrap();
        // SAFETY: between fork and exec, system calls only.
        unsafe { command.pre_exec(move || enter(&root, &map)) };
        command
    }

    fn run(&self, words: &[&str], input: &[u8]) -> Finished {
        run(self.command().args(words), input)
    }
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Makes `root` the read-only root of this process, which becomes an ordinary
/// user: as such it loses its capabilities at exec.
fn enter(root: &CStr, map: &CStr) -> io::Result<()> {
    let (none, here) = (std::ptr::null::<libc::c_void>(), c".".as_ptr());
    let (bind, root) = (libc::MS_BIND | libc::MS_REC, root.as_ptr());
    let read_only = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY;
    let read_only = read_only | libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all calls take flags and strings that live on.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })?;
    std::fs::write("/proc/self/uid_map", map.to_bytes())?;
    // SAFETY: as above.
    check(unsafe { libc::mount(root, root, none.cast(), bind, none) })?;
    // SAFETY: as above.
    check(unsafe {
        libc::mount(none.cast(), root, none.cast(), read_only, none)
    })?;
    // SAFETY: as above.
    check(unsafe { libc::chdir(root) })?;
    // SAFETY: as above.
    check(unsafe { libc::chroot(here) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
