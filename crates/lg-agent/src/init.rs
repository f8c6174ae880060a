//! What the first process of a guest has to do.
//!
//! It mounts what programs expect, gives the machine its name, and switches the
//! loopback interface on. What is there already, or is not possible, is left.
//! At the end it powers the machine off.

use crate::files;
use crate::say;
use crate::sys::{self, Errno, flag};
use core::ffi::CStr;

/// A file system, where, of what kind, with which flags.
const MOUNTS: [(&CStr, &CStr, u32); 7] = [
    (c"/proc", c"proc", SAFE),
    (c"/sys", c"sysfs", SAFE),
    (c"/dev", c"devtmpfs", flag::MS_NOSUID),
    (c"/dev/pts", c"devpts", flag::MS_NOSUID | flag::MS_NOEXEC),
    (c"/dev/shm", c"tmpfs", flag::MS_NOSUID | flag::MS_NODEV),
    (c"/run", c"tmpfs", flag::MS_NOSUID),
    (c"/tmp", c"tmpfs", flag::MS_NOSUID | flag::MS_NODEV),
];

const SAFE: u32 = flag::MS_NOSUID | flag::MS_NODEV | flag::MS_NOEXEC;

/// Nodes that programs need where the kernel makes none.
const NODES: [(&CStr, u32, u32); 7] = [
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
    (c"/dev/ptmx", 5, 2),
];

/// Makes the guest ready for programs.
pub fn prepare() {
    sys::umask(0);
    for (place, kind, flags) in MOUNTS {
        let _ = sys::mkdir(place, 0o755);
        let done = sys::mount(kind, place, kind, flags);
        let busy = Errno(linux_raw_sys::errno::EBUSY);
        match done {
            Ok(()) => {}
            Err(error) if error == busy => {}
            Err(_) if place == c"/dev" => make_nodes(),
            Err(error) => {
                let place = place.to_str().unwrap_or("?");
                say(&alloc::format!("{place}: {}", error.words()));
            }
        }
    }
    sys::umask(0o022);
    standard_files();
    let name = files::read(c"/etc/hostname", 64).unwrap_or_default();
    let name = name.trim_ascii();
    if !name.is_empty() {
        sys::set_host_name(name);
    }
    // Many programs talk to themselves; no network leads outside by this.
    let _ = sys::loopback_up();
}

/// A file system in memory for `/dev`, with the nodes that programs need.
fn make_nodes() {
    let _ = sys::mount(c"tmpfs", c"/dev", c"tmpfs", flag::MS_NOSUID);
    for (path, major, minor) in NODES {
        let _ = sys::mknod(path, 0o666, major, minor);
    }
    let _ = sys::mkdir(c"/dev/pts", 0o755);
    let _ = sys::mkdir(c"/dev/shm", 0o755);
}

/// The kernel gives no standard files where there was no console: a descriptor
/// of the agent's own must not be taken for one.
fn standard_files() {
    while let Ok(fd) = sys::open(c"/dev/null", flag::O_RDWR, 0) {
        if fd.number() > 2 {
            break;
        }
        core::mem::forget(fd);
    }
}

/// Ends all processes, writes everything to the disks, and powers off.
pub fn power_off() -> ! {
    let _ = sys::kill(-1, flag::SIGKILL);
    sys::sync();
    let read_only = flag::MS_REMOUNT | flag::MS_RDONLY;
    let _ = sys::mount(c"", c"/", c"", read_only);
    let why = sys::power_off();
    say(&alloc::format!(
        "the machine does not power off: {}",
        why.words()
    ));
    loop {
        let _ = sys::poll(&mut [], None);
    }
}
