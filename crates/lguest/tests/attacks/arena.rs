//! The surroundings of attacks, and what must be unchanged afterwards.
//!
//! Each boot is on a pseudo-terminal and in a session of its own, as when a
//! user types the command.

use crate::script::Record;
use crate::support::later::Later;
use crate::support::processes::{Process, children};
use crate::support::{PATIENCE, Running, Scratch, guests, lguest, program};
use lguest::machine::signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, pidfd_open, set_child_subreaper,
    set_parent_process_death_signal, test_kill_process_group,
};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, tcgetattr};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockWriteGuard, mpsc,
};
use std::time::{Duration, Instant};

/// The longest that a boot may take, on a busy machine. Some have ten thousand
/// cases.
const LIMIT: Duration = Duration::from_secs(300);

/// How long the end may take after the request, on a busy machine.
const STOPPING: Duration = PATIENCE;

/// A boot is stopped when the Guest prints nothing for this time at least ...
const SILENCE: Duration = Duration::from_millis(700);

/// ... and for so many times the time to its first words. On a busy machine a
/// Guest may print nothing because it does not run.
const STARTS: u32 = 5;

/// ... but not for longer than this.
const LONGEST_SILENCE: Duration = Duration::from_secs(15);

/// The first words of every attacker.
const FIRST_WORDS: &[u8] = b"begin";

/// The Launcher's message about an end that was asked for.
const BY_REQUEST: &str = "lguest: ended by ";

/// The contents of the canary file, and how much of it has been read.
const CANARY: &[u8] = b"the canary sings";
const HEARD: u64 = 4;

/// How a boot is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It ends by itself, or the test fails.
    Never,
    /// By SIGTERM, when nothing has been printed for a while.
    Signal,
    /// By three ^C, typed then.
    Keys,
}

/// A boot.
pub(crate) struct Boot<'a> {
    pub(crate) options: Vec<OsString>,
    pub(crate) line: String,
    pub(crate) script: &'a [Record],
    pub(crate) stop: Stop,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct End {
    /// All that was on the terminal.
    pub(crate) shown: String,
    pub(crate) code: i32,
    /// Whether it was stopped.
    pub(crate) stopped: bool,
}

impl End {
    /// The number of cases, if the Guest has survived all of them.
    pub(crate) fn survived(&self) -> Option<u64> {
        let (_, rest) = self.shown.rsplit_once("survived ")?;
        rest.split_once(' ')?.0.parse().ok()
    }

    /// The last case that was begun.
    pub(crate) fn last(&self) -> Option<u64> {
        let mut lines = self.shown.lines().rev();
        lines.find_map(|line| line.strip_prefix('@')?.trim().parse().ok())
    }

    /// The Launcher's message at the end.
    pub(crate) fn reason(&self) -> Option<&str> {
        let mut lines = self.shown.lines().rev();
        lines.find_map(|line| line.strip_prefix("lguest: "))
    }

    /// The results that steps have shown, by their numbers.
    pub(crate) fn results(&self) -> impl Iterator<Item = (u64, &str)> {
        self.shown.lines().filter_map(|line| {
            let (n, rest) = line.strip_prefix('=')?.split_once(' ')?;
            Some((n.parse().ok()?, rest.trim_end()))
        })
    }
}

/// The surroundings of attacks: files that must not change, and a second Guest.
pub(crate) struct Arena {
    scratch: Scratch,
    canary: File,
    disk: PathBuf,
    contents: Vec<u8>,
    boots: AtomicU64,
    /// The attacker.
    kernel: PathBuf,
}

impl Arena {
    /// For an attacker with the devices of a later release.
    pub(crate) fn later(name: &str, later: Later) -> Self {
        let mut arena = Self::new(name);
        arena.kernel = later.of(&arena.kernel, &arena.scratch);
        arena
    }

    pub(crate) fn new(name: &str) -> Self {
        let me = rustix::process::getpid();
        set_child_subreaper(Some(me)).unwrap();
        let scratch = Scratch::new(name);
        let path = scratch.file("canary", CANARY);
        let mut canary =
            File::options().read(true).write(true).open(path).unwrap();
        canary.seek(SeekFrom::Start(HEARD)).unwrap();
        // Every child inherits it, as from a shell that forgot to close it.
        rustix::io::fcntl_setfd(&canary, rustix::io::FdFlags::empty()).unwrap();
        let contents: Vec<u8> = (0..64_u32 << 10)
            .map(|n| ((n * n) >> 7).to_le_bytes()[0])
            .collect();
        let disk = scratch.file("disk", &contents);
        drop(innocent());
        Self {
            scratch,
            canary,
            disk,
            contents,
            boots: AtomicU64::new(0),
            kernel: guests().join("built/attacks"),
        }
    }

    /// A file of the test's own, which may change.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        self.scratch.file(name, bytes)
    }

    /// Boots the attacker, waits for its end, and checks the surroundings.
    #[track_caller]
    pub(crate) fn boot(&self, boot: &Boot<'_>) -> End {
        let number = self.boots.fetch_add(1, Ordering::Relaxed);
        let mut terminal = Terminal::new();
        let mut command = program("setsid");
        command.arg("--ctty").arg(lguest().get_program());
        command.args(["run", "--kernel"]);
        command.arg(&self.kernel);
        let has_memory = |option: &OsString| option == "--memory";
        if !boot.options.iter().any(has_memory) {
            command.args(["--memory", "16"]);
        }
        let mut disk = OsString::from("--disk=");
        disk.push(&self.disk);
        disk.push(",ro");
        command.arg(disk).args(&boot.options);
        let script = self.scratch.path(&format!("script-{number}"));
        if !boot.script.is_empty() {
            std::fs::write(&script, Record::all_bytes(boot.script)).unwrap();
            command.arg("--initrd").arg(&script);
        }
        command.arg(format!("--append={}", boot.line));
        // No file should appear here.
        let home = self.scratch.path("home");
        std::fs::create_dir_all(&home).unwrap();
        command.current_dir(&home).env("HOME", &home);
        let child = terminal.spawn(&mut command);
        let end = terminal.run_to_the_end(child, boot.stop);
        let _ = std::fs::remove_file(script);
        self.look_around(&terminal, &end);
        if number.is_multiple_of(64) {
            innocent().answers();
        }
        end
    }

    #[track_caller]
    fn look_around(&self, terminal: &Terminal, end: &End) {
        assert!(terminal.is_as_before(), "the terminal has changed: {end:?}");
        let mut canary = &self.canary;
        let heard = canary.stream_position().unwrap();
        assert_eq!(heard, HEARD, "the canary was used: {end:?}");
        let sings = std::fs::read(self.scratch.path("canary")).unwrap();
        assert_eq!(sings, CANARY, "{end:?}");
        let disk = std::fs::read(&self.disk).unwrap();
        assert!(disk == self.contents, "the disk has changed: {end:?}");
        let home = std::fs::read_dir(self.scratch.path("home")).unwrap();
        let left: Vec<_> = home.flatten().map(|e| e.file_name()).collect();
        assert!(left.is_empty(), "{left:?} was left: {end:?}");
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            innocent().answers();
        }
    }
}

/// A pseudo-terminal, and its state before.
struct Terminal {
    keyboard: File,
    terminal: OwnedFd,
    before: Termios,
    shown: Vec<u8>,
}

impl Terminal {
    fn new() -> Self {
        use rustix::fs::{Mode, OFlags};
        let keyboard = openpt(
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )
        .unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal =
            rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        let before = tcgetattr(&terminal).unwrap();
        Self {
            keyboard: keyboard.into(),
            terminal,
            before,
            shown: Vec::new(),
        }
    }

    fn spawn(&self, command: &mut Command) -> Child {
        let end = || self.terminal.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end());
        command.spawn().unwrap()
    }

    fn is_as_before(&self) -> bool {
        let (now, then) = (tcgetattr(&self.terminal).unwrap(), &self.before);
        now.local_modes == then.local_modes
            && now.input_modes == then.input_modes
            && now.output_modes == then.output_modes
            && now.control_modes == then.control_modes
    }

    /// Reads the output until `child` ends.
    #[track_caller]
    fn run_to_the_end(&mut self, mut child: Child, stop: Stop) -> End {
        let pid = Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let start = Instant::now();
        let mut last = start;
        let mut silence = None;
        let mut asked = None;
        loop {
            let mut fds = [
                PollFd::new(&self.keyboard, PollFlags::IN),
                PollFd::new(&process, PollFlags::IN),
            ];
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            poll(&mut fds, Some(&pause)).unwrap();
            let [shown, ended] =
                fds.map(|fd| fd.revents().contains(PollFlags::IN));
            if shown {
                self.read();
                last = Instant::now();
                if silence.is_none() && self.has_begun() {
                    let slow = STARTS * start.elapsed();
                    silence = Some(slow.clamp(SILENCE, LONGEST_SILENCE));
                }
                continue;
            }
            if ended {
                // poll(2) looks at the terminal first. The last words may
                // have been written after that look.
                while self.has_output() {
                    self.read();
                }
                break;
            }
            let late = match asked {
                Some(asked) => Instant::now() > asked + STOPPING,
                None => start.elapsed() > LIMIT,
            };
            if late {
                let _ = kill_process(pid, Signal::KILL);
                panic!("it does not end ({stop:?}): {}", self.text());
            }
            // This waits for the first words. Before them, the Launcher may not
            // catch signals yet, and SIGTERM would end it without a message.
            if asked.is_none()
                && stop != Stop::Never
                && silence.is_some_and(|silence| last.elapsed() > silence)
            {
                asked = Some(Instant::now());
                if stop == Stop::Signal {
                    kill_process(pid, Signal::TERM).unwrap();
                } else {
                    self.type_interrupts();
                }
            }
        }
        let status = child.wait().unwrap();
        let code = status.code().unwrap_or_else(|| {
            panic!("signal {:?} ended it: {}", status.signal(), self.text())
        });
        let wanted = if stop == Stop::Keys { 130 } else { 143 };
        let mut stopped = asked.is_some();
        if stopped && code != wanted {
            // It may have ended by itself before the request arrived.
            let own = !self.text().contains(BY_REQUEST);
            assert!(own, "{code}: {}", self.text());
            stopped = false;
        }
        let waited = !self.text().contains(signals::NOT_WAITED_FOR);
        assert!(waited, "{}", self.text());
        self.wait_for_the_group(pid);
        End {
            shown: self.text().replace("\r\n", "\n"),
            code,
            stopped,
        }
    }

    /// Whether something was printed that has not been read.
    fn has_output(&self) -> bool {
        let mut fds = [PollFd::new(&self.keyboard, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap();
        fds[0].revents().contains(PollFlags::IN)
    }

    /// Reads what was printed. There must be something.
    fn read(&mut self) {
        let mut bytes = [0; 4096];
        let len = self.keyboard.read(&mut bytes).unwrap();
        self.shown.extend(&bytes[..len]);
    }

    /// Whether the attacker has printed its first words.
    fn has_begun(&self) -> bool {
        self.shown
            .windows(FIRST_WORDS.len())
            .any(|w| w == FIRST_WORDS)
    }

    /// Types ^C many times.
    fn type_interrupts(&mut self) {
        self.keyboard.write_all(&[3; 3]).unwrap();
    }

    /// No process of the boot may be left, not even a moment later. Views are
    /// in a session of their own: those that outlive their Launcher become
    /// children of the test, which reaps them. Thousands of boots would leave
    /// as many zombies otherwise.
    #[track_caller]
    fn wait_for_the_group(&self, leader: Pid) {
        let _no_others =
            GUESTS_HERE.read().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + PATIENCE;
        let lives = |orphan: Process| {
            let lives = orphan.lives();
            if !lives {
                orphan.reap();
            }
            lives
        };
        let orphans = || {
            let children = children(std::process::id()).into_iter();
            let views = children.filter(|p| p.name().contains("lguest-vi"));
            views.filter(|&view| lives(view)).count()
        };
        while test_kill_process_group(leader).is_ok() || orphans() != 0 {
            assert!(Instant::now() < deadline, "orphans: {}", self.text());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }
}

/// Written while Guests run in this process and in no Launcher. Their views are
/// children of it, too: no boot may take them for orphans, wait for them, and
/// reap one before the library has seen how it ended.
static GUESTS_HERE: RwLock<()> = RwLock::new(());

/// Keep the result for as long as this process runs a Guest itself.
pub(crate) fn guests_here() -> RwLockWriteGuard<'static, ()> {
    GUESTS_HERE.write().unwrap_or_else(PoisonError::into_inner)
}

/// A second Guest that does not attack.
pub(crate) struct Innocent {
    guest: Running,
    asked: usize,
    pinged: usize,
}

/// The second Guest, which runs beside all attacks.
pub(crate) fn innocent() -> MutexGuard<'static, Innocent> {
    static INNOCENT: OnceLock<Mutex<Innocent>> = OnceLock::new();
    let innocent = INNOCENT.get_or_init(|| {
        // No test owns it, and a static is never dropped. It ends with the
        // thread that started it, so that thread stays until the process ends.
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            send.send(Innocent::new(&[])).unwrap();
            loop {
                std::thread::park();
            }
        });
        Mutex::new(receive.recv().expect("an innocent Guest starts"))
    });
    innocent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Innocent {
    /// It ends when it is dropped, and at the latest with the calling thread,
    /// also if the test is killed.
    pub(crate) fn new(options: &[OsString]) -> Self {
        let mut command = lguest();
        command.args(["run", "--append=quiet"]).args(options);
        #[expect(unsafe_code, reason = "a child must end with its parent")]
        // SAFETY: between fork and exec, only a system call.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL))
                    .map_err(Into::into)
            });
        }
        let guest = Running::start(&mut command);
        guest.wait_for("lguest> ");
        Self {
            guest,
            asked: 0,
            pinged: 0,
        }
    }

    /// A little work with a known result: the number of primes below 5000.
    #[track_caller]
    pub(crate) fn answers(&mut self) {
        self.asked += 1;
        self.guest.type_in(b"run primes 5000\n");
        self.guest.wait_for_nth("result 669\r\n", self.asked);
    }
}

impl Innocent {
    /// Talks to 10.0.0.`host`. The first answers may be missing.
    #[track_caller]
    pub(crate) fn pings(&mut self, host: u32) {
        for _ in 0..5 {
            self.pinged += 1;
            let ping = format!("ping 10.0.0.{host} 4\n");
            self.guest.type_in(ping.as_bytes());
            let said = self.guest.wait_for_nth(" of 4 answered", self.pinged);
            let (before, _) = said.rsplit_once(" of 4 answered").unwrap();
            if !before.ends_with('0') {
                return;
            }
        }
        panic!("no answer: {}", self.guest.printed());
    }
}

/// Adds to the sum that is printed at the end.
pub(crate) fn count(name: &str, cases: u64, boots: u64, ends: &str) {
    static ATTACKS: AtomicU64 = AtomicU64::new(0);
    static CASES: AtomicU64 = AtomicU64::new(0);
    extern "C" fn sum_up() {
        let attacks = ATTACKS.load(Ordering::Relaxed);
        let cases = CASES.load(Ordering::Relaxed);
        say(&format!("attacks: {attacks} attacks, {cases} cases\n"));
    }
    if ATTACKS.fetch_add(1, Ordering::Relaxed) == 0 {
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
    CASES.fetch_add(cases, Ordering::Relaxed);
    say(&format!(
        "attack {name}: {cases} cases, {boots} boots{ends}\n"
    ));
}

/// In one piece, and so that the test runner cannot hide it.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Its owner does not drop it.
#[test]
fn an_innocent_guest_ends_with_its_thread() {
    let started = std::thread::spawn(|| {
        let innocent = Innocent::new(&[]);
        let process = Process::find(innocent.guest.pid()).unwrap();
        std::mem::forget(innocent);
        process
    });
    let process = started.join().unwrap();
    let deadline = Instant::now() + STOPPING;
    while process.lives() {
        assert!(Instant::now() < deadline, "it still runs");
        std::thread::sleep(Duration::from_millis(1));
    }
}
