//! What keeps a Launcher that was taken over from the rest of the machine.
//!
//! A Guest runs without these. Each one that is missing makes a successful
//! attack worse.

use super::super::attempt;
use super::super::finding::Finding;
use super::files::number;
use std::io;
use std::path::Path;

pub(super) fn landlock() -> Finding {
    /// Since this version it knows signals.
    const SIGNALS: usize = 6;
    match attempt::landlock_interface() {
        Ok(version) if version >= SIGNALS => {
            Finding::ok(format!("interface {version}"))
        }
        Ok(version) => Finding::degraded(
            format!("interface {version}"),
            "a launcher that was taken over may signal other processes",
            "Linux 6.12 has all of it",
        ),
        Err(error) => Finding::lacks(
            io::Error::from_raw_os_error(error).to_string(),
            "seccomp alone keeps the launcher from files, and nothing from \
             signalling other processes of its user",
            "the kernel needs SECURITY_LANDLOCK and 'landlock' in lsm=",
        ),
    }
}

pub(super) fn namespaces() -> Finding {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWIPC;
    match attempt::in_a_copy(|| attempt::leave(flags)) {
        Ok(()) => Finding::ok("user and IPC namespaces"),
        Err(failure) => Finding::lacks(
            format!("none ({failure})"),
            "the launcher does without one of its walls",
            failure.cure("raise user.max_user_namespaces; a container must allow unshare",
            ),
        ),
    }
}

pub(super) fn capabilities() -> Finding {
    let held = rustix::thread::capabilities(None);
    match held.map(|sets| sets.effective.iter().count()) {
        Ok(0) => Finding::ok("none"),
        Ok(count) => Finding::degraded(
            format!("{count} held"),
            "none is needed but for taps; all are dropped before a guest runs",
            "run as an ordinary user",
        ),
        Err(error) => Finding::degraded(
            error.to_string(),
            "they cannot be dropped",
            "ask whoever runs this container",
        ),
    }
}

pub(super) fn tracing() -> Finding {
    match number("/proc/sys/kernel/yama/ptrace_scope") {
        Some(1..) => Finding::ok("of children only"),
        None if !Path::new("/proc/sys/kernel").is_dir() => {
            Finding::ok("not told, for want of /proc")
        }
        scope => Finding::degraded(
            "of any process of the user",
            "the launcher hides itself all the same, its starter need not",
            match scope {
                Some(_) => "set kernel.yama.ptrace_scope to 1",
                None => "take a kernel with SECURITY_YAMA and 'yama' in lsm=",
            },
        ),
    }
}
