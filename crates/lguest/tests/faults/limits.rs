//! Limits: of descriptors, memory, processes, timers.
//!
//! Under each limit, the Launcher starts and works, or one line says what is
//! missing. It never hangs, panics, or leaves a process behind.

use crate::support::processes::{
    Process, children, wait_until_the_user_has_no_processes,
};
use crate::support::{
    Finished, Running, Scratch, guests, is_here, lguest, program, questions,
    run, skip, spare_user, tool,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `command` under limits, as prlimit writes them.
fn under(limits: &[&str], command: &Command) -> Command {
    let mut limited = tool("prlimit");
    limited.args(limits.iter().map(|limit| format!("--{limit}")));
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

/// The result of a program that the machine cannot start at all.
const NOT_STARTED: &str = "(does not start)";

/// Whether the machine loads the program under these limits: `--version` needs
/// nothing else.
fn is_loaded(limits: &[&str]) -> bool {
    let mut command = under(limits, lguest().arg("--version"));
    run(&mut command, b"").status.code() == Some(0)
}

/// Runs a command. It must succeed, or fail with one line. Returns that line,
/// or nothing.
#[track_caller]
fn works_or_says_why(command: &mut Command, typed: &[u8]) -> String {
    let end = run(command, typed);
    if end.status.code() == Some(0) {
        assert_eq!(end.stderr, "", "{command:?}");
        return String::new();
    }
    let Finished { stderr, .. } = &end;
    assert_eq!(end.code(), 121, "{command:?}: {end:?}");
    assert!(stderr.starts_with("lguest: "), "{command:?}: {end:?}");
    assert_eq!(stderr.lines().count(), 1, "{command:?}: {end:?}");
    stderr.trim_end().to_owned()
}

/// Input that shows that the Guest and its programs work.
const LINES: &[u8] = b"run primes 100\necho it works\npoweroff\n";

/// Tries each of `limits`. The last one must be enough. Returns all messages.
#[track_caller]
fn from_too_little_to_enough(limits: &[String]) -> BTreeSet<String> {
    let mut said = BTreeSet::new();
    for (n, limit) in limits.iter().enumerate() {
        let mut command = under(&[limit], &lguest());
        let words = match is_loaded(&[limit]) {
            true => works_or_says_why(&mut command, LINES),
            false => NOT_STARTED.into(),
        };
        println!("{limit}: {words}");
        let enough = n + 1 == limits.len();
        assert!(!enough || words.is_empty(), "{limit}: {words}");
        said.insert(words);
    }
    said
}

fn is_limited(test: &str) -> bool {
    let here = is_here("prlimit");
    if !here {
        skip(test, "there is no prlimit");
    }
    here
}

#[test]
fn descriptors() {
    if !is_limited("descriptors") {
        return;
    }
    let limits: Vec<_> = (3..34).map(|n| format!("nofile={n}")).collect();
    let said = from_too_little_to_enough(&limits);
    let reason = "this process may open only ";
    assert!(said.iter().any(|words| words.contains(reason)), "{said:?}");
}

#[test]
fn address_space() {
    if !is_limited("address_space") {
        return;
    }
    let mb = [8, 16, 24, 32, 96, 1024];
    let limits = mb.map(|mb| format!("as={}", mb << 20));
    let said = from_too_little_to_enough(&limits);
    let reason = "MB of memory for the guest: a process may have only";
    assert!(said.iter().any(|words| words.contains(reason)), "{said:?}");
}

#[test]
fn limits_on_locks_core_files_private_memory_and_stacks() {
    let test = "limits_on_locks_core_files_private_memory_and_stacks";
    if !is_limited(test) {
        return;
    }
    for limits in [
        ["memlock=0", "core=0"],
        ["memlock=0", "core=unlimited"],
        ["rss=1", "msgqueue=0"],
        ["nice=0", "rtprio=0"],
        ["stack=1048576", "data=67108864"],
    ] {
        let mut command = under(&limits, &lguest());
        assert_eq!(works_or_says_why(&mut command, LINES), "", "{limits:?}");
    }
    let limits = [256, 512, 1024, 2048, 4096, 8192, 16384, 65536];
    let limits = limits.map(|kb| format!("data={}", kb << 10));
    let said = from_too_little_to_enough(&limits);
    let reason = "cannot map the guest's memory";
    assert!(said.iter().any(|words| words.contains(reason)), "{said:?}");
    let unclear = "Broken pipe";
    assert!(
        !said.iter().any(|words| words.contains(unclear)),
        "{said:?}"
    );
}

#[test]
fn timers() {
    if !is_limited("timers") {
        return;
    }
    let mut command = under(&["sigpending=0"], &lguest());
    let said = works_or_says_why(&mut command, LINES);
    assert!(said.contains("cannot have a timer"), "{said}");
}

/// A copy of `file` that every user may use.
fn copy(scratch: &Scratch, file: &Path) -> PathBuf {
    scratch.program(file.file_name().unwrap().to_str().unwrap(), file)
}

/// `command`, by a user who may have that many processes and threads.
fn with_processes(count: usize, command: &Command) -> Command {
    let mut limited = tool("setpriv");
    let user = spare_user().to_string();
    limited.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    limited.args(["--bounding-set=-all", "--inh-caps=-all"]);
    let command = under(&[&format!("nproc={count}")], command);
    limited.arg(command.get_program()).args(command.get_args());
    limited
}

#[test]
fn processes() {
    if !rustix::process::geteuid().is_root() {
        return skip("processes", "not root: this user has other processes");
    }
    if !is_here("prlimit") || !is_here("setpriv") {
        return skip("processes", "there is no prlimit or no setpriv");
    }
    let scratch = Scratch::new("processes");
    let copied = copy(&scratch, Path::new(env!("CARGO_BIN_EXE_lguest")));
    let mut said = BTreeSet::new();
    for count in 1..14 {
        let mut command = with_processes(count, &program(&copied));
        let words = works_or_says_why(&mut command, b"echo hello\npoweroff\n");
        println!("{count}: {words}");
        assert!(count < 13 || words.is_empty(), "{words}");
        said.insert(words);
        wait_until_the_user_has_no_processes();
    }
    let reason = "this user may have only ";
    assert!(said.iter().any(|words| words.contains(reason)), "{said:?}");
    // A Guest with forty page directories works with fewer processes.
    let kernel = copy(&scratch, &questions());
    let mut command = program(&copied);
    command.args(["run", "--memory=16", "--kernel"]).arg(kernel);
    command.arg("--append=ask=forty_directories");
    let many = run(&mut with_processes(100, &command), b"").ends_well(0);
    for count in [8, 10, 12, 20] {
        wait_until_the_user_has_no_processes();
        let few = run(&mut with_processes(count, &command), b"");
        assert_eq!(few.ends_well(0).stdout, many.stdout, "{count}");
    }
}

#[test]
fn descriptors_for_a_guest_with_many_page_directories() {
    let test = "descriptors_for_a_guest_with_many_page_directories";
    if !is_limited(test) {
        return;
    }
    let mut command = lguest();
    command
        .args(["run", "--memory=16", "--kernel"])
        .arg(questions());
    command.arg("--append=ask=forty_directories");
    let many = run(&mut command, b"").ends_well(0).stdout;
    for count in [30, 34, 40, 50] {
        let limit = format!("nofile={count}");
        let mut command = under(&[&limit], &command);
        let guest = Running::start(&mut command);
        // A process that could not be watched does not stay beside those that
        // are watched.
        let pid = guest.pid();
        let end = guest.finish().ends_well(0);
        assert_eq!(end.stdout, many, "{count}");
        assert!(children(pid).is_empty());
    }
}

/// Limits the address space of all processes of a guest to what the largest of
/// them has, and `more` bytes.
fn limit_address_space(guest: &Running, more: u64) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let size = |process: &Process| {
        let status = format!("/proc/{}/status", process.pid);
        let status = std::fs::read_to_string(status).unwrap();
        let size = status.lines().find_map(|l| l.strip_prefix("VmSize:"));
        let size = size.and_then(|text| text.trim().strip_suffix(" kB"));
        size.map_or(0, |text| text.parse::<u64>().unwrap() << 10)
    };
    let all = children(guest.pid());
    let limit = all.iter().map(size).max().unwrap() + more;
    for process in all {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        prlimit(pid, Resource::As, limit).unwrap();
    }
}

#[test]
fn room_for_mappings() {
    // Too little address space has the same effect as too many mappings: mmap
    // fails. The Host drops its mappings and goes on.
    let scratch = Scratch::new("room");
    let mut overflowed = false;
    // At one of these steps there is room for one page and not for the two that
    // an instruction needs.
    for pages in (0..24).chain((24..128).step_by(8)) {
        let stats = scratch.path("stats");
        let mut command = lguest();
        command.args(["run", "--append=quiet"]);
        command.arg(format!("--stats={}", stats.display()));
        let mut guest = Running::start(&mut command);
        guest.wait_for("lguest> ");
        limit_address_space(&guest, pages << 12);
        guest.type_in(b"run stack 100\nrun primes 100\npoweroff\n");
        let end = guest.finish();
        if end.status.code() == Some(0) {
            assert!(end.stdout.contains("result 25"), "{pages}: {end:?}");
            let stats = std::fs::read_to_string(&stats).unwrap();
            overflowed |= stats.contains("\"overflows\"");
        } else {
            assert!(end.stderr.starts_with("lguest: "), "{pages}: {end:?}");
        }
    }
    assert!(overflowed, "there was always enough");
}

/// There is memory for the Launcher's threads, or a sentence says that there is
/// too little. The standard library panics in a thread that has no memory for
/// its signal stack. This is a matter of a few pages.
#[test]
fn room_for_threads() {
    if !is_limited("room_for_threads") {
        return;
    }
    let mut too_little = false;
    for kib in (26 << 10..28 << 10).step_by(16) {
        let limit = format!("as={}", kib << 10);
        let mut command = lguest();
        command.args(["run", "--memory=16", "--append=quiet"]);
        let end = run(&mut under(&[&limit], &command), b"poweroff\n");
        if end.status.code() != Some(0) {
            assert!(end.stderr.starts_with("lguest: "), "{limit}: {end:?}");
            too_little = true;
        }
    }
    assert!(too_little, "there was room for everything");
}

/// A control group with little memory. Dropping it removes it.
struct Group(PathBuf);

impl Group {
    /// `None` if it cannot be made here.
    fn new(bytes: usize) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let place = |line: &str| {
            let mut parts = line.splitn(3, ':');
            let controllers = parts.nth(1)?;
            let path = parts.next()?.trim_start_matches('/');
            let (root, limit) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            let name = format!("lguest-test-{}", std::process::id());
            let group = Path::new(root).join(path).join(name);
            std::fs::create_dir(&group).ok()?;
            let group = Self(group);
            std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        };
        own.lines().find_map(place)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Zombies are gone a moment later.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn memory_that_the_machine_does_not_have() {
    let test = "memory_that_the_machine_does_not_have";
    let Some(group) = Group::new(48 << 20) else {
        return skip(test, "no control group can be made");
    };
    let scratch = Scratch::new("pressure");
    let disk = scratch.file("disk", &[0; 64 * 512]);
    let initrd = scratch.file("initrd", &vec![0x55; 100 << 20]);
    // As Launcher: it fills the Guest's memory before anything runs. As
    // view: the Guest fills it.
    for words in [
        format!("run --memory 256M --initrd {}", initrd.display()),
        format!("run --memory 256M --disk {}", disk.display()),
    ] {
        let mut command = program("sh");
        let script = "echo $$ > \"$1/cgroup.procs\"; shift; exec \"$@\"";
        command.args(["-c", script, "sh"]).arg(&group.0);
        command.arg(env!("CARGO_BIN_EXE_lguest"));
        command.args(words.split_whitespace());
        let mut guest = Running::start(&mut command);
        guest.type_in(b"run primes 1000\necho it works\npoweroff\n");
        let pid = guest.pid();
        let end = guest.finish();
        println!("{words}: {end:?}");
        // The machine's kernel chooses which process it kills. The others end,
        // too.
        match end.status.code() {
            None => assert_eq!(end.signal(), Some(libc::SIGKILL)),
            Some(0) => assert!(end.stdout.contains("\nit works")),
            Some(code) => {
                assert_eq!(code, 122, "{end:?}");
                assert!(end.stderr.contains("SIGKILL"), "{end:?}");
            }
        }
        for child in children(pid) {
            child.wait_until_gone();
        }
    }
    assert!(guests().exists());
}
