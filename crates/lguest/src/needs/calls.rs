//! The system calls of a start, tried with invalid arguments.
//!
//! A filter of a container or of a service refuses calls by their number, so it
//! refuses these, too. Without a filter, the kernel returns an error for the
//! arguments, and nothing happens. Some calls are left out: those without which
//! no process begins, and those that a run can do without (walls of the
//! Launcher, processors, huge pages). The first view tries the calls of views
//! ([`lg_wire::spawn::CALLS`]).

#![expect(unsafe_code, reason = "system calls with invalid arguments")]

use super::cause::Cause;
use super::lack::{self, Lack};
use crate::confine::program;
use lg_seccomp::{Filter, NR, verdict};
use libc::{EBADF, EFAULT, EINVAL};

/// A call, its purpose, and arguments with which it does nothing.
struct Call {
    name: &'static str,
    nr: libc::c_long,
    arguments: [usize; 4],
    doing: &'static str,
}

/// A value that is no descriptor, no clock, no process, and no valid flags.
const NONE: usize = usize::MAX;
/// An address that is not the start of a page.
const NO_PAGE: usize = 1;
/// The kernel refuses to make a thread that does not share signal handlers.
const CLONE_THREAD: usize = libc::CLONE_THREAD as usize;
const FUTEX_WAKE_PRIVATE: usize = 0x81;

macro_rules! call {
    ($doing:expr, $name:ident, $nr:ident, $arguments:expr) => {
        Call {
            name: stringify!($name),
            nr: libc::$nr,
            arguments: $arguments,
            doing: $doing,
        }
    };
}

const MEMORY: &str = "have memory for the guest";
const START: &str = lack::START;
const WATCH: &str = "watch the guest's processes";
const TALK: &str = "talk to the guest's processes";
const WAIT: &str = "wait for the guest";
const INPUT: &str = "wait for input";

/// All these calls, in the order of a run.
#[rustfmt::skip]
const CALLS: &[Call] = &[
    call!(WAIT, futex, SYS_futex, [0, FUTEX_WAKE_PRIVATE, 0, 0]),
    call!(WAIT, clock_gettime, SYS_clock_gettime, [NONE, 0, 0, 0]),
    call!(WAIT, clock_nanosleep, SYS_clock_nanosleep, [NONE, 0, 0, 0]),
    call!("keep standard input and output", close, SYS_close, [NONE, 0, 0, 0]),
    call!("keep standard input and output", fcntl, SYS_fcntl, [NONE, 1, 0, 0]),
    call!("keep standard input and output", dup, SYS_dup, [NONE, 0, 0, 0]),
    call!(INPUT, ppoll, SYS_ppoll, [0, NONE, 0, 0]),
    call!(INPUT, eventfd2, SYS_eventfd2, [0, NONE, 0, 0]),
    call!(MEMORY, memfd_create, SYS_memfd_create, [0, NONE, 0, 0]),
    call!(MEMORY, ftruncate, SYS_ftruncate, [NONE, 0, 0, 0]),
    call!(MEMORY, munmap, SYS_munmap, [NO_PAGE, 1, 0, 0]),
    call!(START, clone, SYS_clone, [CLONE_THREAD, 0, 0, 0]),
    call!(START, dup2, SYS_dup2, [NONE, NONE, 0, 0]),
    call!(START, close_range, SYS_close_range, [1, 0, 0, 0]),
    call!(START, execveat, SYS_execveat, [NONE, 0, 0, 0]),
    call!(TALK, socketpair, SYS_socketpair, [1, NONE, 0, 0]),
    call!(TALK, read, SYS_read, [NONE, 0, 0, 0]),
    call!(TALK, write, SYS_write, [NONE, 0, 0, 0]),
    call!(TALK, sendto, SYS_sendto, [NONE, 0, 0, 0]),
    call!(TALK, recvfrom, SYS_recvfrom, [NONE, 0, 0, 0]),
    call!(WATCH, pidfd_open, SYS_pidfd_open, [NONE, NONE, 0, 0]),
    call!(WATCH, pidfd_send_signal, SYS_pidfd_send_signal, [NONE, 0, 0, NONE]),
    call!(WATCH, waitid, SYS_waitid, [NONE, 0, 0, 0]),
    call!(WATCH, epoll_create1, SYS_epoll_create1, [NONE, 0, 0, 0]),
    call!(WATCH, epoll_ctl, SYS_epoll_ctl, [NONE, 2, 0, 0]),
    call!(WATCH, epoll_pwait, SYS_epoll_pwait, [NONE, 0, 0, 0]),
];

const SHARE: &str = "share a network";

/// The calls of a network between Guests, in the order of a run.
#[rustfmt::skip]
const NETWORK: &[Call] = &[
    call!(SHARE, fstatfs, SYS_fstatfs, [NONE, 0, 0, 0]),
    call!(SHARE, socket, SYS_socket, [1, NONE, 0, 0]),
    call!(SHARE, bind, SYS_bind, [NONE, 0, 0, 0]),
    call!(SHARE, fchmod, SYS_fchmod, [NONE, 0, 0, 0]),
    call!(SHARE, listen, SYS_listen, [NONE, 0, 0, 0]),
    call!(SHARE, accept4, SYS_accept4, [NONE, 0, 0, 0]),
    call!(SHARE, connect, SYS_connect, [NONE, 0, 0, 0]),
    call!(SHARE, sendmsg, SYS_sendmsg, [NONE, 0, 0, 0]),
    call!(SHARE, recvmsg, SYS_recvmsg, [NONE, 0, 0, 0]),
    call!(SHARE, getsockopt, SYS_getsockopt, [NONE, 0, 0, 0]),
    call!(SHARE, unlinkat, SYS_unlinkat, [NONE, 0, 0, 0]),
];

const NAME: &str = "give the machine a name";

/// The calls of a machine with a name, in the order of a run.
#[rustfmt::skip]
const NAMED: &[Call] = &[
    call!(NAME, geteuid, SYS_geteuid, [0, 0, 0, 0]),
    call!(NAME, mkdirat, SYS_mkdirat, [NONE, 0, 0, 0]),
    call!(NAME, flock, SYS_flock, [NONE, NONE, 0, 0]),
    call!(NAME, newfstatat, SYS_newfstatat, [NONE, 0, 0, NONE]),
    call!(NAME, unlinkat, SYS_unlinkat, [NONE, 0, 0, 0]),
    call!(NAME, socket, SYS_socket, [1, NONE, 0, 0]),
    call!(NAME, fchmod, SYS_fchmod, [NONE, 0, 0, 0]),
    call!(NAME, bind, SYS_bind, [NONE, 0, 0, 0]),
    call!(NAME, listen, SYS_listen, [NONE, 0, 0, 0]),
    call!(NAME, pipe2, SYS_pipe2, [0, NONE, 0, 0]),
    call!(NAME, accept4, SYS_accept4, [NONE, 0, 0, 0]),
    call!(NAME, getsockopt, SYS_getsockopt, [NONE, 0, 0, 0]),
];

const AGENT: &str = "let clients of the machine talk to its agent";

/// The calls of a machine with a name and an agent.
#[rustfmt::skip]
const AGENTS: &[Call] = &[
    call!(AGENT, recvmsg, SYS_recvmsg, [NONE, 0, 0, 0]),
];

const FOLDER: &str = "share a folder";

/// The calls of a share and its server, in the order of a run.
#[rustfmt::skip]
const FOLDERS: &[Call] = &[
    call!(FOLDER, sendmsg, SYS_sendmsg, [NONE, 0, 0, 0]),
    call!(FOLDER, recvmsg, SYS_recvmsg, [NONE, 0, 0, 0]),
    call!(FOLDER, faccessat, SYS_faccessat, [NONE, NO_PAGE, 0, 0]),
    call!(FOLDER, geteuid, SYS_geteuid, [0; 4]),
    call!(FOLDER, getegid, SYS_getegid, [0; 4]),
    call!(FOLDER, preadv, SYS_preadv, [NONE, 0, 0, 0]),
    call!(FOLDER, pwritev, SYS_pwritev, [NONE, 0, 0, 0]),
    call!(FOLDER, getdents64, SYS_getdents64, [NONE, 0, 0, 0]),
    call!(FOLDER, readlinkat, SYS_readlinkat, [NONE, NO_PAGE, 0, 0]),
    call!(FOLDER, fstatfs, SYS_fstatfs, [NONE, 0, 0, 0]),
    call!(FOLDER, mkdirat, SYS_mkdirat, [NONE, NO_PAGE, 0, 0]),
    call!(FOLDER, mknodat, SYS_mknodat, [NONE, NO_PAGE, 0, 0]),
    call!(FOLDER, symlinkat, SYS_symlinkat, [NO_PAGE, NONE, 0, 0]),
    call!(FOLDER, linkat, SYS_linkat, [NONE, NO_PAGE, NONE, 0]),
    call!(FOLDER, renameat, SYS_renameat, [NONE, NO_PAGE, NONE, 0]),
    call!(FOLDER, unlinkat, SYS_unlinkat, [NONE, NO_PAGE, 0, 0]),
    call!(FOLDER, fchmodat, SYS_fchmodat, [NONE, NO_PAGE, 0, 0]),
    call!(FOLDER, utimensat, SYS_utimensat, [NONE, NO_PAGE, 0, 0]),
    call!(FOLDER, fsync, SYS_fsync, [NONE, 0, 0, 0]),
    call!(FOLDER, fdatasync, SYS_fdatasync, [NONE, 0, 0, 0]),
];

/// Makes call `nr`, and returns its error, if there is one.
fn make(nr: libc::c_long, a: [usize; 4]) -> Result<(), i32> {
    // SAFETY: with these arguments the call changes nothing.
    let result = unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], 0, 0) };
    if result >= 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(error.raw_os_error().unwrap_or(EINVAL))
}

/// The first call that this machine refuses. `about` gets the index of each
/// call before it is made, so that the index is known if the process is killed.
pub(crate) fn refused(about: impl Fn(usize)) -> Option<Lack> {
    first_refused(CALLS, about)
}

/// The same for the calls of a network between Guests.
pub(crate) fn refused_on_a_network() -> Option<Lack> {
    first_refused(NETWORK, |_| ())
}

/// The same for the calls of a machine with a name.
pub(crate) fn refused_with_a_name() -> Option<Lack> {
    first_refused(NAMED, |_| ())
}

/// The same for the calls of a machine with a name and an agent.
pub(crate) fn refused_with_an_agent() -> Option<Lack> {
    first_refused(AGENTS, |_| ())
}

/// The same for the calls of a share.
pub(crate) fn refused_for_a_share() -> Option<Lack> {
    first_refused(FOLDERS, |_| ())
}

fn first_refused(calls: &[Call], about: impl Fn(usize)) -> Option<Lack> {
    calls.iter().enumerate().find_map(|(index, call)| {
        about(index);
        match make(call.nr, call.arguments) {
            Ok(()) | Err(EBADF | EFAULT | EINVAL) => None,
            Err(error) => {
                let name = call.name;
                let cause = Cause::Refused { call: name, error };
                Some(Lack::new(call.doing, cause))
            }
        }
    })
}

/// The lack on a machine that kills a process for the call with this index.
pub(crate) fn killed_for(index: usize) -> Option<Lack> {
    let call = CALLS.get(index)?;
    let cause = Cause::Killed { call: call.name };
    Some(Lack::new(call.doing, cause))
}

/// The name of call `nr`, if it is one of a start.
pub(crate) fn name_of(nr: i64) -> Option<&'static str> {
    CALLS
        .iter()
        .chain(NETWORK)
        .chain(NAMED)
        .chain(AGENTS)
        .chain(FOLDERS)
        .find(|call| call.nr == nr)
        .map(|call| call.name)
}

/// Makes clone3 fail with ENOSYS from here on, if a filter refuses it with
/// another error. Then the C library uses clone; with another error it would
/// give up. (Old filters of containers do not know clone3.)
pub(crate) fn prefer_clone() {
    match make(libc::SYS_clone3, [0; 4]) {
        Ok(()) | Err(EINVAL | EFAULT | libc::ENOSYS) => return,
        Err(_) => {}
    }
    let nr = u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX);
    let mut filter = Filter::new();
    filter.load(NR);
    filter.when(nr, |f| f.end(verdict::FAIL | libc::ENOSYS.cast_unsigned()));
    filter.end(verdict::ALLOW);
    // If this filter cannot be installed, starting the first thread reports the
    // error.
    let _ = seccompiler::apply_filter(&program(&filter));
}
