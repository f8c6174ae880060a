//! Each system call of a start, refused.
//!
//! The lists were made from a trace of `run` and of `doctor`. A test kills both
//! for every call that is on no list, so a new call must be put on one.

use crate::filters::{allow_only, kill_for_32_bits, refuse, refuse_bits, stop};
use crate::rows::{
    BAD_MACHINE, ask_doctor, doctor_agrees, each, line, run_guest, says, works,
};
use crate::support::later::LATER;
use crate::support::{Scratch, built_in, lguest, run};
use std::process::Command;

type Call = (&'static str, i64);

macro_rules! calls {
    ($($name:ident $number:ident),+ $(,)?) => {
        &[$((stringify!($name), libc::$number)),+]
    };
}

/// A run works without these, or in another way.
const DONE_WITHOUT: &[Call] = calls![
    access SYS_access, brk SYS_brk,
    capget SYS_capget, capset SYS_capset, clone3 SYS_clone3, fork SYS_fork,
    fstat SYS_fstat, getcwd SYS_getcwd, getdents64 SYS_getdents64,
    getcpu SYS_getcpu, getpid SYS_getpid, getppid SYS_getppid,
    getrandom SYS_getrandom,
    gettid SYS_gettid, getuid SYS_getuid, ioctl SYS_ioctl,
    io_uring_setup SYS_io_uring_setup,
    landlock_add_rule SYS_landlock_add_rule,
    landlock_create_ruleset SYS_landlock_create_ruleset,
    landlock_restrict_self SYS_landlock_restrict_self, lseek SYS_lseek,
    madvise SYS_madvise, mremap SYS_mremap, newfstatat SYS_newfstatat,
    open SYS_open, openat SYS_openat, pipe2 SYS_pipe2,
    pkey_alloc SYS_pkey_alloc, pread64 SYS_pread64, prlimit64 SYS_prlimit64,
    readlink SYS_readlink, rseq SYS_rseq, rt_sigprocmask SYS_rt_sigprocmask,
    sched_getaffinity SYS_sched_getaffinity,
    sched_setaffinity SYS_sched_setaffinity, sched_yield SYS_sched_yield,
    set_robust_list SYS_set_robust_list, setsid SYS_setsid,
    set_tid_address SYS_set_tid_address, shutdown SYS_shutdown, statx
    SYS_statx, sysinfo SYS_sysinfo,
    tgkill SYS_tgkill, uname SYS_uname, unshare SYS_unshare, wait4 SYS_wait4,
];

/// Calls of the Launcher without which a run ends with a message.
const OF_LAUNCHER: &[Call] = calls![
    clock_gettime SYS_clock_gettime, clock_nanosleep SYS_clock_nanosleep,
    clone SYS_clone, close SYS_close, close_range SYS_close_range,
    dup SYS_dup, dup2 SYS_dup2, epoll_create1 SYS_epoll_create1,
    epoll_ctl SYS_epoll_ctl, epoll_pwait SYS_epoll_pwait,
    eventfd2 SYS_eventfd2, execveat SYS_execveat, fcntl SYS_fcntl,
    ftruncate SYS_ftruncate, futex SYS_futex, memfd_create SYS_memfd_create,
    munmap SYS_munmap, pidfd_open SYS_pidfd_open,
    pidfd_send_signal SYS_pidfd_send_signal, ppoll SYS_ppoll, read SYS_read,
    recvfrom SYS_recvfrom, sendto SYS_sendto, socketpair SYS_socketpair,
    waitid SYS_waitid,
];

/// The same for calls that only the Guest's processes need.
const OF_VIEWS: &[Call] = calls![
    modify_ldt SYS_modify_ldt, prctl SYS_prctl,
    seccomp SYS_seccomp,
    sigaltstack SYS_sigaltstack, timer_create SYS_timer_create,
    timer_settime SYS_timer_settime,
];

/// The same for a network between Guests.
const OF_A_NETWORK: &[Call] = calls![
    accept4 SYS_accept4, bind SYS_bind, connect SYS_connect,
    fchmod SYS_fchmod, fstatfs SYS_fstatfs, getsockopt SYS_getsockopt,
    listen SYS_listen, recvmsg SYS_recvmsg, sendmsg SYS_sendmsg,
    socket SYS_socket, unlinkat SYS_unlinkat,
];

/// Calls of a network without which it works, but slower.
const OF_A_NETWORK_DONE_WITHOUT: &[Call] = calls![
    futex_waitv SYS_futex_waitv, pwrite64 SYS_pwrite64,
];

/// The same for a machine with a name.
const OF_A_NAME: &[Call] = calls![
    geteuid SYS_geteuid, mkdirat SYS_mkdirat, flock SYS_flock,
    newfstatat SYS_newfstatat, unlinkat SYS_unlinkat, socket SYS_socket, fchmod SYS_fchmod,
    bind SYS_bind, listen SYS_listen, pipe2 SYS_pipe2, accept4 SYS_accept4,
    getsockopt SYS_getsockopt,
];

/// A machine with a name works without these; its last output is lost when its
/// Launcher ends.
const OF_A_NAME_DONE_WITHOUT: &[Call] = calls![pwrite64 SYS_pwrite64];

/// The same for a machine with a name and an agent.
const OF_AN_AGENT: &[Call] = calls![recvmsg SYS_recvmsg];

/// Those of a kernel in a file of its own.
const OF_A_FILE: &[Call] = calls![preadv SYS_preadv];

/// The same for a share.
const OF_A_SHARE: &[Call] = calls![
    faccessat SYS_faccessat, fchmodat SYS_fchmodat,
    fdatasync SYS_fdatasync, fstatfs SYS_fstatfs, fsync SYS_fsync,
    getdents64 SYS_getdents64, getegid SYS_getegid, geteuid SYS_geteuid,
    linkat SYS_linkat, mkdirat SYS_mkdirat, mknodat SYS_mknodat,
    preadv SYS_preadv, pwritev SYS_pwritev,
    readlinkat SYS_readlinkat, recvmsg SYS_recvmsg, renameat SYS_renameat,
    sendmsg SYS_sendmsg, symlinkat SYS_symlinkat, unlinkat SYS_unlinkat,
    utimensat SYS_utimensat,
];

/// Calls of a share without which it works. Without umask, the permissions of
/// new files are those of the Launcher.
const OF_A_SHARE_DONE_WITHOUT: &[Call] = calls![umask SYS_umask];

/// The same for programs in processes of their own.
const OF_USER_PROCESSES: &[Call] = calls![
    close_range SYS_close_range, ioctl SYS_ioctl, mremap SYS_mremap,
    rt_sigprocmask SYS_rt_sigprocmask, sched_yield SYS_sched_yield,
    tgkill SYS_tgkill,
];

/// Without these no program begins or ends, has a C library (with messages of
/// its own), catches signals, or prints. They are not refused here.
const OF_ANY_PROGRAM: &[Call] = calls![
    arch_prctl SYS_arch_prctl, execve SYS_execve, exit SYS_exit, exit_group
    SYS_exit_group, mmap SYS_mmap,
    mprotect SYS_mprotect, poll SYS_poll, restart_syscall SYS_restart_syscall,
    rt_sigaction SYS_rt_sigaction, rt_sigreturn SYS_rt_sigreturn,
    write SYS_write,
];

/// Calls that only a run with a network needs.
const ELSEWHERE: &[Call] = calls![fstatfs SYS_fstatfs];

fn lists() -> [&'static [Call]; 5] {
    [
        DONE_WITHOUT,
        OF_LAUNCHER,
        OF_VIEWS,
        OF_ANY_PROGRAM,
        ELSEWHERE,
    ]
}

const ERRORS: [i32; 2] = [libc::EPERM, libc::ENOSYS];

/// Each of `calls` with each error.
fn rows(calls: &[Call]) -> Vec<(&'static str, i64, i32)> {
    let with_errors =
        |&(name, nr): &Call| ERRORS.map(|error| (name, nr, error));
    calls.iter().flat_map(with_errors).collect()
}

#[test]
fn the_lists_have_every_call() {
    let mut all: Vec<i64> = lists()
        .iter()
        .flat_map(|list| list.iter().map(|c| c.1))
        .collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "a call is on two lists");
    works("only them", &run_guest(|command| allow_only(command, &all)));
    let found = ask_doctor(|command| allow_only(command, &all));
    assert_eq!(found.signal(), None, "{found:?}");
}

#[test]
fn a_run_works_without_these_calls() {
    each(&rows(DONE_WITHOUT), |&(name, nr, error)| {
        let row = format!("{name} {error}");
        works(&row, &run_guest(|command| refuse(command, nr, error)));
        let found = ask_doctor(|command| refuse(command, nr, error));
        assert_eq!(found.code(), 0, "{row}: {found:?}");
    });
}

#[test]
fn a_refused_call_is_named() {
    let rows = [rows(OF_LAUNCHER), rows(OF_VIEWS)].concat();
    let said = each(&rows, |&(name, nr, error)| {
        let row = format!("{name} {error}");
        let refuse = |command: &mut Command| refuse(command, nr, error);
        let sentence = says(&row, &run_guest(refuse), BAD_MACHINE);
        doctor_agrees(&row, &ask_doctor(refuse), &sentence);
        let call = match name {
            "sigaltstack" => "rt_sigaction or sigaltstack",
            name => name,
        };
        let call = format!("this system refuses the call {call} (");
        assert!(sentence.contains(&call), "{sentence}");
        let cure = "; let the filter of the container or service allow it";
        assert!(sentence.contains(cure), "{sentence}");
        sentence
    });
    compare(&said);
}

/// Compares with the golden file, or writes it.
fn compare(said: &[String]) {
    let text = said.join("\n") + "\n";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/needs/messages.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return std::fs::write(file, text).unwrap();
    }
    let golden = std::fs::read_to_string(file).unwrap();
    assert_eq!(text, golden, "if that is meant: UPDATE_EXPECT=1");
}

#[test]
fn a_call_that_a_network_needs_is_named() {
    let scratch = Scratch::new("network");
    let network = scratch.file("lan", &[0; 4096]);
    let on_a_network = |command: &mut Command| {
        let mut net = std::ffi::OsString::from("--net=sharenet=");
        net.push(&network);
        command.arg("run").arg(net);
    };
    each(&rows(OF_A_NETWORK), |&(name, nr, error)| {
        let row = format!("{name} {error}");
        let end = run_guest(|command| {
            on_a_network(command);
            refuse(command, nr, error);
        });
        let sentence = says(&row, &end, BAD_MACHINE);
        let words = format!(
            "cannot share a network: this system refuses the call {name} ("
        );
        assert!(sentence.contains(&words), "{sentence}");
        // A run without a network works.
        works(&row, &run_guest(|command| refuse(command, nr, error)));
    });
    each(&rows(OF_A_NETWORK_DONE_WITHOUT), |&(name, nr, error)| {
        let end = run_guest(|command| {
            on_a_network(command);
            refuse(command, nr, error);
        });
        works(name, &end);
    });
    let all: Vec<i64> = lists()
        .into_iter()
        .chain([OF_A_NETWORK, OF_A_NETWORK_DONE_WITHOUT])
        .flat_map(|list| list.iter().map(|call| call.1))
        .collect();
    let only_them = run_guest(|command| {
        on_a_network(command);
        allow_only(command, &all);
    });
    works("only them", &only_them);
}

#[test]
fn a_call_that_a_machine_with_a_name_needs_is_named() {
    let with_a_name = |command: &mut Command, place: &Scratch| {
        command.env("XDG_RUNTIME_DIR", place.path(""));
        command.args(["run", "--name", "web"]);
    };
    each(&rows(OF_A_NAME), |&(name, nr, error)| {
        let row = format!("{name} {error}");
        let place = Scratch::new("name");
        let end = run_guest(|command| {
            with_a_name(command, &place);
            refuse(command, nr, error);
        });
        let sentence = says(&row, &end, BAD_MACHINE);
        let words = format!(
            "cannot give the machine a name: this system refuses the call \
             {name} ("
        );
        assert!(sentence.contains(&words), "{sentence}");
    });
    each(&rows(OF_A_NAME_DONE_WITHOUT), |&(name, nr, error)| {
        let place = Scratch::new("name");
        let end = run_guest(|command| {
            with_a_name(command, &place);
            refuse(command, nr, error);
        });
        works(name, &end);
    });
    let all: Vec<i64> = lists()
        .into_iter()
        .chain([OF_A_NAME, OF_A_NAME_DONE_WITHOUT])
        .flat_map(|list| list.iter().map(|call| call.1))
        .collect();
    let place = Scratch::new("name");
    let only_them = run_guest(|command| {
        with_a_name(command, &place);
        allow_only(command, &all);
    });
    works("only them", &only_them);
}

#[test]
fn a_call_that_an_agent_needs_is_named() {
    let scratch = Scratch::new("agent");
    let kernel = LATER[0].of(&built_in(), &scratch);
    let with_an_agent = |command: &mut Command, place: &Scratch| {
        command.env("XDG_RUNTIME_DIR", place.path(""));
        command.args(["run", "--append=quiet", "--name=web", "--agent"]);
        command.arg("--kernel").arg(&kernel);
    };
    each(&rows(OF_AN_AGENT), |&(name, nr, error)| {
        let row = format!("{name} {error}");
        let place = Scratch::new("agent");
        let end = run_guest(|command| {
            with_an_agent(command, &place);
            refuse(command, nr, error);
        });
        let sentence = says(&row, &end, BAD_MACHINE);
        let words = "cannot let clients of the machine talk to its agent";
        assert!(sentence.contains(words), "{sentence}");
    });
    let all: Vec<i64> = lists()
        .into_iter()
        .chain([OF_A_NAME, OF_A_NAME_DONE_WITHOUT])
        .chain([OF_AN_AGENT, OF_A_FILE])
        .flat_map(|list| list.iter().map(|call| call.1))
        .collect();
    let place = Scratch::new("agent");
    let only_them = run_guest(|command| {
        with_an_agent(command, &place);
        allow_only(command, &all);
    });
    works("only them", &only_them);
}

#[test]
fn a_call_that_a_share_needs_is_named() {
    let scratch = Scratch::new("share");
    let kernel = LATER[0].of(&built_in(), &scratch);
    let mut share = scratch.path("").into_os_string();
    share.push(",tag");
    let with_a_share = |command: &mut Command| {
        command.args(["run", "--append=quiet", "--kernel"]);
        command.arg(&kernel).arg("--share").arg(&share);
    };
    works("all calls", &run_guest(with_a_share));
    each(&rows(OF_A_SHARE), |&(name, nr, error)| {
        let row = format!("{name} {error}");
        let end = run_guest(|command| {
            with_a_share(command);
            refuse(command, nr, error);
        });
        let sentence = says(&row, &end, BAD_MACHINE);
        let words = format!(
            "cannot share a folder: this system refuses the call {name} ("
        );
        assert!(sentence.contains(&words), "{sentence}");
    });
    each(&rows(OF_A_SHARE_DONE_WITHOUT), |&(name, nr, error)| {
        let end = run_guest(|command| {
            with_a_share(command);
            refuse(command, nr, error);
        });
        works(name, &end);
    });
    let mut all: Vec<i64> = lists()
        .into_iter()
        .chain([OF_A_SHARE, OF_A_SHARE_DONE_WITHOUT])
        .flat_map(|list| list.iter().map(|call| call.1))
        .collect();
    all.sort_unstable();
    all.dedup();
    let only_them = run_guest(|command| {
        with_a_share(command);
        allow_only(command, &all);
    });
    works("only them", &only_them);
}

#[test]
fn a_call_that_user_processes_need_is_named() {
    each(&rows(OF_USER_PROCESSES), |&(name, nr, error)| {
        let row = format!("{name} {error}");
        let end = run_guest(|command| {
            command.arg("run").arg("--isolation=user");
            refuse(command, nr, error);
        });
        let sentence = says(&row, &end, BAD_MACHINE);
        let words = format!("this system refuses the call {name} (");
        assert!(sentence.contains(&words), "{sentence}");
    });
    let end = run_guest(|command| {
        command.arg("run").arg("--isolation=user");
        let all: Vec<i64> =
            lists().iter().flat_map(|l| l.iter().map(|c| c.1)).collect();
        allow_only(command, &all);
    });
    works("only them", &end);
}

/// The Launcher goes on when a filter kills one of the Guest's processes.
#[test]
fn a_call_that_kills_a_process_of_the_guest_is_named() {
    let views = ["modify_ldt", "seccomp", "timer_create", "timer_settime"];
    let calls = OF_VIEWS.iter().filter(|(name, _)| views.contains(name));
    let rows: Vec<Call> = calls.copied().collect();
    assert_eq!(rows.len(), views.len());
    each(&rows, |&(name, nr)| {
        let kill = |command: &mut Command| stop(command, nr, true);
        let sentence = says(name, &run_guest(kill), BAD_MACHINE);
        let words = format!("kills a process for the call {name}; ");
        assert!(sentence.contains(&words), "{sentence}");
        doctor_agrees(name, &ask_doctor(kill), &sentence);
    });
}

#[test]
fn a_system_that_kills_for_32_bit_calls_is_reported() {
    let row = "int 0x80";
    let sentence = says(row, &run_guest(kill_for_32_bits), BAD_MACHINE);
    let words = "kills a process for the call int 0x80; ";
    assert!(sentence.contains(words), "{sentence}");
    doctor_agrees(row, &ask_doctor(kill_for_32_bits), &sentence);
}

/// With a filter that stops a process by a signal, there is a last message.
/// With a filter that kills, there is none. The doctor reports both.
#[test]
fn a_call_that_stops_the_launcher_is_named() {
    // Without these calls a copy of the doctor cannot be made, or not be waited
    // for, or the doctor itself cannot end.
    let fatal = ["clone", "waitid", "close", "read", "fcntl", "munmap"];
    let of_the_doctor = |(name, _): &&Call| !fatal.contains(name);
    let rows: Vec<Call> =
        OF_LAUNCHER.iter().filter(of_the_doctor).copied().collect();
    each(&rows, |&(name, nr)| {
        for kills in [false, true] {
            let found = ask_doctor(|command| stop(command, nr, kills));
            assert_eq!(found.code(), BAD_MACHINE, "{name}: {found:?}");
            let words = format!("kills a process for the call {name}: ");
            let calls = line(&found, "calls");
            assert!(calls.contains(&words), "{name}: {calls}");
        }
        let end = run_guest(|command| stop(command, nr, false));
        let sentence = says(name, &end, BAD_MACHINE);
        let words = format!("stops a process for the call {name}; ");
        assert!(sentence.contains(&words), "{sentence}");
    });
}

/// As systemd's MemoryDenyWriteExecute= does where there is no PR_SET_MDWE.
#[test]
fn a_filter_against_memory_that_is_written_and_executed() {
    const WRITE_EXECUTE: u32 = 6;
    let row = "mmap W|X";
    let refuse = |command: &mut Command| {
        refuse_bits(command, libc::SYS_mmap, 2, WRITE_EXECUTE, libc::EPERM);
    };
    let sentence = says(row, &run_guest(refuse), BAD_MACHINE);
    let words = "both written and executed is forbidden here; ";
    assert!(sentence.contains(words), "{sentence}");
    doctor_agrees(row, &ask_doctor(refuse), &sentence);
}

/// As Linux before 5.19 does: programs cannot have processes of their own.
#[test]
fn a_system_without_user_processes() {
    const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    let end = run_guest(|command| {
        let (nr, error) = (libc::SYS_seccomp, libc::EINVAL);
        refuse_bits(command, nr, 1, WAIT_KILLABLE_RECV, error);
        command.arg("run").arg("--isolation=user");
    });
    let sentence = says("isolation", &end, BAD_MACHINE);
    assert!(
        sentence.contains("leave --isolation=user out"),
        "{sentence}"
    );
}

/// A disk on a file system that cannot lock, as NFS may be.
#[test]
fn locks() {
    let scratch = Scratch::new("locks");
    let disk = scratch.file("disk", &[0; 4096]);
    let with_disk = |error| {
        let mut command = lguest();
        command.arg("run").arg("--disk").arg(&disk);
        refuse(&mut command, libc::SYS_flock, error);
        run(&mut command, b"poweroff\n")
    };
    for error in [libc::EIO, libc::ENOLCK, libc::EOPNOTSUPP] {
        let sentence = says("flock", &with_disk(error), 120);
        let words = "cannot lock it: its file system has no locks (";
        assert!(sentence.contains(words), "{sentence}");
        assert!(
            sentence.contains("; mount the file system with locks"),
            "{sentence}"
        );
    }
    for error in ERRORS {
        let sentence = says("flock", &with_disk(error), BAD_MACHINE);
        let words = "this system refuses the call flock (";
        assert!(sentence.contains(words), "{sentence}");
    }
}
