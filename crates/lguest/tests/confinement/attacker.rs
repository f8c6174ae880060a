//! A process that is confined as a Launcher is, and then does harm.
//!
//! It is a fork of the test: one thread, which is what the walls want. What a
//! call answered comes back through a pipe; a process that was stopped has
//! nothing to say but its status.

use lguest::confine::{self, Plan, Report};
use libc::c_long;
use std::arch::asm;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::channel;

/// How an attack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The call was made, and answered this.
    Returned(i64),
    /// It failed with this error.
    Failed(i32),
    /// It was made, and did not come back: it ended the process, or waits.
    Gone,
    /// The process was ended for it, with the Launcher's own code.
    Stopped,
}

/// Makes a call. Answers what it answers, or minus an error.
pub(crate) fn call(nr: c_long, a: [c_long; 6]) -> i64 {
    // SAFETY: it is made by a process that exists for it. Those that would
    // change our memory are given none.
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

/// Makes a call without arguments by the door of 32-bit programs.
pub(crate) fn by_the_32_bit_door(nr: i64) -> i64 {
    let mut result = nr;
    // SAFETY: as `call`; LLVM wants rbx for itself.
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

/// [`attack`], and what was said on standard error.
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

/// What `act` answers in a process that `plan` confines.
pub(crate) fn in_confinement(
    plan: &Plan,
    act: impl FnOnce(&[Report]) -> i64,
) -> Ended {
    fork(|| act(&confine(plan)))
}

/// A call by a thread that was there before its process was confined.
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

/// The version of landlock's interface in this kernel; 0 for none.
pub(crate) fn landlock_interface() -> i64 {
    const VERSION: c_long = 1;
    call(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0]).max(0)
}

fn confine(plan: &Plan) -> Vec<Report> {
    let mut reports = confine::before_threads(plan);
    reports.push(confine::when_ready(plan));
    reports
}

/// What a fork of ours answers; it cannot do anything to us.
fn fork(act: impl FnOnce() -> i64) -> Ended {
    let (mut read, write) = std::io::pipe().unwrap();
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
    let mut answer = [0; 8];
    let answered = read.read_exact(&mut answer).is_ok();
    let mut status = 0;
    // SAFETY: the kernel writes `status`.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    let stopped = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 123;
    match (answered, i64::from_ne_bytes(answer)) {
        (true, answer @ -4095..=-1) => {
            Ended::Failed(i32::try_from(-answer).unwrap())
        }
        (true, answer) => Ended::Returned(answer),
        (false, _) if stopped => Ended::Stopped,
        (false, _) => Ended::Gone,
    }
}

/// Microseconds until a call that waits is taken for one that was made.
const SOON: i64 = 500_000;

/// Standard streams that nobody minds about, and an end for whoever waits.
fn quiet() {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.unwrap();
    for fd in 0..3 as RawFd {
        // SAFETY: standard streams are nobody's.
        unsafe { libc::dup2(null.as_raw_fd(), fd) };
    }
    let soon = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        },
        it_value: libc::timeval {
            tv_sec: 0,
            tv_usec: SOON,
        },
    };
    // SAFETY: the kernel reads `soon`; SIGALRM ends us then.
    unsafe {
        libc::setitimer(
            libc::ITIMER_REAL,
            &raw const soon,
            std::ptr::null_mut(),
        )
    };
}
