//! The system calls of a Launcher that runs a Guest.
//!
//! Any other call ends the Launcher. Most of these are harmless: they move
//! bytes between open files and our own memory, wait, or ask for the time.
//! Calls that could do more are allowed only with harmless arguments. The list
//! holds for all threads, with glibc and with musl. If a device needs a new
//! call, it is added here, with the reason why it can do no harm.

use super::walls::Plan;
use Check::{Bits, Is, OneOf};
use lg_wire::spawn::KICK_SIGNAL;

/// What an argument has to be.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// Argument `.0`, of 32 bits, has this value.
    Is(u8, u32),
    /// Argument `.0`, of 64 bits, is zero.
    Null(u8),
    /// Argument `.0`, of 32 bits, has one of these values.
    OneOf(u8, &'static [u32]),
    /// Of the bits `.1` of argument `.0`, these are set.
    Bits(u8, u64, u64),
    /// Argument `.0` is our process number.
    Us(u8),
}

/// What happens to a call.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// It is made.
    Allow,
    /// It is made if all of this is true; else it ends us.
    If(&'static [Check]),
    /// As [`Rule::Allow`], on a network between Guests.
    AllowOnLan,
    /// As [`Rule::If`], on a network between Guests.
    IfOnLan(&'static [Check]),
    /// As [`Rule::If`], where others connect to us who have to be of our user:
    /// on a network between Guests, and with a control socket.
    IfWithPeers(&'static [Check]),
    /// As [`Rule::Allow`], in the same runs.
    AllowWithPeers,
    /// As [`Rule::Allow`], where others send us descriptors: on a network
    /// between Guests, and with a control socket and an agent.
    AllowWithGifts,
    /// As [`Rule::Allow`], where others connect to us: on a network between
    /// Guests, on a stream that waits for its other end, and with a control
    /// socket.
    AllowWithListener,
    /// It fails with this error. Libraries try such calls and can do without
    /// them, so they must not end the Launcher.
    Refuse(i32),
}

/// A call, its name, and its rule.
pub type Call = (libc::c_long, &'static str, Rule);

macro_rules! calls {
    ($rule:expr; $($name:ident),+ $(,)?) => {
        &[$((libc::$name, stringify!($name), $rule)),+]
    };
}

/// All of them, in groups.
pub const GROUPS: &[&[Call]] = &[
    // Between open files and our own memory.
    calls![Rule::Allow;
        SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64,
        SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2,
        SYS_recvfrom, SYS_lseek, SYS_close, SYS_ftruncate, SYS_fsync,
        SYS_fdatasync],
    // To an end that is connected, not to an address.
    calls![Rule::If(&[Check::Null(4)]); SYS_sendto],
    // Facts about files. Names are allowed, too: a caller learns that they
    // exist, and no more.
    calls![Rule::Allow; SYS_fstat, SYS_newfstatat, SYS_statx, SYS_fstatfs],
    // To wait, and to be notified.
    calls![Rule::Allow;
        SYS_poll, SYS_ppoll, SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait,
        SYS_epoll_pwait2, SYS_eventfd2, SYS_futex, SYS_nanosleep, SYS_clock_nanosleep,
        SYS_restart_syscall, SYS_sched_yield, SYS_timerfd_settime],
    // On several words at once.
    calls![Rule::AllowOnLan; SYS_futex_waitv],
    // The time, ourselves, and chance.
    calls![Rule::Allow;
        SYS_clock_gettime, SYS_gettimeofday, SYS_time, SYS_getcpu,
        SYS_getpid, SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid,
        SYS_getgid, SYS_getegid, SYS_getpgrp, SYS_getpgid, SYS_getrandom],
    // Memory, but never to execute.
    calls![Rule::If(&[Bits(2, EXECUTE, 0)]); SYS_mmap, SYS_mprotect],
    calls![Rule::Allow; SYS_munmap, SYS_mremap, SYS_brk, SYS_madvise],
    // Threads, but no processes. A filter cannot read the arguments of clone3,
    // which are behind a pointer. So clone3 does not exist here, and libraries
    // take clone.
    calls![Rule::If(&[Bits(0, !THREAD_MAY, THREAD_MUST)]); SYS_clone],
    calls![Rule::Refuse(libc::ENOSYS); SYS_clone3],
    calls![Rule::Allow;
        SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_exit_group,
        SYS_sched_getaffinity, SYS_sched_setaffinity],
    calls![Rule::If(&[OneOf(0, &[PR_SET_NAME, PR_SET_VMA])]); SYS_prctl],
    // Our own signals, and those for views. Where landlock can, it refuses
    // signals to other processes than views.
    calls![Rule::Allow;
        SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack],
    calls![Rule::If(&[Check::Us(0)]); SYS_tgkill],
    #[cfg(target_env = "musl")]
    calls![Rule::If(&[OneOf(1, &[SIGABRT, SIGSTOP])]); SYS_tkill],
    calls![Rule::Allow; SYS_pidfd_open, SYS_waitid],
    calls![Rule::If(&[OneOf(1, &[SIGKILL, KICK_SIGNAL as u32])]);
        SYS_pidfd_send_signal],
    // The terminal: its modes, and its foreground group. No input is put into
    // it.
    calls![Rule::If(&[OneOf(1, TERMINAL)]); SYS_ioctl],
    // Locks, copies, and questions. Not the process to which signals go.
    calls![Rule::If(&[OneOf(1, FILE_CONTROL)]); SYS_fcntl],
    // Peers on a network between Guests, by local sockets that keep the bounds
    // of messages. Few other programs of a machine listen on such sockets.
    calls![Rule::IfOnLan(&[
        Is(0, libc::AF_UNIX as u32),
        Bits(1, !SOCKET_FLAGS, libc::SOCK_SEQPACKET as u64),
    ]); SYS_socket],
    calls![Rule::AllowOnLan; SYS_connect, SYS_unlinkat],
    // Files of theirs from peers that are connected already: on a network
    // between Guests, and sockets of clients that talk to an agent. What comes
    // is checked before it is used.
    calls![Rule::AllowWithGifts; SYS_recvmsg],
    // Files of ours to peers that are connected already: on a network between
    // Guests, and with a control socket, for a snapshot.
    calls![Rule::AllowWithPeers; SYS_sendmsg],
    // A connection to a socket that the user has asked for.
    calls![Rule::AllowWithListener; SYS_accept4],
    // A pipe has both of its ends here. One end goes to the process that closes
    // connections, and tells it when they are closed here.
    calls![Rule::AllowOnLan; SYS_pipe2],
    calls![Rule::IfWithPeers(&[
        Is(1, libc::SOL_SOCKET as u32),
        Is(2, libc::SO_PEERCRED as u32),
    ]); SYS_getsockopt],
    // Files by name: memory allocators look how many processors there are,
    // a panic looks for the names of functions.
    calls![Rule::Refuse(libc::EACCES);
        SYS_open, SYS_openat, SYS_openat2, SYS_access, SYS_faccessat,
        SYS_faccessat2, SYS_stat, SYS_lstat, SYS_readlink, SYS_readlinkat,
        SYS_getcwd, SYS_unlink],
];

const EXECUTE: u64 = libc::PROT_EXEC as u64;

/// What makes a new thread and not a new process.
const THREAD_MUST: u64 =
    (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;

/// What a library may add. Old libraries still say CLONE_DETACHED.
const THREAD_MAY: u64 = (libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED) as u64;

const SOCKET_FLAGS: u64 = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;

const PR_SET_NAME: u32 = libc::PR_SET_NAME as u32;
/// Names a piece of memory; allocators do so when told to.
const PR_SET_VMA: u32 = libc::PR_SET_VMA as u32;

const SIGKILL: u32 = libc::SIGKILL as u32;
#[cfg(target_env = "musl")]
const SIGABRT: u32 = libc::SIGABRT as u32;
#[cfg(target_env = "musl")]
const SIGSTOP: u32 = libc::SIGSTOP as u32;

#[allow(
    clippy::cast_possible_truncation,
    reason = "requests have 32 bits, whatever type a C library gives them"
)]
const TERMINAL: &[u32] = &[
    libc::TCGETS as u32,
    libc::TCSETS as u32,
    libc::TCSETSW as u32,
    libc::TCSETSF as u32,
    libc::TCGETS2 as u32,
    libc::TCSETS2 as u32,
    libc::TCSETSW2 as u32,
    libc::TCSETSF2 as u32,
    libc::TIOCGPGRP as u32,
    libc::TIOCGWINSZ as u32,
];

const FILE_CONTROL: &[u32] = &[
    libc::F_GETFD as u32,
    libc::F_GETFL as u32,
    libc::F_DUPFD_CLOEXEC as u32,
    libc::F_OFD_GETLK as u32,
    libc::F_OFD_SETLK as u32,
    libc::F_GET_SEALS as u32,
];

/// What a run has that needs more calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct More {
    /// A network between Guests.
    pub lan: bool,
    /// A stream to which another process connects.
    pub listener: bool,
    /// A control socket.
    pub control: bool,
    /// Clients of the control socket that talk to an agent.
    pub agent: bool,
}

impl More {
    /// What a run with `plan` has.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        Self {
            lan: !plan.networks.is_empty(),
            listener: plan.listens,
            control: plan.control,
            agent: plan.control && plan.agent,
        }
    }
}

/// All calls that are made or fail in a run with `more`.
pub fn all(more: More) -> impl Iterator<Item = Call> {
    let More {
        lan,
        listener,
        control,
        agent,
    } = more;
    let calls = GROUPS.iter().flat_map(|group| group.iter().copied());
    calls.filter_map(move |(nr, name, rule)| match rule {
        Rule::AllowWithListener => {
            let any = lan || listener || control;
            any.then_some((nr, name, Rule::Allow))
        }
        Rule::IfWithPeers(checks) => {
            (lan || control).then_some((nr, name, Rule::If(checks)))
        }
        Rule::AllowWithPeers => {
            (lan || control).then_some((nr, name, Rule::Allow))
        }
        Rule::AllowWithGifts => {
            (lan || agent).then_some((nr, name, Rule::Allow))
        }
        Rule::AllowOnLan => lan.then_some((nr, name, Rule::Allow)),
        Rule::IfOnLan(checks) => lan.then_some((nr, name, Rule::If(checks))),
        rule => Some((nr, name, rule)),
    })
}
