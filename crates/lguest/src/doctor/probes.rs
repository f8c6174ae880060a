//! The table of what is looked at, and how.
//!
//! Each probe is a function that looks and answers with a [`Finding`]: what
//! was seen, what follows from it, and what to do. Nothing is left behind: what
//! would change this process is done in a copy of it, and interfaces are gone
//! again when they have been made.

use super::attempt::{self, Failure, SharedWord};
use super::finding::{Finding, Probe};
use super::guest::{self, Refusal};
use crate::devices::net::{Tap, TapError};
use crate::engine::{Isolation, clock, no_program};
use crate::memory::{GuestMemory, HUGE_PAGE, executable_file, sealed_file};
use crate::needs::{self, Cause, Lack};
use lg_abi::page::PAGE_SIZE;
use lg_wire::processor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::Resource;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// All of them, in the order of importance: first what Guests need, then what
/// makes them safe, fast and connected, then what developers use.
pub(super) const ALL: &[Probe] = &[
    needed("kernel", kernel),
    needed("fsgsbase", fsgsbase),
    needed("calls", calls),
    needed("32-bit code", code_segment),
    needed("32-bit calls", calls_of_32_bits),
    needed("ldt", ldt),
    needed("memory files", memory_files),
    needed("write+execute", write_and_execute),
    needed("seccomp", seccomp),
    needed("descriptors", descriptors),
    needed("guest", guest),
    useful("isolation", user_processes),
    useful("landlock", landlock),
    useful("namespaces", namespaces),
    useful("capabilities", capabilities),
    useful("tracing", tracing),
    useful("processes", processes),
    useful("address space", address_space),
    useful("mappings", mappings),
    useful("low memory", low_memory),
    useful("locked memory", locked_memory),
    useful("overcommit", overcommit),
    useful("clock", time_stamp_counter),
    useful("processors", processors),
    useful("huge pages", huge_pages),
    useful("keys", protection_keys),
    useful("io_uring", io_uring),
    useful("tap", tap),
    useful("net namespace", net_namespace),
    useful("i686 compiler", compiler),
    useful("mke2fs", || {
        tool(
            "mke2fs",
            "the tests with disks are skipped",
            "e2fsprogs has it",
        )
    }),
    useful("ip", || {
        tool("ip", "the tests with taps are skipped", "iproute2 has it")
    }),
    useful("qemu", || {
        tool(
            "qemu-system-i386",
            "benchmarks compare with nobody else",
            "qemu-system-x86 has it",
        )
    }),
];

const fn needed(name: &'static str, look: fn() -> Finding) -> Probe {
    Probe {
        name,
        needed: true,
        look,
    }
}

const fn useful(name: &'static str, look: fn() -> Finding) -> Probe {
    Probe {
        name,
        needed: false,
        look,
    }
}

/// The cure for an attempt that failed: `usual`, if there is no other reason.
fn cure_for(failure: &Failure, usual: &'static str) -> &'static str {
    match failure {
        Failure::NoCopy(lack) => lack.cause.cure(),
        Failure::Error(_) | Failure::Killed(_) => usual,
    }
}

/// What stands in a file of the kernel's, without the end of its line.
fn setting(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    setting(path)?.parse().ok()
}

fn kernel() -> Finding {
    const OLDEST: (u32, u32) = (5, 11);
    let Some([release, machine]) = attempt::kernel() else {
        return Finding::ok("not told");
    };
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next()?.parse::<u32>().ok();
    let seen = format!("Linux {release}, {machine}");
    match (part(), part()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => {
            Finding::ok(seen)
        }
        _ => Finding::lacks(
            seen,
            "it lacks things that views are made with",
            "take Linux 5.11 or later",
        ),
    }
}

fn fsgsbase() -> Finding {
    match crate::engine::check_processor() {
        Ok(()) => Finding::ok("segment bases are set by instructions"),
        Err(lack) => {
            Finding::of_lack(&lack, "threads of a guest have no segments")
        }
    }
}

/// Tries all system calls of a start, in a copy, which may be killed for one.
fn calls() -> Finding {
    let ok = || Finding::ok("none of a start is refused");
    let lacks = |lack: &Lack| Finding {
        deadly: matches!(lack.cause, Cause::Killed { .. }),
        ..Finding::of_lack(lack, "no guest starts")
    };
    let in_here = || needs::refused(|_| ());
    let Ok(word) = SharedWord::new() else {
        return in_here().map_or_else(ok, |lack| lacks(&lack));
    };
    let tried =
        attempt::in_a_copy(|| match needs::refused(|index| word.set(index)) {
            None => Ok(()),
            Some(lack) => Err(lack.cause.errno()),
        });
    let lack = match tried {
        Ok(()) => None,
        Err(Failure::Error(_)) => in_here(),
        Err(Failure::NoCopy(lack)) => in_here().or(Some(lack)),
        Err(Failure::Killed(_)) => needs::killed_for(word.get()),
    };
    lack.map_or_else(ok, |lack| lacks(&lack))
}

fn code_segment() -> Finding {
    let selector = processor::KERNEL_CODE;
    match attempt::rights_of(selector) {
        Some(rights) if processor::is_32_bit_code(rights) => {
            Finding::ok(format!("selector {selector:#x}"))
        }
        _ => Finding::lacks(
            "no segment for it",
            "guests are 32-bit programs",
            Cause::No32BitCode.cure(),
        ),
    }
}

fn calls_of_32_bits() -> Finding {
    match attempt::in_a_copy(attempt::call_by_the_32_bit_door) {
        Ok(()) => Finding::ok("they can be caught"),
        Err(failure) => Finding::lacks(
            format!("they cannot be caught ({failure})"),
            "a guest's programs fail at their first system call",
            cure_for(
                &failure,
                "a container must not kill for calls of 32-bit programs; the \
                 kernel needs IA32_EMULATION",
            ),
        ),
    }
}

fn ldt() -> Finding {
    match attempt::in_a_copy(attempt::make_segment) {
        Ok(()) => Finding::ok("segments can be made"),
        Err(failure) => {
            let call = "modify_ldt";
            let cause = match failure {
                Failure::Error(error) => Cause::Refused { call, error },
                Failure::Killed(_) => Cause::Killed { call },
                Failure::NoCopy(lack) => lack.cause,
            };
            let lack = Lack::new("make segments", cause);
            Finding::of_lack(&lack, "user programs of a guest have no segments")
        }
    }
}

fn memory_files() -> Finding {
    const CONSEQUENCE: &str =
        "a guest's memory and its first program are such files";
    const CURE: &str = "set vm.memfd_noexec to 0 or 1; a container must allow \
                        memfd_create and execveat";
    let lacks = |lack: &Lack| Finding::of_lack(lack, CONSEQUENCE);
    if let Err(error) = sealed_file("lguest-doctor", PAGE_SIZE.into()) {
        return lacks(&Lack::when("make memory files", error));
    }
    let program = match executable_file("lguest-doctor") {
        Ok(file) => fs::File::from(file),
        Err(error) => return lacks(&no_program(error)),
    };
    if let Err(error) = (&program).write_all(NOTHING_BUT_AN_END) {
        return lacks(&Lack::when("write memory files", error));
    }
    match attempt::in_a_copy(|| attempt::run_program(&program)) {
        Ok(()) => Finding::ok("sealed, and executed"),
        Err(failure) => Finding::lacks(
            format!("none can be executed ({failure})"),
            CONSEQUENCE,
            cure_for(&failure, CURE),
        ),
    }
}

fn write_and_execute() -> Finding {
    const CONSEQUENCE: &str = "a guest's pages are both";
    let flags = MemfdFlags::CLOEXEC;
    let tried = rustix::fs::memfd_create("lguest-doctor", flags)
        .and_then(attempt::write_and_execute);
    let doing = "map memory that is written and executed";
    match tried {
        Ok(()) => Finding::ok("memory may be both"),
        Err(Errno::ACCESS | Errno::PERM) => Finding::of_lack(
            &Lack::new(doing, Cause::WriteExecute),
            CONSEQUENCE,
        ),
        Err(error) => Finding::of_lack(&Lack::when(doing, error), CONSEQUENCE),
    }
}

/// A program of 64 bits that ends with status 0: headers of an ELF file, and
/// `xor edi, edi; mov eax, 231; syscall`.
const NOTHING_BUT_AN_END: &[u8; 129] = &{
    let mut file = [0; 129];
    let parts: [(usize, &[u8]); 12] = [
        (0, b"\x7fELF\x02\x01\x01"),
        (16, &[2, 0, 62, 0, 1]),
        (24, &[0x78, 0, 0x40]),
        (32, &[64]),
        (52, &[64, 0, 56, 0, 1]),
        (64, &[1, 0, 0, 0, 5]),
        (80, &[0, 0, 0x40]),
        (88, &[0, 0, 0x40]),
        (96, &[129]),
        (104, &[129]),
        (112, &[0, 16]),
        (120, &[0x31, 0xFF, 0xB8, 231, 0, 0, 0, 0x0F, 5]),
    ];
    let mut part = 0;
    while part < parts.len() {
        let (at, bytes) = parts[part];
        let mut i = 0;
        while i < bytes.len() {
            file[at + i] = bytes[i];
            i += 1;
        }
        part += 1;
    }
    file
};

fn seccomp() -> Finding {
    const ALL_THREADS: usize = 1;
    const ASK_SOMEBODY: usize = 8;
    // `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
    const AND_STAND_STILL: usize = 1 << 5;
    let installed = attempt::in_a_copy(|| attempt::install_filter(ALL_THREADS));
    if let Err(failure) = installed {
        let call = "seccomp";
        let cause = match failure {
            Failure::Error(error) => Cause::Refused { call, error },
            Failure::Killed(_) => Cause::Killed { call },
            Failure::NoCopy(lack) => lack.cause,
        };
        let lack = Lack::new("install a filter", cause);
        return Finding::of_lack(&lack, "a guest could make any system call");
    }
    let asks = |flags| attempt::in_a_copy(|| attempt::install_filter(flags));
    let seen = "filters, for all threads at once";
    if asks(ASK_SOMEBODY | AND_STAND_STILL).is_ok() {
        return Finding::ok(format!(
            "{seen}, and can ask while a process stands still"
        ));
    }
    let limit = match asks(ASK_SOMEBODY) {
        Ok(()) => "can ask, but a signal lets go who is asked about",
        Err(_) => "cannot ask",
    };
    Finding::degraded(
        format!("{seen}, which {limit}"),
        "no --isolation=user",
        "take Linux 5.19 or later; a container must allow seccomp",
    )
}

fn descriptors() -> Finding {
    /// Fewer are too few for a console alone.
    const NEEDED: u64 = 19;
    const PLENTY: u64 = 256;
    let limit = needs::limit(Resource::Nofile);
    let cure = "raise it (`ulimit -n 1024`)";
    match limit {
        Some(limit) if limit < NEEDED => Finding::lacks(
            format!("{limit} descriptors"),
            "a guest's processes cannot be started",
            cure,
        ),
        Some(limit) if limit < PLENTY => Finding::degraded(
            format!("{limit} descriptors"),
            "a network of many guests, or a guest with many page \
             directories, may not find enough",
            cure,
        ),
        Some(limit) => Finding::ok(format!("{limit} descriptors")),
        None => Finding::ok("no limit"),
    }
}

fn guest() -> Finding {
    match guest::run(Isolation::Guest) {
        Ok(()) => Finding::ok("the built-in one runs"),
        Err(Refusal { said, cure }) => Finding::lacks(
            format!("the built-in one does not run: {said}"),
            "none will",
            cure,
        ),
    }
}

/// Runs it with its programs in processes of their own.
fn user_processes() -> Finding {
    match guest::run(Isolation::User) {
        Ok(()) => Finding::ok("a guest's programs can have their own"),
        Err(Refusal { said, cure }) => Finding::lacks(
            format!("the built-in guest does not run in them: {said}"),
            "no --isolation=user",
            cure,
        ),
    }
}

fn landlock() -> Finding {
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

fn namespaces() -> Finding {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWIPC;
    match attempt::in_a_copy(|| attempt::leave(flags)) {
        Ok(()) => Finding::ok("user and IPC namespaces"),
        Err(failure) => Finding::lacks(
            format!("none ({failure})"),
            "the launcher does without one of its walls",
            cure_for(
                &failure,
                "raise user.max_user_namespaces; a container must allow unshare",
            ),
        ),
    }
}

fn capabilities() -> Finding {
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

fn tracing() -> Finding {
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

fn processes() -> Finding {
    /// Views and their user processes, and a few threads.
    const PLENTY: u64 = 128;
    if let Some(limit) = needs::processes_of_group().filter(|&n| n < PLENTY) {
        return Finding::degraded(
            format!("{limit} processes and threads for this control group"),
            "a guest has one for each of its page directories, up to a \
             bound, and is slower with fewer",
            Cause::ProcessesOfGroup(limit).cure(),
        );
    }
    match needs::limit(Resource::Nproc) {
        Some(limit) if limit < PLENTY => Finding::degraded(
            format!("{limit} processes for all of the user's"),
            "a guest has one for each of its page directories, up to a \
             bound, and is slower with fewer",
            "raise it (`ulimit -u`)",
        ),
        Some(limit) => Finding::ok(format!("{limit} processes")),
        None => Finding::ok("no limit"),
    }
}

fn address_space() -> Finding {
    /// The 4 GiB of a Guest, its memory once more, and ours.
    const PLENTY: u64 = 16 << 30;
    match needs::limit(Resource::As) {
        Some(limit) if limit < PLENTY => Finding::degraded(
            format!("{} MiB for each process", limit >> 20),
            "large guests do not fit, and small ones may stop when they grow",
            "lift it (`ulimit -v unlimited`)",
        ),
        _ => Finding::ok("no limit that matters"),
    }
}

fn mappings() -> Finding {
    const USUAL: u64 = 65530;
    match number("/proc/sys/vm/max_map_count") {
        Some(count) if count >= USUAL => {
            Finding::ok(format!("{count} for each process"))
        }
        None => Finding::ok("not told, for want of /proc"),
        Some(count) => Finding::degraded(
            format!("{count} for each process"),
            "memory in many pieces is dropped and mapped again",
            "raise vm.max_map_count",
        ),
    }
}

fn low_memory() -> Finding {
    /// Where Linux and others put the lowest programs.
    const LOWEST_PROGRAM: u64 = 64 << 10;
    match number("/proc/sys/vm/mmap_min_addr") {
        Some(lowest) if lowest > LOWEST_PROGRAM => Finding::degraded(
            format!("{} KiB are never mapped", lowest >> 10),
            "a guest's programs find nothing there",
            "lower vm.mmap_min_addr to 65536",
        ),
        Some(lowest) => {
            Finding::ok(format!("{} KiB are never mapped", lowest >> 10))
        }
        None => Finding::ok("not told, for want of /proc"),
    }
}

fn locked_memory() -> Finding {
    // Told because people ask: nothing of a Guest is locked.
    match needs::limit(Resource::Memlock) {
        Some(limit) => {
            Finding::ok(format!("{} KiB, and not used", limit >> 10))
        }
        None => Finding::ok("no limit, and not used"),
    }
}

fn overcommit() -> Finding {
    const STRICT: u64 = 2;
    match number("/proc/sys/vm/overcommit_memory") {
        Some(STRICT) => Finding::degraded(
            "never",
            "each view is counted as if it used all that it could",
            "set vm.overcommit_memory to 0",
        ),
        Some(_) => Finding::ok("memory counts when it is used"),
        None => Finding::ok("not told, for want of /proc"),
    }
}

fn time_stamp_counter() -> Finding {
    if clock::is_invariant() {
        Finding::ok("the counter runs at one speed")
    } else {
        Finding::degraded(
            "the counter changes its speed",
            "guests ask for the time at every tick, and know no finer one",
            "none, on this processor or virtual machine",
        )
    }
}

fn processors() -> Finding {
    match std::thread::available_parallelism().map(usize::from) {
        Ok(1) => Finding::degraded(
            "one",
            "guest and devices take turns",
            "allow more (`taskset`)",
        ),
        Ok(count) => Finding::ok(count.to_string()),
        Err(error) => Finding::ok(error.to_string()),
    }
}

/// Makes one of memory that is in use, as is done for Guests.
fn huge_pages() -> Finding {
    let make = || -> io::Result<()> {
        let memory = GuestMemory::new(HUGE_PAGE, 1)?;
        for page in (0..HUGE_PAGE).step_by(PAGE_SIZE as usize) {
            memory.write(page, &[1]).map_err(io::Error::other)?;
        }
        memory.collapse(0)
    };
    match make() {
        Ok(()) => Finding::ok("what a guest has used in whole becomes one"),
        Err(error) => Finding::degraded(
            format!("none can be made ({error})"),
            "programs that go through much memory are slower",
            "run Linux 6.1 or later, and do not write 'deny' to \
             /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        ),
    }
}

fn protection_keys() -> Finding {
    match attempt::in_a_copy(attempt::take_key) {
        Ok(()) => Finding::ok("there are some"),
        Err(failure) => Finding::lacks(
            format!("none ({failure})"),
            "nothing: no guest needs them",
            cure_for(&failure, "none, on this processor or virtual machine"),
        ),
    }
}

fn io_uring() -> Finding {
    match attempt::in_a_copy(attempt::make_ring) {
        Ok(()) => Finding::ok("there is, and is not used"),
        Err(failure) => Finding::lacks(
            failure.to_string(),
            "nothing: it is not used",
            cure_for(&failure, "set kernel.io_uring_disabled to 0"),
        ),
    }
}

/// Makes an interface, which is gone again at once. No address is given.
fn tap() -> Finding {
    match Tap::probe() {
        Ok(()) => Finding::ok("interfaces can be made"),
        Err(error) => Finding::lacks(
            match error {
                TapError::NotPermitted => "no permission".into(),
                other => other.to_string(),
            },
            "no network with this machine (--tunnet, --net tap=)",
            "run as root or with CAP_NET_ADMIN, with the module tun; \
             sharenet needs neither",
        ),
    }
}

fn net_namespace() -> Finding {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS;
    match attempt::in_a_copy(|| attempt::leave(flags)) {
        Ok(()) => Finding::ok("of network and mounts, with one of users"),
        Err(failure) => Finding::lacks(
            format!("none ({failure})"),
            "nothing for guests; tests with taps have no network of their own",
            cure_for(&failure, "raise user.max_user_namespaces"),
        ),
    }
}

/// As guests/toolchain.sh looks for it.
fn compiler() -> Finding {
    const TARGET: &str = "i686-unknown-linux-gnu";
    const CONSEQUENCE: &str =
        "guests cannot be built here; those that are built are in guests/built";
    const CURE: &str = "`rustup target add i686-unknown-linux-gnu`, or \
                        LGUEST_I686_RUSTC";
    let named = std::env::var_os("LGUEST_I686_RUSTC").map(PathBuf::from);
    let rustc = named.or_else(|| find("rustc"));
    let has_target = |rustc: &Path| {
        let libraries = printed_by(Command::new(rustc).args([
            "--print",
            "target-libdir",
            "--target",
            TARGET,
        ]));
        let libraries = libraries.and_then(|l| fs::read_dir(l.trim()).ok());
        libraries.is_some_and(|mut files| {
            files.any(|file| {
                let name = file.map(|file| file.file_name());
                name.is_ok_and(|n| {
                    n.as_encoded_bytes().starts_with(b"libcore-")
                })
            })
        })
    };
    match rustc {
        Some(rustc) if has_target(&rustc) => {
            Finding::ok(rustc.display().to_string())
        }
        _ if find("apt-get").is_some() && find("dpkg-deb").is_some() => {
            Finding::degraded(
                "none, but apt",
                "guests/toolchain.sh fetches one, where Debian 12 can be \
                 reached",
                CURE,
            )
        }
        _ => Finding::lacks("none", CONSEQUENCE, CURE),
    }
}

/// What another program prints. One that hangs, under some limit, say, is
/// ended.
fn printed_by(command: &mut Command) -> Option<String> {
    const PATIENCE: Timespec = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let command = command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let (mut printed, mut part) = (Vec::new(), [0; 1024]);
    loop {
        let mut ready = [PollFd::new(&stdout, PollFlags::IN)];
        match poll(&mut ready, Some(&PATIENCE)) {
            Err(Errno::INTR) => continue,
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
        match stdout.read(&mut part) {
            Ok(n @ 1..) => printed.extend(&part[..n]),
            _ => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    String::from_utf8(printed).ok()
}

fn tool(name: &str, consequence: &'static str, cure: &'static str) -> Finding {
    match find(name) {
        Some(path) => Finding::ok(path.display().to_string()),
        None => Finding::lacks("not found", consequence, cure),
    }
}

/// A program, by the usual ways and where only root looks.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
