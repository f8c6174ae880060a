//! A process that is confined as a Launcher is, and then attacks.
//!
//! It is a fork of the test, with one thread, because the walls need that. It
//! writes the result of a call to a pipe. If it was stopped, there is only its
//! exit status.

use lguest::confine::{self, Plan, WallReport};
use libc::c_long;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::arch::asm;
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How an attack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The call was made, and returned this.
    Returned(i64),
    /// It failed with this error.
    Failed(i32),
    /// It was made, and did not return: it ended the process, or it waits.
    Gone,
    /// The process was ended because of it, with the Launcher's exit code for
    /// that.
    Stopped,
}

/// Makes a call. Returns its result, or minus an error.
pub(crate) fn call(nr: c_long, a: [c_long; 6]) -> i64 {
    // SAFETY: this process exists only for this call. Calls that would change
    // our memory get no address of it.
    let result =
        unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) };
    match result {
        -1 => {
            let error = std::io::Error::last_os_error().raw_os_error();
            -i64::from(error.unwrap())
        }
        result => result,
    }
}

/// Makes a call without arguments as 32-bit programs do, by `int $0x80`.
pub(crate) fn by_int_80(nr: i64) -> i64 {
    let mut result = nr;
    // SAFETY: as `call`; LLVM reserves rbx.
    unsafe {
        asm!(
            "push rbx",
            "xor ebx, ebx",
            "int 0x80",
            "pop rbx",
            inout("rax") result,
            in("rcx") 0_u64,
            in("rdx") 0_u64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// A call made by a process that `plan` confines.
pub(crate) fn attack(plan: &Plan, nr: c_long, arguments: [c_long; 6]) -> Ended {
    in_confinement(plan, |_| call(nr, arguments))
}

/// As [`attack`], with the standard error of the process.
pub(crate) fn heard(
    plan: &Plan,
    nr: c_long,
    arguments: [c_long; 6],
) -> (Ended, String) {
    let (mut read, write) = std::io::pipe().unwrap();
    let ended = fork(|| {
        // SAFETY: descriptors of this process.
        unsafe { libc::dup2(write.as_raw_fd(), 2) };
        confine(plan);
        call(nr, arguments)
    });
    drop(write);
    let mut said = String::new();
    read.read_to_string(&mut said).unwrap();
    (ended, said)
}

/// The result of `act` in a process that `plan` confines.
pub(crate) fn in_confinement(
    plan: &Plan,
    act: impl FnOnce(&[WallReport]) -> i64,
) -> Ended {
    fork(|| act(&confine(plan)))
}

/// A call by a thread that was started before its process was confined.
pub(crate) fn in_an_older_thread(nr: c_long, arguments: [c_long; 6]) -> Ended {
    fork(|| {
        let (go, gone) = channel::<()>();
        let thread = std::thread::spawn(move || {
            gone.recv().unwrap();
            call(nr, arguments)
        });
        confine(&Plan::default());
        go.send(()).unwrap();
        thread.join().unwrap()
    })
}

/// The version of Landlock's interface in this kernel; 0 for none.
pub(crate) fn landlock_interface() -> i64 {
    const VERSION: c_long = 1;
    call(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0]).max(0)
}

fn confine(plan: &Plan) -> Vec<WallReport> {
    let mut reports = confine::before_threads(plan);
    reports.push(confine::when_ready(plan));
    reports
}

/// The result of `act` in a fork, which cannot change this process.
fn fork(act: impl FnOnce() -> i64) -> Ended {
    let (read, write) = std::io::pipe().unwrap();
    // SAFETY: the child does not come back from here.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(read);
        quiet();
        let answer = act();
        let _ = (&write).write_all(&answer.to_ne_bytes());
        // SAFETY: ends the child without the parent's clean-up.
        unsafe { libc::_exit(0) };
    }
    assert!(child > 0, "no more processes");
    drop(write);
    let answer = answer_of(child, read);
    let mut status = 0;
    // SAFETY: the kernel writes `status`.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    let stopped = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 123;
    match answer.map(i64::from_ne_bytes) {
        Some(answer @ -4095..=-1) => {
            Ended::Failed(i32::try_from(-answer).unwrap())
        }
        Some(answer) => Ended::Returned(answer),
        None if stopped => Ended::Stopped,
        None => Ended::Gone,
    }
}

/// A process that sleeps in one call for this time waits for ever. A busy
/// machine does not matter, because a process that can run does not sleep.
const FOR_EVER: Duration = Duration::from_millis(300);

/// What the child writes; `None` if it ends without an answer. A child whose
/// call never returns is killed.
fn answer_of(child: libc::pid_t, mut read: PipeReader) -> Option<[u8; 8]> {
    let mut since = (Instant::now(), None);
    loop {
        let mut fds = [PollFd::new(&read, PollFlags::IN)];
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        if rustix::event::poll(&mut fds, Some(&pause)).unwrap() > 0 {
            let mut answer = [0; 8];
            return read.read_exact(&mut answer).ok().map(|()| answer);
        }
        let sleep = sleep_of(child);
        if sleep.is_none() || sleep != since.1 {
            since = (Instant::now(), sleep);
        } else if since.0.elapsed() > FOR_EVER {
            // SAFETY: a child of ours that has not been waited for.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
    }
}

/// Names the sleep in which all threads of a process are: how often each has
/// gone to sleep. `None` while one of them can run.
fn sleep_of(process: libc::pid_t) -> Option<Vec<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let sleep = |task: std::fs::DirEntry| {
        let status =
            std::fs::read_to_string(task.path().join("status")).ok()?;
        let line = |name| status.lines().find(|l| l.starts_with(name));
        let sleeps = line("State:")?.contains("S (sleeping)");
        sleeps.then(|| line("voluntary_ctxt_switches:").map(str::to_owned))?
    };
    tasks.flatten().map(sleep).collect()
}

/// Standard streams that are not read.
fn quiet() {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.unwrap();
    for fd in 0..3 as RawFd {
        // SAFETY: no code owns the standard streams.
        unsafe { libc::dup2(null.as_raw_fd(), fd) };
    }
}
