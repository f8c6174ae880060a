//! What a server that was taken over can do: each attack is made in a process
//! with the walls of a server, or with some of them.

#![expect(unsafe_code, reason = "forks, and makes forbidden calls")]

use super::*;
use crate::confine::wall;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// Makes an attack in a process with the walls of a server of `folder`. Returns
/// the exit code, or the number of the signal that ended it, negative.
fn in_a_server(
    folder: &PathBuf,
    read_only: bool,
    open_walls: u32,
    attack: impl FnOnce(&OwnedFd) -> i32,
) -> i32 {
    let folder = OwnedFd::from(fs::File::open(folder).unwrap());
    // SAFETY: the child ends below.
    let pid = match unsafe { libc::fork() } {
        0 => {
            leave();
            drop(walls::put_up(folder.as_fd(), read_only, open_walls));
            end(attack(&folder));
        }
        pid => Pid::from_raw(pid).unwrap(),
    };
    let status = rustix::process::waitpid(
        Some(pid),
        rustix::process::WaitOptions::empty(),
    );
    let (_, status) = status.unwrap().unwrap();
    let signal = || -status.terminating_signal().unwrap_or(0);
    status.exit_status().unwrap_or_else(signal)
}

fn folder(name: &str) -> PathBuf {
    let name = format!("lguest-attacked-{name}-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::create_dir_all(path.join("shared")).unwrap();
    fs::write(path.join("shared/file"), "x").unwrap();
    fs::write(path.join("outside"), "x").unwrap();
    path
}

/// The number of the error with which a file is opened; 0 if it is.
fn opens(at: &OwnedFd, name: &str, flags: OFlags) -> i32 {
    let flags = flags | OFlags::CLOEXEC;
    let mode = match flags.contains(OFlags::CREATE) {
        true => Mode::from_raw_mode(0o644),
        false => Mode::empty(),
    };
    match openat2(at, name, flags, mode, ResolveFlags::empty()) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error(),
    }
}

/// Whether this machine has landlock.
fn has_landlock(path: &PathBuf) -> bool {
    in_a_server(path, false, wall::SECCOMP, |folder| {
        i32::from(opens(folder, "..", OFlags::RDONLY) != 0)
    }) == 1
}

#[test]
fn landlock_keeps_a_server_in_its_folder() {
    let path = folder("landlock");
    if !has_landlock(&path) {
        eprintln!("SKIPPED landlock_keeps_a_server_in_its_folder: no landlock");
        return;
    }
    let shared = path.join("shared");
    let denied = Errno::ACCESS.raw_os_error();
    for (name, flags, read_only, result) in [
        ("file", OFlags::RDWR, false, 0),
        ("file", OFlags::RDONLY, true, 0),
        ("file", OFlags::RDWR, true, denied),
        ("new", OFlags::WRONLY | OFlags::CREATE, false, 0),
        ("newer", OFlags::WRONLY | OFlags::CREATE, true, denied),
        ("../outside", OFlags::RDONLY, false, denied),
        ("../outside", OFlags::RDONLY, true, denied),
        ("../made", OFlags::WRONLY | OFlags::CREATE, false, denied),
        ("/etc/passwd", OFlags::RDONLY, false, denied),
        ("/proc/self/mem", OFlags::RDWR, false, denied),
        ("/", OFlags::RDONLY, false, denied),
    ] {
        // The filter would be first.
        let found = in_a_server(&shared, read_only, wall::SECCOMP, |folder| {
            opens(folder, name, flags)
        });
        assert_eq!(found, result, "{name} {flags:?} {read_only}");
    }
    let _ = fs::remove_dir_all(path);
}

/// A folder that another process moves out of the shared one is not shared any
/// more, although the server has it open.
#[test]
fn what_is_moved_out_of_the_folder_is_out() {
    let path = folder("moved");
    if !has_landlock(&path) {
        eprintln!(
            "SKIPPED what_is_moved_out_of_the_folder_is_out: no landlock"
        );
        return;
    }
    fs::create_dir(path.join("shared/inner")).unwrap();
    fs::write(path.join("shared/inner/file"), "x").unwrap();
    let inner =
        OwnedFd::from(fs::File::open(path.join("shared/inner")).unwrap());
    let before =
        in_a_server(&path.join("shared"), false, wall::SECCOMP, |_| {
            opens(&inner, "file", OFlags::RDONLY)
        });
    assert_eq!(before, 0);
    fs::rename(path.join("shared/inner"), path.join("moved")).unwrap();
    let after = in_a_server(&path.join("shared"), false, wall::SECCOMP, |_| {
        opens(&inner, "file", OFlags::RDONLY)
    });
    assert_eq!(after, Errno::ACCESS.raw_os_error());
    let _ = fs::remove_dir_all(path);
}

/// Calls that a server does not make end it, and so do harmless ones with
/// arguments that it does not give.
#[test]
fn other_system_calls_end_a_server() {
    const KILLED: i32 = -libc::SIGSYS;
    let path = folder("calls");
    let shared = path.join("shared");
    let file = c"file".as_ptr() as i64;
    let device = i64::from(libc::S_IFCHR | 0o666);
    let program = 0o4755;
    let calls: [(i64, [i64; 4]); 14] = [
        (libc::SYS_socket, [1, 1, 0, 0]),
        (libc::SYS_execve, [file, 0, 0, 0]),
        (libc::SYS_execveat, [0, file, 0, 0]),
        (libc::SYS_clone, [17, 0, 0, 0]),
        (libc::SYS_fork, [0; 4]),
        (libc::SYS_kill, [1, 0, 0, 0]),
        (libc::SYS_ptrace, [0; 4]),
        (libc::SYS_mount, [file, file, file, 0]),
        (libc::SYS_chroot, [file, 0, 0, 0]),
        (libc::SYS_fchownat, [0, file, 0, 0]),
        (libc::SYS_ioctl, [0; 4]),
        (libc::SYS_mknodat, [0, file, device, 0]),
        (libc::SYS_fchmodat, [0, file, program, 0]),
        (libc::SYS_mmap, [0, 4096, 7, 0x22]),
    ];
    for (number, a) in calls {
        let found = in_a_server(&shared, false, 0, |_| {
            // SAFETY: the process ends after it, if not by it.
            unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], -1, 0) };
            0
        });
        assert_eq!(found, KILLED, "{number}");
    }
    let changes = [
        libc::SYS_pwritev,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_renameat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_fchmodat,
        libc::SYS_ftruncate,
        libc::SYS_utimensat,
        libc::SYS_mknodat,
    ];
    for number in changes {
        let found = in_a_server(&shared, true, 0, |_| {
            // SAFETY: as above.
            unsafe { libc::syscall(number, -1, 0, 0, 0, 0, 0) };
            0
        });
        assert_eq!(found, KILLED, "{number} of a read-only server");
    }
    let _ = fs::remove_dir_all(path);
}

/// No program with its owner's rights is made, and with `ro` nothing is made,
/// cut or written, also where there is no landlock.
#[test]
fn the_filter_checks_how_a_server_opens_files() {
    const KILLED: i32 = -libc::SIGSYS;
    let path = folder("opens");
    let shared = path.join("shared");
    let open = |read_only, flags: i32, mode: libc::c_uint| {
        in_a_server(&shared, read_only, wall::LANDLOCK, |folder| {
            let (folder, name) = (folder.as_raw_fd(), c"file".as_ptr());
            // SAFETY: the name ends, and there is a mode.
            match unsafe { libc::openat(folder, name, flags, mode) } {
                -1 => 1,
                _ => 0,
            }
        })
    };
    let make = libc::O_CREAT | libc::O_WRONLY;
    for (flags, mode, found) in [
        (libc::O_RDONLY, 0o4755, 0),
        (libc::O_RDWR | libc::O_TRUNC, 0, 0),
        (make, 0o1777, 0),
        (make, 0o4755, KILLED),
        (make, 0o2755, KILLED),
        (libc::O_TMPFILE | libc::O_RDWR, 0o4755, KILLED),
    ] {
        assert_eq!(open(false, flags, mode), found, "{flags:o} {mode:o}");
    }
    for (flags, found) in [
        (libc::O_RDONLY, 0),
        (libc::O_PATH | libc::O_NOFOLLOW, 0),
        (libc::O_WRONLY, KILLED),
        (libc::O_RDWR, KILLED),
        (libc::O_RDONLY | libc::O_TRUNC, KILLED),
        (libc::O_RDONLY | libc::O_CREAT, KILLED),
        (libc::O_TMPFILE | libc::O_RDWR, KILLED),
    ] {
        assert_eq!(open(true, flags, 0), found, "{flags:o}");
    }
    let openat2 = in_a_server(&shared, false, wall::LANDLOCK, |folder| {
        opens(folder, "file", OFlags::RDONLY)
    });
    assert_eq!(openat2, KILLED);
    let _ = fs::remove_dir_all(path);
}
