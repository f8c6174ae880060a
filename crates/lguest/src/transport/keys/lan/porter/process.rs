//! The code that the porter and its helpers run.
//!
//! The porter waits for jobs and forks a helper for each. It makes system calls
//! only: it is a fork of a process that may have other threads, and one of them
//! may have held a lock.

#![expect(unsafe_code, reason = "forks")]

use super::passing::{Answer, BAD, Files, GOOD, Job, NOTHING, receive, send};
use libc::c_long;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::DumpableBehavior;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use zerocopy::{FromZeros, IntoBytes};

/// How long the porter waits when it cannot start another process.
const NO_ROOM_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The calls that a porter and its helpers make. Any other kills them.
pub(super) fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let only = |argument, value: c_long| {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        let (len, op) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
        let is = SeccompCondition::new(argument, len, op, value)?;
        SeccompRule::new(vec![is]).map(|rule| vec![rule])
    };
    let mut rules = BTreeMap::from([
        (libc::SYS_clone, only(0, libc::SIGCHLD.into())?),
        (libc::SYS_fcntl, only(1, libc::F_GET_SEALS.into())?),
    ]);
    for call in [
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_close,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
    ] {
        rules.insert(call, Vec::new());
    }
    let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(rules, kill, allow, TargetArch::x86_64)?.try_into()
}

/// Makes a new process, with a copy of this thread. The C library does not know
/// of it. Returns its number, and 0 in the new process.
///
/// # Safety
///
/// The new process must make system calls only, and end by [`end`].
pub(super) unsafe fn fork() -> rustix::io::Result<c_long> {
    let flags = c_long::from(libc::SIGCHLD);
    // SAFETY: without CLONE_VM, the child has memory of its own.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    let error = || Errno::from_io_error(&io::Error::last_os_error());
    match pid {
        0.. => Ok(pid),
        _ => Err(error().unwrap_or(Errno::AGAIN)),
    }
}

/// Ends this process.
fn end(code: c_long) -> ! {
    loop {
        // SAFETY: the process ends here.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// The work of the porter, until its Launcher has closed `jobs`. Makes system
/// calls only: another thread may have held a lock during the fork.
pub(super) fn life(
    jobs: BorrowedFd<'_>,
    answers: BorrowedFd<'_>,
    filter: &BpfProgram,
) -> ! {
    let mut pipe = [0; 2];
    // SAFETY: there is room for two numbers.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        end(1);
    }
    let keep = [jobs.as_raw_fd(), answers.as_raw_fd(), pipe[0], pipe[1]];
    if !settle(keep) || seccompiler::apply_filter(filter).is_err() {
        end(1);
    }
    // SAFETY: `settle` has put these four files there, and they stay open.
    let [jobs, answers, taken, take] =
        unsafe { [0, 1, 2, 3].map(|fd| BorrowedFd::borrow_raw(fd)) };
    loop {
        let mut fds = [PollFd::new(&jobs, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => end(1),
            Ok(_) if fds[0].revents().contains(PollFlags::HUP) => end(0),
            Ok(_) => {}
        }
        // SAFETY: the helper makes system calls only, and ends.
        match unsafe { fork() } {
            Ok(0) => help(jobs, answers, take),
            // The helper takes the job; this waits until it has.
            Ok(_) => {
                while rustix::io::read(taken, &mut [0]) == Err(Errno::INTR) {}
            }
            Err(_) => {
                let _ = poll(&mut [], Some(&NO_ROOM_PAUSE));
            }
        }
    }
}

/// Gives the four files `keep` the first numbers, and closes all other files of
/// the Launcher in this process. Returns whether that worked.
fn settle(mut keep: [i32; 4]) -> bool {
    let close = |first: i32, last: i32| {
        // SAFETY: a system call on numbers. No code of this process uses these
        // files.
        first > last
            || unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }
                == 0
    };
    let numbers = keep;
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep {
        if !close(first, fd - 1) {
            return false;
        }
        first = fd + 1;
    }
    if !close(first, i32::MAX) {
        return false;
    }
    // First above all four places, and then into them.
    let above = numbers.map(|fd| {
        // SAFETY: a system call on numbers.
        unsafe { libc::fcntl(fd, libc::F_DUPFD, 4) }
    });
    let placed = (0..).zip(above).all(|(to, fd)| {
        // SAFETY: as above.
        unsafe { libc::dup2(fd, to) == to }
    });
    ignore_signals();
    // If one of these fails, the porter goes on. SAFETY: a system call without
    // arguments.
    unsafe { libc::setsid() };
    let _ = rustix::thread::set_name(c"lguest-porter");
    let not = DumpableBehavior::NotDumpable;
    let _ = rustix::process::set_dumpable_behavior(not);
    placed && close(4, i32::MAX)
}

/// Blocks every signal but SIGKILL, and lets the kernel reap children.
fn ignore_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: there is room for a set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    let none = std::ptr::null_mut();
    // SAFETY: the set is filled, and the old set is not written.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), none) };
    // SAFETY: this takes no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// The work of a helper: one job. Its end closes the files that it has
/// received.
fn help(
    jobs: BorrowedFd<'_>,
    answers: BorrowedFd<'_>,
    take: BorrowedFd<'_>,
) -> ! {
    let mut job = Job::new_zeroed();
    let received = receive(jobs, job.as_mut_bytes(), RecvFlags::DONTWAIT);
    let _ = rustix::io::write(take, &[1]);
    match &received {
        Ok((_, [Some(socket), None], true)) if job.answer == 1 => {
            std::mem::forget(answer(socket.as_fd(), job.id, answers));
        }
        Ok((_, [Some(_), Some(until)], true)) => {
            while rustix::io::read(until, &mut [0]) == Err(Errno::INTR) {}
        }
        _ => {}
    }
    end(0);
}

/// Receives a message from `socket`, and sends it on if it is good. Returns the
/// files: a helper must not close them before its end.
pub(super) fn answer(
    socket: BorrowedFd<'_>,
    id: u64,
    answers: BorrowedFd<'_>,
) -> Files {
    let mut answer = Answer::new_zeroed();
    (answer.id, answer.outcome) = (id, BAD);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let files = match receive(socket, &mut answer.message, flags) {
        Ok((len @ 1.., files, true)) => {
            let is_good = |file: &OwnedFd| is_sealed(file.as_fd());
            if files.iter().flatten().all(is_good) {
                answer.outcome = GOOD;
                answer.len = u32::try_from(len).unwrap_or(0);
            }
            files
        }
        Ok((_, files, _)) => files,
        Err(Errno::AGAIN) => {
            answer.outcome = NOTHING;
            Files::default()
        }
        Err(_) => Files::default(),
    };
    let bytes = answer.as_bytes();
    let flags = SendFlags::NOSIGNAL;
    let _ = match &files {
        [Some(one), Some(two)] if answer.outcome == GOOD => {
            send(answers, bytes, &[one.as_fd(), two.as_fd()], flags)
        }
        [Some(one), None] if answer.outcome == GOOD => {
            send(answers, bytes, &[one.as_fd()], flags)
        }
        _ => send(answers, bytes, &[], flags),
    };
    files
}

/// Whether a file is memory that cannot become shorter. Never blocks: the
/// kernel answers for memory, and refuses to answer for anything else.
fn is_sealed(file: BorrowedFd<'_>) -> bool {
    let seals = rustix::fs::fcntl_get_seals(file);
    seals.is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
}
