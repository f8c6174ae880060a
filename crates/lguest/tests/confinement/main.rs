//! Attacks from inside a Launcher that was taken over.
//!
//! Each attack is a process that confines itself with the two calls that
//! `launch` makes, and then attacks. Every system call is tried, too. The list
//! of those that are allowed is a golden file, so that a reviewer sees each new
//! one. The last tests examine the real command from outside.

#![expect(unsafe_code, reason = "forks, and makes forbidden calls")]
#![expect(clippy::unwrap_used, reason = "a test says what went wrong so")]

mod attacker;
#[path = "../support/refusal.rs"]
mod refusal;
#[path = "../support/mod.rs"]
mod support;

use attacker::{Ended, attack, in_confinement};
use lguest::confine::calls::{self, More, Rule};
use lguest::confine::{Plan, WallState, wall};
use libc::c_long;
use refusal::refuse;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Running, lguest_with};

/// One wall. All others are left open.
fn only(bit: u32) -> Plan {
    let all: u32 = wall::ALL.iter().map(|(_, bit)| bit).sum();
    Plan {
        open: all & !bit,
        ..Plan::default()
    }
}

/// A Launcher on a network between Guests.
fn on_a_network() -> Plan {
    Plan {
        networks: vec![std::env::temp_dir()],
        ..Plan::default()
    }
}

/// Whether this machine has the walls of `plan`. If not, says why.
fn stands(test: &str, plan: &Plan) -> bool {
    let ended = in_confinement(plan, |reports| {
        let lacking =
            |state: &WallState| matches!(state, WallState::Lacking(_));
        i64::from(reports.iter().any(|report| lacking(&report.state)))
    });
    let stands = ended == Ended::Returned(0);
    if !stands {
        println!("SKIPPED {test}: this machine lacks that wall ({ended:?})");
    }
    stands
}

/// The arguments that every call is tried with: zeros and ones.
const ARGUMENTS: [[c_long; 6]; 2] = [[0; 6], [-1; 6]];

#[test]
fn every_call_that_is_not_on_the_list_is_stopped() {
    const LAST: c_long = 500;
    // uretprobe and uprobe: no filter of any process sees them. They are for
    // code that the kernel puts into a traced process. The kernel ends a
    // process that makes them from other code.
    const THE_KERNELS_OWN: [c_long; 2] = [335, 336];
    let mut table = String::from(
        "# Calls that a confined Launcher can make: number, and what became\n\
         # of it with arguments of zeros, and of ones. All others are \
         stopped.\n",
    );
    for nr in 0..=LAST {
        // A return without a signal loads all registers from words on the stack
        // that are no registers.
        let ended = match nr {
            libc::SYS_rt_sigreturn => [Ended::Gone; 2],
            nr => ARGUMENTS.map(|a| attack(&Plan::default(), nr, a)),
        };
        if ended.iter().all(|ended| *ended == Ended::Stopped) {
            continue;
        }
        if THE_KERNELS_OWN.contains(&nr) {
            let harmless = |e| matches!(e, Ended::Gone | Ended::Failed(_));
            assert!(ended.into_iter().all(harmless), "{nr}: {ended:?}");
            continue;
        }
        let listed =
            calls::all(More::default()).find(|&(listed, ..)| listed == nr);
        let Some((_, name, rule)) = listed else {
            panic!("call {nr} is not on the list: {ended:?}");
        };
        let [zeros, ones] = ended.map(|ended| match (ended, rule) {
            (Ended::Stopped, _) => "stopped",
            (Ended::Failed(error), Rule::Refuse(with)) if error == with => {
                "refused"
            }
            _ => "made",
        });
        writeln!(table, "{nr} {name}: {zeros} {ones}").unwrap();
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/confinement/calls.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&golden, &table).unwrap();
    }
    assert_eq!(table, fs::read_to_string(golden).unwrap());
}

/// A network between Guests.
const ON_A_LAN: More = More {
    lan: true,
    listener: false,
    control: false,
    agent: false,
};

/// A stream that waits for its other end takes one call more.
#[test]
fn a_listener_takes_one_call_more() {
    let plan = Plan {
        listens: true,
        ..Plan::default()
    };
    let name = |(_, name, _): calls::Call| name;
    let alone: Vec<&str> = calls::all(More::default()).map(name).collect();
    let more = calls::all(More::of(&plan)).map(name);
    let more: Vec<&str> = more.filter(|n| !alone.contains(n)).collect();
    assert_eq!(more, ["SYS_accept4"]);
    let nothing = [-1, 0, 0, 0, 0, 0];
    let ended = attack(&plan, libc::SYS_accept4, nothing);
    assert_eq!(ended, Ended::Failed(libc::EBADF));
    let ended = attack(&Plan::default(), libc::SYS_accept4, nothing);
    assert_eq!(ended, Ended::Stopped);
}

/// A control socket takes two calls more.
#[test]
fn a_control_socket_takes_three_calls_more() {
    let plan = Plan {
        control: true,
        ..Plan::default()
    };
    let name = |(_, name, _): calls::Call| name;
    let alone: Vec<&str> = calls::all(More::default()).map(name).collect();
    let more = calls::all(More::of(&plan)).map(name);
    let more: Vec<&str> = more.filter(|n| !alone.contains(n)).collect();
    assert_eq!(more, ["SYS_sendmsg", "SYS_accept4", "SYS_getsockopt"]);
    // With an agent clients send sockets, and without a control socket there
    // are no clients.
    let agent = Plan {
        agent: true,
        ..plan.clone()
    };
    let more = calls::all(More::of(&agent)).map(name);
    let more: Vec<&str> = more.filter(|n| !alone.contains(n)).collect();
    let with_sockets = [
        "SYS_recvmsg",
        "SYS_sendmsg",
        "SYS_accept4",
        "SYS_getsockopt",
    ];
    assert_eq!(more, with_sockets);
    let unnamed = Plan {
        control: false,
        ..agent
    };
    let more = calls::all(More::of(&unnamed)).count();
    assert_eq!(more, alone.len());
    let (level, credentials, groups) = (1, 17, 59);
    for (option, ended) in [
        (credentials, Ended::Failed(libc::EBADF)),
        (groups, Ended::Stopped),
    ] {
        let of_a_peer = [-1, level, option, 0, 0, 0];
        assert_eq!(attack(&plan, libc::SYS_getsockopt, of_a_peer), ended);
    }
}

/// A Launcher on a network between Guests connects to others.
#[test]
fn a_network_between_guests_takes_a_few_calls_more() {
    let name = |(_, name, _): calls::Call| name;
    let alone: Vec<&str> = calls::all(More::default()).map(name).collect();
    let more = calls::all(ON_A_LAN)
        .map(name)
        .filter(|n| !alone.contains(n));
    let more: Vec<&str> = more.collect();
    let known = "SYS_futex_waitv SYS_socket SYS_connect SYS_unlinkat SYS_recvmsg \
                 SYS_sendmsg SYS_accept4 SYS_pipe2 SYS_getsockopt";
    assert_eq!(more.join(" "), known);
    let plan = on_a_network();
    let messages = c_long::from(libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC);
    let stream = c_long::from(libc::SOCK_STREAM);
    let socket = |kind| [libc::AF_UNIX.into(), kind, 0, 0, 0, 0];
    let ended = attack(&plan, libc::SYS_socket, socket(messages));
    assert!(matches!(ended, Ended::Returned(_)), "{ended:?}");
    let ended = attack(&plan, libc::SYS_socket, socket(stream));
    assert_eq!(ended, Ended::Stopped);
    // It cannot remove files elsewhere.
    let test = "a_network_between_guests_takes_a_few_calls_more";
    if stands(test, &only(wall::LANDLOCK)) {
        let elsewhere = text(c"/etc/passwd");
        let here = c_long::from(libc::AT_FDCWD);
        let arguments = [here, elsewhere, 0, 0, 0, 0];
        let ended = attack(&plan, libc::SYS_unlinkat, arguments);
        assert_eq!(ended, Ended::Failed(libc::EACCES));
    }
}

/// Calls by the other entries of the kernel, where numbers mean other calls.
#[test]
fn calls_by_other_entries_are_stopped() {
    /// Calls of the x32 interface.
    const X32: c_long = 0x4000_0000;
    for nr in [0, 2, 39, 59, 520, 545] {
        let ended = attack(&Plan::default(), X32 | nr, [0; 6]);
        assert_eq!(ended, Ended::Stopped, "x32 call {nr}");
    }
    // exit, fork, open, execve, getpid: of the 32-bit interface.
    for nr in [1, 2, 5, 11, 20] {
        let ended =
            in_confinement(&Plan::default(), |_| attacker::by_int_80(nr));
        assert_eq!(ended, Ended::Stopped, "32-bit call {nr}");
    }
}

/// The targets of the attacks.
struct Prey {
    victim: std::process::Child,
    port: u16,
    _listener: TcpListener,
}

impl Prey {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").stdout(Stdio::null());
        Self {
            victim: sleep.spawn().unwrap(),
            port: listener.local_addr().unwrap().port(),
            _listener: listener,
        }
    }

    fn pid(&self) -> c_long {
        self.victim.id().into()
    }

    /// `struct sockaddr_in` of something that listens.
    fn address(&self) -> [u8; 16] {
        let [a, b] = self.port.to_be_bytes();
        let mut address = [0; 16];
        address[..8].copy_from_slice(&[2, 0, a, b, 127, 0, 0, 1]);
        address
    }
}

impl Drop for Prey {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

fn text(text: &'static std::ffi::CStr) -> c_long {
    text.as_ptr() as c_long
}

fn address<T>(of: &T) -> c_long {
    std::ptr::from_ref(of) as c_long
}

/// Attacks of one call each, with arguments that work.
fn attacks(prey: &Prey) -> Vec<(&'static str, c_long, [c_long; 6])> {
    let pid = prey.pid();
    let passwd = text(c"/etc/passwd");
    let mine = text(c"/tmp/lguest-attack");
    let nothing = address(&[0_i64; 32]);
    let anonymous = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let all = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    let stack = c_long::from(libc::MAP_ANONYMOUS);
    let here = c_long::from(libc::AT_FDCWD);
    let create = c_long::from(libc::O_CREAT | libc::O_RDWR);
    let namespace = c_long::from(libc::CLONE_NEWUSER);
    let tty = c_long::try_from(libc::TIOCSTI).unwrap();
    let child = c_long::from(libc::SIGCHLD);
    let shared = c_long::from(libc::CLONE_VM | libc::CLONE_VFORK);
    vec![
        ("reads a file", libc::SYS_open, [passwd, 0, 0, 0, 0, 0]),
        ("reads a file", libc::SYS_openat, [here, passwd, 0, 0, 0, 0]),
        (
            "reads a file",
            libc::SYS_openat2,
            [here, passwd, nothing, 24, 0, 0],
        ),
        (
            "makes a file",
            libc::SYS_open,
            [mine, create, 0o600, 0, 0, 0],
        ),
        ("makes a file", libc::SYS_creat, [mine, 0o600, 0, 0, 0, 0]),
        ("makes a folder", libc::SYS_mkdir, [mine, 0o700, 0, 0, 0, 0]),
        (
            "makes a device",
            libc::SYS_mknod,
            [mine, 0o20600, 0x103, 0, 0, 0],
        ),
        (
            "makes a link",
            libc::SYS_symlink,
            [passwd, mine, 0, 0, 0, 0],
        ),
        ("moves a file", libc::SYS_rename, [mine, passwd, 0, 0, 0, 0]),
        ("removes a file", libc::SYS_unlink, [mine, 0, 0, 0, 0, 0]),
        (
            "changes a mode",
            libc::SYS_chmod,
            [passwd, 0o666, 0, 0, 0, 0],
        ),
        ("changes an owner", libc::SYS_chown, [passwd, 1, 1, 0, 0, 0]),
        ("cuts a file", libc::SYS_truncate, [passwd, 0, 0, 0, 0, 0]),
        (
            "reads a folder",
            libc::SYS_getdents64,
            [3, nothing, 99, 0, 0, 0],
        ),
        ("moves", libc::SYS_chdir, [text(c"/"), 0, 0, 0, 0, 0]),
        (
            "changes the root",
            libc::SYS_chroot,
            [text(c"/"), 0, 0, 0, 0, 0],
        ),
        (
            "looks at names",
            libc::SYS_readlink,
            [text(c"/proc/self/exe"), nothing, 99, 0, 0, 0],
        ),
        ("watches files", libc::SYS_inotify_init1, [0; 6]),
        ("watches files", libc::SYS_fanotify_init, [0; 6]),
        (
            "opens by handle",
            libc::SYS_open_by_handle_at,
            [here, nothing, 0, 0, 0, 0],
        ),
        ("makes a socket", libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
        ("makes a socket", libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        ("makes a socket", libc::SYS_socket, [16, 3, 0, 0, 0, 0]),
        (
            "makes sockets",
            libc::SYS_socketpair,
            [1, 1, 0, nothing, 0, 0],
        ),
        (
            "runs a program",
            libc::SYS_execve,
            [text(c"/bin/true"), nothing, nothing, 0, 0, 0],
        ),
        (
            "runs a program",
            libc::SYS_execveat,
            [here, text(c"/bin/true"), nothing, nothing, 0, 0],
        ),
        ("forks", libc::SYS_fork, [0; 6]),
        ("forks", libc::SYS_vfork, [0; 6]),
        ("forks", libc::SYS_clone, [child, 0, 0, 0, 0, 0]),
        ("forks", libc::SYS_clone, [child | shared, 0, 0, 0, 0, 0]),
        ("forks", libc::SYS_clone3, [nothing, 64, 0, 0, 0, 0]),
        ("traces", libc::SYS_ptrace, [16, pid, 0, 0, 0, 0]),
        (
            "reads memory",
            libc::SYS_process_vm_readv,
            [pid, nothing, 1, nothing, 1, 0],
        ),
        (
            "writes memory",
            libc::SYS_process_vm_writev,
            [pid, nothing, 1, nothing, 1, 0],
        ),
        ("compares", libc::SYS_kcmp, [pid, pid, 0, 0, 0, 0]),
        (
            "takes descriptors",
            libc::SYS_pidfd_getfd,
            [3, 0, 0, 0, 0, 0],
        ),
        ("kills", libc::SYS_kill, [pid, 9, 0, 0, 0, 0]),
        ("kills", libc::SYS_tkill, [pid, 9, 0, 0, 0, 0]),
        ("kills", libc::SYS_tgkill, [pid, pid, 9, 0, 0, 0]),
        (
            "kills",
            libc::SYS_rt_sigqueueinfo,
            [pid, 9, nothing, 0, 0, 0],
        ),
        ("signals later", libc::SYS_fcntl, [1, 8, pid, 0, 0, 0]),
        ("limits", libc::SYS_prlimit64, [pid, 7, nothing, 0, 0, 0]),
        (
            "makes code",
            libc::SYS_mmap,
            [0, 4096, all, anonymous, -1, 0],
        ),
        (
            "makes code",
            libc::SYS_mmap,
            [0, 4096, all | 2, anonymous | stack, -1, 0],
        ),
        (
            "makes code",
            libc::SYS_mprotect,
            [nothing & !4095, 4096, all, 0, 0, 0],
        ),
        (
            "makes code",
            libc::SYS_pkey_mprotect,
            [nothing & !4095, 4096, all, -1, 0, 0],
        ),
        (
            "makes code",
            libc::SYS_memfd_create,
            [text(c"x"), 0, 0, 0, 0, 0],
        ),
        (
            "makes code",
            libc::SYS_personality,
            [0x0040_0000, 0, 0, 0, 0, 0],
        ),
        (
            "makes segments",
            libc::SYS_modify_ldt,
            [0, nothing, 16, 0, 0, 0],
        ),
        ("uses ports", libc::SYS_iopl, [3, 0, 0, 0, 0, 0]),
        ("uses ports", libc::SYS_ioperm, [0x60, 1, 1, 0, 0, 0]),
        ("becomes another", libc::SYS_setuid, [1, 0, 0, 0, 0, 0]),
        ("becomes another", libc::SYS_setresuid, [0, 0, 0, 0, 0, 0]),
        ("becomes another", libc::SYS_setgroups, [0, 0, 0, 0, 0, 0]),
        (
            "takes rights",
            libc::SYS_capset,
            [nothing, nothing, 0, 0, 0, 0],
        ),
        ("shows itself", libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
        (
            "lets itself be traced",
            libc::SYS_prctl,
            [0x5961_6d61, -1, 0, 0, 0, 0],
        ),
        (
            "mounts",
            libc::SYS_mount,
            [text(c"x"), text(c"/tmp"), text(c"tmpfs"), 0, 0, 0],
        ),
        ("mounts", libc::SYS_fsopen, [text(c"tmpfs"), 0, 0, 0, 0, 0]),
        (
            "mounts",
            libc::SYS_open_tree,
            [here, text(c"/"), 0, 0, 0, 0],
        ),
        (
            "unmounts",
            libc::SYS_umount2,
            [text(c"/tmp"), 2, 0, 0, 0, 0],
        ),
        (
            "makes namespaces",
            libc::SYS_unshare,
            [namespace, 0, 0, 0, 0, 0],
        ),
        ("joins namespaces", libc::SYS_setns, [3, 0, 0, 0, 0, 0]),
        (
            "makes rings",
            libc::SYS_io_uring_setup,
            [8, nothing, 0, 0, 0, 0],
        ),
        ("uses rings", libc::SYS_io_uring_enter, [3, 1, 0, 0, 0, 0]),
        (
            "asynchronous files",
            libc::SYS_io_setup,
            [8, nothing, 0, 0, 0, 0],
        ),
        ("loads programs", libc::SYS_bpf, [5, nothing, 48, 0, 0, 0]),
        (
            "measures",
            libc::SYS_perf_event_open,
            [nothing, 0, -1, -1, 0, 0],
        ),
        (
            "waits for faults",
            libc::SYS_userfaultfd,
            [1, 0, 0, 0, 0, 0],
        ),
        ("looks for keys", libc::SYS_keyctl, [0, -3, 1, 0, 0, 0]),
        (
            "adds keys",
            libc::SYS_add_key,
            [text(c"user"), text(c"x"), nothing, 8, -3, 0],
        ),
        (
            "asks for keys",
            libc::SYS_request_key,
            [text(c"user"), text(c"x"), 0, -3, 0, 0],
        ),
        (
            "shares memory",
            libc::SYS_shmget,
            [0, 4096, 0o1600, 0, 0, 0],
        ),
        ("makes queues", libc::SYS_msgget, [0, 0o1600, 0, 0, 0, 0]),
        (
            "makes queues",
            libc::SYS_mq_open,
            [text(c"x"), create, 0o600, 0, 0, 0],
        ),
        (
            "loads modules",
            libc::SYS_finit_module,
            [3, nothing, 0, 0, 0, 0],
        ),
        ("loads kernels", libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0]),
        ("reads the log", libc::SYS_syslog, [3, nothing, 99, 0, 0, 0]),
        (
            "sets the clock",
            libc::SYS_settimeofday,
            [nothing, 0, 0, 0, 0, 0],
        ),
        (
            "sets the name",
            libc::SYS_sethostname,
            [text(c"x"), 1, 0, 0, 0, 0],
        ),
        ("reboots", libc::SYS_reboot, [0; 6]),
        ("swaps", libc::SYS_swapon, [mine, 0, 0, 0, 0, 0]),
        ("types", libc::SYS_ioctl, [0, tty, text(c"x"), 0, 0, 0]),
        (
            "listens to SIGSYS itself",
            libc::SYS_rt_sigaction,
            [31, nothing, 0, 8, 0, 0],
        ),
        (
            "weakens the filter",
            libc::SYS_seccomp,
            [1, 0, nothing, 0, 0, 0],
        ),
        ("dispatches calls", libc::SYS_prctl, [59, 1, 0, 0, 0, 0]),
        (
            "sends elsewhere",
            libc::SYS_sendto,
            [3, nothing, 1, 0, passwd, 16],
        ),
        ("splices", libc::SYS_splice, [0, 0, 1, 0, 9, 0]),
        (
            "sets priorities",
            libc::SYS_setpriority,
            [0, pid, 19, 0, 0, 0],
        ),
        ("moves pages", libc::SYS_move_pages, [pid, 0, 0, 0, 0, 0]),
        (
            "advises others",
            libc::SYS_process_madvise,
            [3, nothing, 1, 21, 0, 0],
        ),
    ]
}

#[test]
fn no_attack_succeeds() {
    let mut prey = Prey::new();
    for (plan, where_) in
        [(Plan::default(), "alone"), (on_a_network(), "on a network")]
    {
        for (what, nr, arguments) in attacks(&prey) {
            let ended = attack(&plan, nr, arguments);
            assert!(
                matches!(ended, Ended::Stopped | Ended::Failed(_)),
                "{what} ({where_}), by call {nr}: {ended:?}"
            );
        }
    }
    assert_eq!(prey.victim.try_wait().unwrap(), None, "it lives");
    assert!(!Path::new("/tmp/lguest-attack").exists());
}

/// Attacks against the other walls, while only the filter is open.
#[test]
fn without_the_filter_the_other_walls_hold() {
    let test = "without_the_filter_the_other_walls_hold";
    let mut prey = Prey::new();
    let plan = Plan {
        open: wall::SECCOMP,
        ..Plan::default()
    };
    if !stands(test, &plan) {
        return;
    }
    let pid = prey.pid();
    let passwd = text(c"/etc/passwd");
    let here = c_long::from(libc::AT_FDCWD);
    let create = c_long::from(libc::O_CREAT | libc::O_RDWR);
    let mine = text(c"/tmp/lguest-attack");
    for (what, nr, arguments) in [
        ("reads", libc::SYS_openat, [here, passwd, 0, 0, 0, 0]),
        ("makes", libc::SYS_openat, [here, mine, create, 0o600, 0, 0]),
        ("removes", libc::SYS_unlink, [passwd, 0, 0, 0, 0, 0]),
        (
            "mounts",
            libc::SYS_mount,
            [text(c"x"), text(c"/tmp"), text(c"tmpfs"), 0, 0, 0],
        ),
        ("traces", libc::SYS_ptrace, [16, pid, 0, 0, 0, 0]),
        ("becomes root", libc::SYS_setuid, [0, 0, 0, 0, 0, 0]),
        ("becomes another", libc::SYS_setuid, [1, 0, 0, 0, 0, 0]),
        (
            "names the machine",
            libc::SYS_sethostname,
            [text(c"x"), 1, 0, 0, 0, 0],
        ),
        (
            "runs a program",
            libc::SYS_execve,
            [text(c"/bin/true"), 0, 0, 0, 0, 0],
        ),
    ] {
        let ended = attack(&plan, nr, arguments);
        assert!(matches!(ended, Ended::Failed(_)), "{what}: {ended:?}");
    }
    assert_eq!(prey.victim.try_wait().unwrap(), None);
}

#[test]
fn landlock_alone_keeps_files_ports_and_other_processes() {
    let test = "landlock_alone_keeps_files_ports_and_other_processes";
    let mut prey = Prey::new();
    let plan = only(wall::LANDLOCK);
    if !stands(test, &plan) {
        return;
    }
    let here = c_long::from(libc::AT_FDCWD);
    let arguments = [here, text(c"/etc/passwd"), 0, 0, 0, 0];
    let ended = attack(&plan, libc::SYS_openat, arguments);
    assert_eq!(ended, Ended::Failed(libc::EACCES));
    // These two are younger than Landlock itself.
    let interface = attacker::landlock_interface();
    if interface < 6 {
        println!(
            "SKIPPED {test}: interface {interface} of Landlock has no signals, \
             and perhaps no ports"
        );
        return;
    }
    let address = prey.address();
    let ended = in_confinement(&plan, |_| {
        // SAFETY: makes a socket.
        let socket = unsafe { libc::socket(2, 1, 0) };
        attacker::call(
            libc::SYS_connect,
            [socket.into(), self::address(&address), 16, 0, 0, 0],
        )
    });
    assert_eq!(ended, Ended::Failed(libc::EACCES));
    let ended = attack(&plan, libc::SYS_kill, [prey.pid(), 9, 0, 0, 0, 0]);
    assert_eq!(ended, Ended::Failed(libc::EPERM));
    assert_eq!(prey.victim.try_wait().unwrap(), None);
}

#[test]
fn a_process_that_is_no_view_cannot_be_killed_by_descriptor() {
    let test = "a_process_that_is_no_view_cannot_be_killed_by_descriptor";
    let mut prey = Prey::new();
    if attacker::landlock_interface() < 6 {
        println!("SKIPPED {test}: Landlock here has no rule for signals");
        return;
    }
    let pid = prey.pid();
    let ended = in_confinement(&Plan::default(), |_| {
        let view = attacker::call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]);
        attacker::call(libc::SYS_pidfd_send_signal, [view, 9, 0, 0, 0, 0])
    });
    assert_eq!(ended, Ended::Failed(libc::EPERM));
    assert_eq!(prey.victim.try_wait().unwrap(), None);
}

#[test]
fn threads_that_were_started_before_are_confined_too() {
    let ended =
        attacker::in_an_older_thread(libc::SYS_socket, [2, 1, 0, 0, 0, 0]);
    assert_eq!(ended, Ended::Stopped);
}

#[test]
fn a_process_that_is_stopped_says_why() {
    let (ended, said) =
        attacker::heard(&Plan::default(), libc::SYS_socket, [2, 1, 0, 0, 0, 0]);
    assert_eq!(ended, Ended::Stopped);
    let expected = "lguest: stopped at system call 41, which a launcher does \
                    not make: it has been taken over, or this is a bug in \
                    lguest ('--no-confine=seccomp' tells which)\n";
    assert_eq!(said, expected);
}

/// The `/proc` status of each thread of a process. A thread that ends meanwhile
/// is left out.
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses: Vec<String> = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .collect();
    assert!(!statuses.is_empty());
    statuses
}

/// A Launcher whose Guest is at its prompt.
fn launcher(words: &str) -> Running {
    let running = Running::start(&mut lguest_with(words));
    running.wait_for("lguest guest ready");
    running
}

#[test]
fn all_threads_of_a_real_launcher_are_confined() {
    let running = launcher("");
    for status in threads(running.pid()) {
        for line in
            ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"]
        {
            assert!(status.contains(line), "no {line} in\n{status}");
        }
        let bounds = status.lines().find(|l| l.starts_with("CapBnd"));
        let rights = rustix::thread::capabilities(None).unwrap().effective;
        if rights.contains(rustix::thread::CapabilitySet::SETPCAP) {
            assert_eq!(bounds, Some("CapBnd:\t0000000000000000"));
        }
    }
}

/// Files of a process that is not dumpable belong to root, and its memory can
/// be read only with the right to trace it: a thread without capabilities
/// tries.
#[test]
fn no_other_process_may_look_into_a_real_launcher() {
    let running = launcher("");
    let open = launcher("--no-confine=dumpable --no-confine=namespaces");
    let looks = |pid: u32| {
        let look = move || {
            let none = rustix::thread::CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets {
                effective: none,
                permitted: none,
                inheritable: none,
            };
            rustix::thread::set_capabilities(None, sets).unwrap();
            fs::File::open(format!("/proc/{pid}/mem")).is_ok()
        };
        std::thread::spawn(look).join().unwrap()
    };
    assert!(!looks(running.pid()));
    // The negative control, without any other obstacle.
    if !looks(open.pid()) {
        println!(
            "SKIPPED no_other_process_may_look_into_a_real_launcher: this \
             machine lets no process look into another"
        );
    }
}

/// Files that a confined Launcher reads must be open before.
#[test]
fn a_confined_launcher_keeps_its_guest_on_one_processor() {
    let test = "a_confined_launcher_keeps_its_guest_on_one_processor";
    let processors = std::thread::available_parallelism().unwrap().get();
    if processors < 2 {
        println!("SKIPPED {test}: there is only one processor");
        return;
    }
    let running = launcher("");
    let main = format!("/proc/{}/status", running.pid());
    let status = fs::read_to_string(main).unwrap();
    let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list"));
    let list = line.unwrap().split_whitespace().nth(1).unwrap();
    assert!(list.parse::<u32>().is_ok(), "it may run on {list}");
}

#[test]
fn a_wall_that_is_switched_off_is_absent() {
    let running = launcher("--no-confine=all");
    for status in threads(running.pid()) {
        assert!(status.contains("Seccomp:\t0"), "{status}");
        assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    }
}

/// If a machine refuses a wall, the others are there and the Guest runs.
#[test]
fn a_wall_that_the_machine_lacks_is_left_out() {
    for (nr, error, lacking) in [
        (libc::SYS_unshare, libc::EPERM, "namespaces"),
        (libc::SYS_capset, libc::EPERM, "privileges"),
        (libc::SYS_landlock_create_ruleset, libc::ENOSYS, "landlock"),
    ] {
        let mut command = lguest_with("--verbose");
        refuse(&mut command, nr, error);
        let ended = support::run(&mut command, b"poweroff\n");
        assert_eq!(ended.code(), 0, "{ended:?}");
        for (name, _) in wall::ALL {
            let none = format!("lguest: wall {name}: none: ");
            let is_lacking = ended.stderr.contains(&none);
            assert_eq!(is_lacking, name == lacking, "{ended:?}");
        }
    }
}

#[test]
fn verbose_reports_each_wall() {
    for (words, left_open) in [
        ("--verbose", &[][..]),
        ("run -v --no-confine seccomp", &["seccomp"]),
        (
            "run -v --no-confine landlock --no-confine dumpable",
            &["landlock", "dumpable"],
        ),
    ] {
        let said = support::run(&mut lguest_with(words), b"poweroff\n").stderr;
        for (name, _) in wall::ALL {
            let line = format!("lguest: wall {name}: ");
            let told = said.lines().find_map(|l| l.strip_prefix(&line));
            let told = told.unwrap_or_else(|| panic!("no {name} in {said}"));
            assert_eq!(told == "left open", left_open.contains(&name));
        }
    }
}
