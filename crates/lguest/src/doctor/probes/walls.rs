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
    /// The first version that can forbid signals.
    const SIGNALS: usize = 6;
    match attempt::landlock_interface() {
        Ok(version) if version >= SIGNALS => {
            Finding::ok(format!("interface {version}"))
        }
        Ok(version) => Finding::degraded(
            format!("interface {version}"),
            "a launcher that was taken over could signal other processes",
            "take Linux 6.12 or later",
        ),
        Err(error) => Finding::lacks(
            io::Error::from_raw_os_error(error).to_string(),
            "only seccomp keeps the launcher from files, and nothing keeps it \
             from signalling other processes of its user",
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
            "the launcher lacks one of its walls",
            failure.cure(
                "raise user.max_user_namespaces; a container must \
                          allow unshare",
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
            "only taps need one; all are dropped before a guest runs",
            "run as an ordinary user",
        ),
        Err(error) => Finding::degraded(
            error.to_string(),
            "they cannot be dropped",
            "let the filter of the container allow capget and capset",
        ),
    }
}

pub(super) fn tracing() -> Finding {
    match number("/proc/sys/kernel/yama/ptrace_scope") {
        Some(1..) => Finding::ok("allowed for children only"),
        None if !Path::new("/proc/sys/kernel").is_dir() => {
            Finding::ok("unknown: /proc is not mounted")
        }
        scope => Finding::degraded(
            "allowed for any process of the user",
            "the launcher forbids it for itself; the process that started it \
             may not",
            match scope {
                Some(_) => "set kernel.yama.ptrace_scope to 1",
                None => "take a kernel with SECURITY_YAMA and 'yama' in lsm=",
            },
        ),
    }
}
