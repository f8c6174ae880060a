//! What the first process of a guest has to do.
//!
//! It mounts what programs expect and a share if it is told so, gives the
//! machine its name, and switches the loopback interface on. What is there
//! already, or is not possible, is left. At the end it powers the machine off.

use crate::files;
use crate::say;
use crate::sys::{self, Errno, flag};
use alloc::ffi::CString;
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
        let done = sys::mount(kind, place, kind, flags, c"");
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

/// Mounts the share whose tag is [`lg_exec::SHARE_TAG`]. Where that fails,
/// there is no folder for it: no command runs in an empty one instead.
pub fn mount_share() {
    // As long as messages of most kernels may be.
    let options = c"trans=virtio,version=9p2000.L,msize=131072";
    let path = |text: &str| CString::new(text).unwrap_or_default();
    let (tag, place) = (path(lg_exec::SHARE_TAG), path(lg_exec::SHARE_FOLDER));
    let _ = sys::mkdir(c"/mnt", 0o755);
    let _ = sys::mkdir(&place, 0o755);
    let flags = flag::MS_NOSUID | flag::MS_NODEV;
    if let Err(error) = sys::mount(&tag, &place, c"9p", flags, options) {
        let _ = sys::rmdir(&place);
        say(&alloc::format!(
            "{}: {}",
            lg_exec::SHARE_FOLDER,
            error.words()
        ));
    }
}

/// A file system in memory for `/dev`, with the nodes that programs need.
fn make_nodes() {
    let _ = sys::mount(c"tmpfs", c"/dev", c"tmpfs", flag::MS_NOSUID, c"");
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
    let _ = sys::mount(c"", c"/", c"", read_only, c"");
    let why = sys::power_off();
    say(&alloc::format!(
        "the machine does not power off: {}",
        why.words()
    ));
    loop {
        let _ = sys::poll(&mut [], None);
    }
}
