//! Finds the limit that was the reason for an error.
//!
//! The kernel returns the same EAGAIN or ENOMEM for a limit of the user, of a
//! control group and of the whole machine. A look at the limits shows which it
//! was. Files of control groups are opened before the Launcher is confined
//! ([`look_around`]), because it opens nothing afterwards.

#![expect(unsafe_code, reason = "maps and unmaps memory, as a trial")]

use super::Cause;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::Resource;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The Launcher was the machine's root before it was confined.
static ROOT: AtomicBool = AtomicBool::new(false);

/// The limits of the Launcher's control groups.
static GROUPS: Mutex<Vec<Group>> = Mutex::new(Vec::new());

struct Group {
    kind: Kind,
    limit: u64,
    /// The file that counts what the group has, or which of its processes were
    /// killed.
    now: File,
    before: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Processes,
    Memory,
}

/// The limits of this process, as they were before it was confined. A confined
/// Launcher does not ask for them.
static LIMITS: OnceLock<[Option<u64>; OURS.len()]> = OnceLock::new();

/// The limits that can be a cause.
const OURS: [Resource; 8] = [
    Resource::As,
    Resource::Cpu,
    Resource::Data,
    Resource::Fsize,
    Resource::Nofile,
    Resource::Nproc,
    Resource::Sigpending,
    Resource::Stack,
];

/// Reads the limits of this process and of its control groups. Opens files.
pub(crate) fn look_around() {
    LIMITS.get_or_init(|| OURS.map(ask));
    let mine = small("/proc/self/cgroup");
    let found = mine.unwrap_or_default();
    let map = small("/proc/self/uid_map").unwrap_or_default();
    let first = map.split_whitespace().nth(1).unwrap_or("0") == "0";
    // SAFETY: the call returns a number.
    let root = first && unsafe { libc::getuid() } == 0;
    ROOT.store(root, Ordering::Relaxed);
    let found = found
        .lines()
        .flat_map(|line| groups(line).unwrap_or_default());
    *lock() = found.collect();
}

fn lock() -> std::sync::MutexGuard<'static, Vec<Group>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The limits of one line of /proc/self/cgroup: "0::PATH", or
/// "N:CONTROLLERS:PATH" for version 1 of the interface.
fn groups(line: &str) -> Option<Vec<Group>> {
    let mut parts = line.splitn(3, ':');
    let controllers = parts.nth(1)?;
    let path = parts.next()?.trim_start_matches('/');
    let old = |name| controllers.split(',').any(|one| one == name);
    let root = Path::new("/sys/fs/cgroup");
    let mut found = Vec::new();
    if controllers.is_empty() {
        let unified = root.join("unified");
        let root = if unified.is_dir() { &unified } else { root };
        add(&mut found, Kind::Processes, root, path, PROCESSES);
        add(&mut found, Kind::Memory, root, path, MEMORY);
    } else if old("pids") {
        add(
            &mut found,
            Kind::Processes,
            &root.join("pids"),
            path,
            PROCESSES,
        );
    } else if old("memory") {
        add(
            &mut found,
            Kind::Memory,
            &root.join("memory"),
            path,
            OLD_MEMORY,
        );
    }
    Some(found)
}

/// The names of two files: one with a limit, and one that counts.
type Names = [&'static str; 2];
const PROCESSES: Names = ["pids.max", "pids.current"];
const MEMORY: Names = ["memory.max", "memory.events"];
const OLD_MEMORY: Names = ["memory.limit_in_bytes", "memory.oom_control"];

/// Adds the limits of the group at `path` and of its parents.
fn add(
    found: &mut Vec<Group>,
    kind: Kind,
    root: &Path,
    path: &str,
    [limit, now]: Names,
) {
    /// Version 1 of the interface writes "no limit" as a number from here on.
    const NO_LIMIT: u64 = 1 << 60;
    let mut folder: PathBuf = root.join(path);
    while folder.starts_with(root) {
        let text = small(folder.join(limit));
        let limit = text.and_then(|text| text.trim().parse().ok());
        if let Some(limit) = limit.filter(|&limit| limit < NO_LIMIT)
            && let Ok(now) = File::open(folder.join(now))
        {
            let before = read(kind, &now);
            let group = Group {
                kind,
                limit,
                now,
                before,
            };
            found.push(group);
        }
        if !folder.pop() {
            break;
        }
    }
}

/// Reads a small file of the kernel with few system calls, because every start
/// reads some.
fn small(path: impl AsRef<Path>) -> Option<String> {
    let mut text = [0; 4096];
    let len = File::open(path).ok()?.read_at(&mut text, 0).ok()?;
    Some(String::from_utf8_lossy(&text[..len]).into_owned())
}

/// The count in `file`: of processes, or of killed processes.
fn read(kind: Kind, file: &File) -> u64 {
    let mut text = [0; 256];
    let len = file.read_at(&mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..len]);
    let number = match kind {
        Kind::Processes => text.trim().parse().ok(),
        Kind::Memory => text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|n| n.trim().parse().ok()),
    };
    number.unwrap_or(0)
}

/// The limit of a group that has as many processes as it may have.
fn full_group() -> Option<u64> {
    let is_full = |group: &&Group| {
        group.kind == Kind::Processes
            && read(group.kind, &group.now) >= group.limit
    };
    lock().iter().find(is_full).map(|group| group.limit)
}

/// The smallest limit on processes and threads of the Launcher's control
/// groups.
pub(crate) fn processes_of_group() -> Option<u64> {
    let groups = lock();
    let of_processes = groups.iter().filter(|g| g.kind == Kind::Processes);
    of_processes.map(|group| group.limit).min()
}

/// Why a process was killed by SIGKILL.
pub(crate) fn killed() -> Cause {
    let has_killed = |group: &&Group| {
        group.kind == Kind::Memory
            && read(group.kind, &group.now) > group.before
    };
    let group = lock().iter().find(has_killed).map(|group| group.limit);
    let time = limit(Resource::Cpu).map(Cause::ProcessorTime);
    let group = group.map(Cause::MemoryOfGroup);
    group.or(time).unwrap_or(Cause::KilledFromOutside)
}

/// The limit on `resource`; `None` if there is none, or if it is not known.
pub(crate) fn limit(resource: Resource) -> Option<u64> {
    let known = LIMITS.get().zip(OURS.iter().position(|&r| r == resource));
    match known {
        Some((limits, index)) => limits[index],
        None => ask(resource),
    }
}

/// Asks the kernel for a limit. A filter may refuse the call.
fn ask(resource: Resource) -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let resource = match resource {
        Resource::As => libc::RLIMIT_AS,
        Resource::Cpu => libc::RLIMIT_CPU,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Sigpending => libc::RLIMIT_SIGPENDING,
        Resource::Stack => libc::RLIMIT_STACK,
        _ => return None,
    };
    // SAFETY: the kernel writes `limit`.
    let asked = unsafe { libc::getrlimit(resource, &raw mut limit) };
    let finite = asked == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
    finite.then_some(limit.rlim_cur)
}

/// Checks whether there is enough stack for a run.
pub fn stack() -> Option<Cause> {
    /// This is enough also without optimisation.
    const ENOUGH: u64 = 1 << 20;
    let limit = limit(Resource::Stack).filter(|&bytes| bytes < ENOUGH);
    limit.map(Cause::Stack)
}

/// The cause when a timer cannot be made.
pub(super) fn timers() -> Cause {
    Cause::Timers(limit(Resource::Sigpending).unwrap_or(0))
}

/// The cause of an `error`.
pub(super) fn cause_of(error: &io::Error) -> Cause {
    let Some(number) = error.raw_os_error() else {
        return Cause::Other(error.to_string());
    };
    match number {
        libc::EPERM | libc::EACCES | libc::ENOSYS => {
            Cause::Forbidden { error: number }
        }
        libc::EMFILE => Cause::OpenFiles(limit(Resource::Nofile).unwrap_or(0)),
        libc::ENFILE => Cause::OpenFilesOfAll,
        libc::EAGAIN => processes(),
        libc::ENOMEM => memory(),
        libc::EFBIG => Cause::FileSize(limit(Resource::Fsize).unwrap_or(0)),
        _ => Cause::Other(error.to_string()),
    }
}

/// The cause when a process or thread cannot be started.
fn processes() -> Cause {
    if let Some(limit) = full_group() {
        return Cause::ProcessesOfGroup(limit);
    }
    match limit(Resource::Nproc) {
        // The kernel does not apply this limit to root, and in a namespace root
        // cannot be recognised.
        Some(limit) if !ROOT.load(Ordering::Relaxed) => Cause::Processes(limit),
        _ => Cause::ProcessesOfAll,
    }
}

/// The cause when memory cannot be mapped.
pub(super) fn memory() -> Cause {
    /// More than any run maps.
    const PLENTY: u64 = 1 << 40;
    let few = |resource| limit(resource).filter(|&bytes| bytes < PLENTY);
    match (few(Resource::As), few(Resource::Data)) {
        (Some(space), Some(data)) if data < space => Cause::Data(data),
        (Some(space), _) => Cause::AddressSpace(space),
        (None, Some(data)) => Cause::Data(data),
        (None, None) => Cause::Memory,
    }
}

/// The cause when a view cannot map more of the Guest's memory.
pub(crate) fn mappings() -> Cause {
    match memory() {
        Cause::Memory => Cause::Mappings,
        limit => limit,
    }
}

/// Checks whether there is memory for a thread and its signal stack, and more:
/// other threads take memory, too.
///
/// # Errors
///
/// There is none.
pub(crate) fn room_for_a_thread() -> io::Result<()> {
    const ROOM: usize = 1 << 20;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let at = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            ROOM,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    // SAFETY: the mapping was made above, and nothing uses it.
    unsafe { rustix::mm::munmap(at, ROOM) }?;
    Ok(())
}
