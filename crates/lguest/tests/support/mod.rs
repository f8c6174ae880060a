//! Code that the tests share.
//!
//! It runs the command with a time limit, makes folders that are removed, and
//! names tests that cannot run here.
#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong so")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) mod blocking;

pub(crate) mod gdb;

pub(crate) mod later;

pub(crate) mod network;

pub(crate) mod processes;

pub(crate) mod pty;

pub(crate) mod random;

/// After this time, something counts as hanging. It is far more than anything
/// needs, because a test must not fail on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A user without rights and without processes of others: the suite may run
/// twice on a machine.
pub(crate) fn spare_user() -> u32 {
    40_000 + std::process::id() % 20_000
}

/// A port for a program that cannot choose one and say which. The kernel gives
/// ports from 32768 up to every program that asks for any, so another test
/// could have such a port a moment later. This one is below.
pub(crate) fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = std::process::id().wrapping_mul(64).wrapping_add(n);
        let port = 10_000 + u16::try_from(place % 20_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The kernel that asks questions.
pub(crate) fn questions() -> PathBuf {
    guests().join("built/questions")
}

/// The built-in Guest.
pub(crate) fn built_in() -> PathBuf {
    guests().join("built/default")
}

/// The folder of the Guests.
pub(crate) fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests")
}

/// The command under test.
pub(crate) fn lguest() -> Command {
    program(env!("CARGO_BIN_EXE_lguest"))
}

/// `program` as an interactive shell would start it. Signals that end a process
/// have their default effect (`nohup` and `&` in a script ignore some). The
/// loader does not search cargo's libraries (under a limit on data their number
/// makes it fail).
pub(crate) fn program(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    let default_signals = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM]
        {
            #[expect(unsafe_code, reason = "std resets only SIGPIPE")]
            // SAFETY: signal(2) may be called between fork and exec.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "runs between fork and exec")]
    // SAFETY: the closure makes system calls only; it allocates nothing.
    unsafe {
        command.pre_exec(default_signals);
    }
    command
}

/// The command with these words, separated by blanks.
pub(crate) fn lguest_with(words: &str) -> Command {
    let mut command = lguest();
    command.args(words.split_whitespace());
    command
}

/// Runs `command` to its end with `input` typed.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Finished {
    let mut running = Running::start(command);
    running.type_in(input);
    running.close_input();
    running.finish()
}

/// Waits for the end of a process; `None` if it hangs.
pub(crate) fn end_of(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().unwrap() {
            None if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            ended_or_not => return ended_or_not,
        }
    }
}

/// Waits until `count` does not change for a while, and returns it.
pub(crate) fn at_rest<T: PartialEq>(count: impl Fn() -> T) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut last = count();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = count();
        if now == last {
            return now;
        }
        assert!(Instant::now() < deadline, "it keeps changing");
        last = now;
    }
}

/// Waits until a writer has filled the pipe or terminal of which this is the
/// other end, so that the writer waits.
pub(crate) fn wait_until_full(shown: impl AsFd) {
    let deadline = Instant::now() + PATIENCE;
    while at_rest(|| rustix::io::ioctl_fionread(&shown).unwrap()) < 4000 {
        assert!(Instant::now() < deadline, "it is never full");
    }
}

/// How a command ended, and its output.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
}

impl Finished {
    /// The exit code; fails for a command that a signal has ended.
    #[track_caller]
    pub(crate) fn code(&self) -> i32 {
        let code = self.status.code();
        code.unwrap_or_else(|| panic!("killed by a signal: {self:?}"))
    }

    /// The signal that ended it, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Fails unless it ended with `code` and an empty standard error.
    #[track_caller]
    pub(crate) fn ends_well(self, code: i32) -> Self {
        assert_eq!(self.stderr, "", "{self:?}");
        assert_eq!(self.code(), code, "{self:?}");
        self
    }
}

/// A command that runs. Killed if it is dropped before its end.
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Gathered,
    errors: Gathered,
}

impl Running {
    /// Starts `command`. Input, output and errors are pipes, unless they are
    /// set already.
    pub(crate) fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::start_as_is(command)
    }

    /// Starts `command`, whose streams are set up.
    pub(crate) fn start_as_is(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the command starts");
        Self {
            input: child.stdin.take(),
            output: Gathered::from(child.stdout.take()),
            errors: Gathered::from(child.stderr.take()),
            child,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types. If the command has ended, this is no failure.
    pub(crate) fn type_in(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.input {
            let _ = input.write_all(bytes);
        }
    }

    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until `text` has been printed, and returns all that was printed.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.output.wait_for(text, 1, || self.errors.text())
    }

    /// Waits until `text` has been printed `times` times.
    #[track_caller]
    pub(crate) fn wait_for_nth(&self, text: &str, times: usize) -> String {
        self.output.wait_for(text, times, || self.errors.text())
    }

    /// Waits until `text` is on standard error.
    #[track_caller]
    pub(crate) fn wait_for_error(&self, text: &str) -> String {
        self.errors.wait_for(text, 1, || self.output.text())
    }

    /// Waits until `text` is on standard error `times` times.
    #[track_caller]
    pub(crate) fn wait_for_nth_error(&self, text: &str, times: usize) {
        self.errors.wait_for(text, times, || self.output.text());
    }

    /// The output so far.
    pub(crate) fn printed(&self) -> String {
        self.output.text()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it catches `signal`. Before, the signal ends it as it ends
    /// any program. A shell that has not become the command yet does not count.
    pub(crate) fn wait_until_it_catches(&self, signal: i32) {
        let status = format!("/proc/{}/status", self.pid());
        let bit = 1_u64 << (signal - 1);
        let catches = || {
            let status = std::fs::read_to_string(&status).unwrap();
            let value = |name| {
                let line = status.lines().find_map(|l| l.strip_prefix(name));
                line.map(str::trim).unwrap_or_default()
            };
            let caught = u64::from_str_radix(value("SigCgt:"), 16).unwrap_or(0);
            value("Name:").starts_with("lguest") && caught & bit != 0
        };
        let deadline = Instant::now() + PATIENCE;
        while !catches() {
            assert!(Instant::now() < deadline, "it never catches {signal}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until a SIGSTOP has stopped all of its threads. A thread that
    /// still runs may do its work once more.
    pub(crate) fn wait_until_stopped(&self) {
        let tasks = format!("/proc/{}/task", self.pid());
        let stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat"));
            let state = stat.unwrap_or_default();
            let state =
                state.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
            state.is_none_or(|state| state.starts_with(['T', 't']))
        };
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_dir(&tasks).unwrap().flatten().all(stopped) {
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let status = end_of(&mut self.child).unwrap_or_else(|| {
            let said = [self.output.text(), self.errors.text()];
            panic!("it hangs; said {said:?}")
        });
        Finished {
            stdout: self.output.join(),
            stderr: self.errors.join(),
            status,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A stream that is read by a thread.
pub(crate) struct Gathered {
    bytes: Arc<(Mutex<Vec<u8>>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Gathered {
    pub(crate) fn from(stream: Option<impl Read + Send + 'static>) -> Self {
        let bytes: Arc<(Mutex<Vec<u8>>, Condvar)> = Arc::default();
        let reader = stream.map(|mut stream| {
            let into = bytes.clone();
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut part) {
                    into.0.lock().unwrap().extend(&part[..n]);
                    into.1.notify_all();
                }
            })
        });
        Self { bytes, reader }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.0.lock().unwrap()).into_owned()
    }

    pub(crate) fn join(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.text()
    }

    #[track_caller]
    pub(crate) fn wait_for(
        &self,
        text: &str,
        times: usize,
        errors: impl Fn() -> String,
    ) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = self.bytes.0.lock().unwrap();
        loop {
            let all = String::from_utf8_lossy(&bytes).into_owned();
            if all.matches(text).count() >= times {
                return all;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "never said {text:?}, but {all:?} and {:?}",
                errors()
            );
            bytes = self.bytes.1.wait_timeout(bytes, left).unwrap().0;
        }
    }
}

/// A folder that is removed at the end of the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let name = format!("lguest-test-{pid}-{n}-{name}");
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a file, and returns its path.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Makes a copy of a program, and returns its path. Another process writes
    /// it: a descriptor of this one might be in a child of another test for a
    /// moment, and a program that is open for writing cannot be executed.
    pub(crate) fn program(&self, name: &str, from: &Path) -> PathBuf {
        let path = self.path(name);
        let mut copy = tool("cp");
        copy.arg("--preserve=mode").arg("--").arg(from).arg(&path);
        assert!(copy.status().unwrap().success(), "cp {}", path.display());
        path
    }

    /// A copy of the command under test, and its path.
    pub(crate) fn lguest(&self, name: &str) -> PathBuf {
        self.program(name, Path::new(env!("CARGO_BIN_EXE_lguest")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether `program` is in `PATH` or where only root looks.
pub(crate) fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .any(|dir| dir.join(program).is_file())
}

/// A command that may be in a folder that only root has in `PATH`.
pub(crate) fn tool(name: impl AsRef<OsStr>) -> Command {
    let mut command = program(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// Reports that a test cannot run here. The test runner cannot hide this line,
/// and the last line of the run has the number of such tests.
pub(crate) fn skip(name: &str, reason: &str) {
    extern "C" fn sum_up() {
        let skipped = SKIPPED.load(Ordering::Relaxed);
        say(&format!("SKIPPED in all: {skipped}\n"));
    }
    if SKIPPED.fetch_add(1, Ordering::Relaxed) == 0 {
        #[expect(
            unsafe_code,
            reason = "std has no function for the end of a \
                                        process"
        )]
        // SAFETY: the function takes nothing and may be called at any time.
        unsafe {
            libc::atexit(sum_up);
        }
    }
    say(&format!("SKIPPED {name}: {reason}\n"));
}

/// Writes a line in one piece, so that no other output comes in between.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}
