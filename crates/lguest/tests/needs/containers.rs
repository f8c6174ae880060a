//! Containers of every kind: what they lack, and the message about it.

use crate::filters::refuse_bits;
use crate::rows::{
    BAD_MACHINE, ask_doctor, doctor_agrees, line, run_guest, says, works,
};
use crate::support::{is_here, skip};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes `command` run in namespaces of its own, after `script` has changed
/// them.
pub(crate) fn inside(command: &mut Command, script: &str) {
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "--pid", "--fork"]);
    shell.args(["--mount-proc", "sh", "-c"]);
    shell.arg(format!("{script} || exit 42; exec \"$@\""));
    shell.arg("sh").arg(command.get_program());
    shell.args(command.get_args());
    *command = shell;
}

/// Whether `script` can be run here. Otherwise the test is skipped.
pub(crate) fn can(test: &str, script: &str) -> bool {
    if !is_here("unshare") {
        skip(test, "there is no unshare");
        return false;
    }
    let mut nothing = Command::new("true");
    inside(&mut nothing, script);
    let can = nothing.output().is_ok_and(|out| out.status.success());
    if !can {
        skip(test, &format!("it cannot be done here: {script}"));
    }
    can
}

#[test]
fn no_proc() {
    let script = "mount -t tmpfs none /proc";
    if !can("no_proc", script) {
        return;
    }
    works("no /proc", &run_guest(|command| inside(command, script)));
    let found = ask_doctor(|command| inside(command, script));
    assert_eq!(found.code(), 0, "{found:?}");
    for name in ["mappings", "low memory", "overcommit", "tracing"] {
        let line = line(&found, name);
        assert!(line.contains("unknown: /proc is not mounted"), "{line}");
    }
}

/// A library may get the auxiliary vector from the kernel, or from /proc on
/// Linux before 6.4.
#[test]
fn no_proc_and_an_old_kernel() {
    const PR_GET_AUXV: u32 = 0x4155_5856;
    let script = "mount -t tmpfs none /proc";
    if !can("no_proc_and_an_old_kernel", script) {
        return;
    }
    let take = |command: &mut Command| {
        inside(command, script);
        refuse_bits(command, libc::SYS_prctl, 0, PR_GET_AUXV, libc::EINVAL);
    };
    works("no auxiliary vector", &run_guest(take));
    let found = ask_doctor(take);
    assert_eq!(found.code(), 0, "{found:?}");
}

#[test]
fn no_shared_memory_and_no_devices() {
    let script = "mount -t tmpfs -o ro none /dev && mount -t tmpfs -o ro none \
                  /sys";
    if !can("no_shared_memory_and_no_devices", script) {
        return;
    }
    works("no /dev", &run_guest(|command| inside(command, script)));
    let found = ask_doctor(|command| inside(command, script));
    assert_eq!(found.code(), 0, "{found:?}");
}

#[test]
fn a_root_that_is_read_only() {
    let script = "mount -o remount,bind,ro /";
    if !can("a_root_that_is_read_only", script) {
        return;
    }
    works("read-only", &run_guest(|command| inside(command, script)));
    let found = ask_doctor(|command| inside(command, script));
    assert_eq!(found.code(), 0, "{found:?}");
}

#[test]
fn memory_files_that_are_not_executed() {
    let set = |value| format!("echo {value} >/proc/sys/vm/memfd_noexec");
    if !can("memory_files_that_are_not_executed", &set(2)) {
        return;
    }
    let end = run_guest(|command| inside(command, &set(2)));
    let sentence = says("noexec", &end, BAD_MACHINE);
    assert!(sentence.contains("vm.memfd_noexec is 2"), "{sentence}");
    assert!(
        sentence.contains("(`sysctl vm.memfd_noexec=1`)"),
        "{sentence}"
    );
    let found = ask_doctor(|command| inside(command, &set(2)));
    doctor_agrees("noexec", &found, &sentence);
    let files = line(&found, "memory files");
    assert!(files.contains("vm.memfd_noexec is 2"), "{files}");
    works("cured", &run_guest(|command| inside(command, &set(1))));
}

/// As systemd's MemoryDenyWriteExecute= does since Linux 6.3.
#[test]
fn memory_that_is_not_both_written_and_executed() {
    const PR_SET_MDWE: libc::c_int = 65;
    let deny = || {
        // SAFETY: a switch of this process.
        match unsafe { libc::prctl(PR_SET_MDWE, 1, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let take = |command: &mut Command| {
        // SAFETY: between fork and exec, only system calls.
        unsafe { command.pre_exec(deny) };
    };
    let mut nothing = Command::new("true");
    take(&mut nothing);
    if nothing.status().is_err() {
        let test = "memory_that_is_not_both_written_and_executed";
        return skip(test, "only Linux 6.3 or later can forbid that");
    }
    let sentence = says("mdwe", &run_guest(take), BAD_MACHINE);
    let words = "both written and executed is forbidden here; start it \
                 without MemoryDenyWriteExecute= (systemd)";
    assert!(sentence.contains(words), "{sentence}");
    let found = ask_doctor(take);
    doctor_agrees("mdwe", &found, &sentence);
    let last = found.stdout.lines().last().unwrap();
    let lacks = "no guest can run here; lacking: write+execute, guest";
    assert_eq!(last, lacks);
}

#[test]
fn no_yama() {
    let yama = std::path::Path::new("/proc/sys/kernel/yama").exists();
    let found = ask_doctor(|_| ());
    let tracing = line(&found, "tracing");
    let setting = tracing.contains("kernel.yama.ptrace_scope");
    assert!(yama || !setting, "{tracing}");
    assert!(yama || tracing.contains("SECURITY_YAMA"), "{tracing}");
}
