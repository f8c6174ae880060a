//! Machines to test: their files, their start, and their console.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::Winsize;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) const VMLINUX: &str = "LGUEST_TEST_VMLINUX";
pub(crate) const BZIMAGE: &str = "LGUEST_TEST_BZIMAGE";
pub(crate) const INITRD: &str = "LGUEST_TEST_INITRD";
pub(crate) const ROOTFS: &str = "LGUEST_TEST_ROOTFS";
pub(crate) const OTHERS: &str = "LGUEST_TEST_OTHERS";

/// Tests that could not run, because something is missing.
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Reports that `test` is skipped. Cargo cannot hide this line.
pub(crate) fn skip(test: &str, why: &str) {
    let n = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // In one piece, so that no line of another test gets into it.
    let line = format!("SKIPPED ({n}) {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The files of a test, and its turn to run.
pub(crate) struct Given {
    files: Vec<(&'static str, PathBuf)>,
    /// The turn, except in what [`Given::each_kernel`] returns.
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Given {
    /// Waits for the turn of `test`, and returns its files; `None` if it is
    /// skipped.
    pub(crate) fn to(test: &str, needs: &[&'static str]) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let mut files = Vec::new();
        for &name in needs {
            let Some(path) = std::env::var_os(name) else {
                skip(test, &format!("give {name}"));
                return None;
            };
            files.push((name, PathBuf::from(path)));
        }
        // A test that failed has had its turn, too.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let _turn = Some(turn);
        Some(Self { files, _turn })
    }

    /// The same files with each kernel: the usual one, and the others.
    pub(crate) fn each_kernel(&self) -> Vec<Self> {
        let others = std::env::split_paths(self.path(OTHERS));
        std::iter::once(self.path(VMLINUX).to_owned())
            .chain(others)
            .map(|kernel| Self {
                files: vec![
                    (VMLINUX, kernel),
                    (INITRD, self.path(INITRD).to_owned()),
                ],
                _turn: None,
            })
            .collect()
    }

    pub(crate) fn path(&self, name: &str) -> &Path {
        let file = self.files.iter().find(|(known, _)| *known == name);
        &file.unwrap().1
    }

    /// What the names of disks begin with in this kernel: those of 2007 have
    /// drivers of their own, later ones virtio.
    pub(crate) fn disks(&self) -> &'static str {
        match self.is_of_2007() {
            true => "/dev/lgb",
            false => "/dev/vd",
        }
    }

    /// Whether the kernel is Linux 2.6.23.
    pub(crate) fn is_of_2007(&self) -> bool {
        self.said_of_kernel().contains("\"generation\": 1")
    }

    /// Whether the kernel has its devices on a PCI bus: Linux since 4.0.
    pub(crate) fn has_pci(&self) -> bool {
        self.said_of_kernel().contains("\"generation\": 3")
    }

    /// The least memory of a machine with this kernel and an initial ram disk.
    /// Kernels that are loaded at 16 MiB need more.
    pub(crate) fn least_megabytes(&self) -> u32 {
        match self.is_of_2007() {
            true => 16,
            false => 32,
        }
    }

    /// The most memory that a kernel without `HIGHMEM` uses, about.
    pub(crate) fn most_megabytes(&self) -> u32 {
        match self.is_of_2007() {
            true => 892,
            false => 880,
        }
    }

    /// What `lguest image` says of the kernel.
    fn said_of_kernel(&self) -> String {
        let said = Command::new(env!("CARGO_BIN_EXE_lguest"))
            .args(["image", "--json"])
            .arg(self.path(VMLINUX))
            .output()
            .unwrap();
        String::from_utf8(said.stdout).unwrap()
    }

    /// The words that run the kernel with the initial ram disk.
    pub(crate) fn words(
        &self,
        megabytes: u32,
        options: &[&str],
    ) -> Vec<String> {
        let initrd = self.path(INITRD).display();
        let mut words = vec![format!("--initrd={initrd}")];
        words.extend(options.iter().map(|&word| word.to_owned()));
        words.push(megabytes.to_string());
        words.push(self.path(VMLINUX).display().to_string());
        words.push("console=hvc0".into());
        words
    }

    /// Runs `command` in a machine that powers off after it, and returns its
    /// output. Words of a kernel's command line have no spaces, so the
    /// machine's init reads commas as spaces.
    pub(crate) fn run(
        &self,
        megabytes: u32,
        options: &[&str],
        cmd: &str,
    ) -> Ended {
        let mut words = self.words(megabytes, options);
        words.push(format!("test={}", cmd.replace(' ', ",")));
        Machine::start(&words).end()
    }

    /// The same, with options of `lguest run`.
    pub(crate) fn run_with_options(
        &self,
        options: &[&str],
        cmd: &str,
    ) -> Ended {
        let kernel = format!("--kernel={}", self.path(VMLINUX).display());
        self.run_with_all_options(&[&[kernel.as_str()], options].concat(), cmd)
    }

    /// The same, with one that names the kernel.
    pub(crate) fn run_with_all_options(
        &self,
        options: &[&str],
        cmd: &str,
    ) -> Ended {
        let mut words = self.words_without_kernel();
        words.push(format!("--append=test={}", cmd.replace(' ', ",")));
        words.extend(options.iter().map(|&word| word.to_owned()));
        Machine::start(&words).end()
    }

    /// A machine with a shell.
    pub(crate) fn shell(&self, options: &[&str]) -> Machine {
        self.shell_with(64, options)
    }

    /// The same, with so much memory.
    pub(crate) fn shell_with(
        &self,
        megabytes: u32,
        options: &[&str],
    ) -> Machine {
        Self::at_its_prompt(&self.words(megabytes, options))
    }

    /// The same, with options of `lguest run`.
    pub(crate) fn shell_of_run(&self, options: &[&str]) -> Machine {
        let mut words = self.words_of_run();
        words.extend(options.iter().map(|&word| word.to_owned()));
        Self::at_its_prompt(&words)
    }

    /// The words of `lguest run` for the kernel and the initial ram disk.
    fn words_of_run(&self) -> Vec<String> {
        let mut words = self.words_without_kernel();
        words.push(format!("--kernel={}", self.path(VMLINUX).display()));
        words
    }

    fn words_without_kernel(&self) -> Vec<String> {
        let mut words = vec!["run".to_owned(), "--memory=64M".into()];
        words.push(format!("--initrd={}", self.path(INITRD).display()));
        words.push("--append=console=hvc0".into());
        words
    }

    fn at_its_prompt(words: &[String]) -> Machine {
        Machine::start(words).with_long_lines()
    }
}

/// The end of the shell's prompt.
const PROMPT: &str = ":~# ";

/// How long a load runs.
pub(crate) fn load_time(short: Duration) -> Duration {
    let minutes = std::env::var("LGUEST_TEST_MINUTES").ok();
    let minutes = minutes.and_then(|minutes| minutes.parse::<u64>().ok());
    minutes.map_or(short, |minutes| Duration::from_secs(minutes * 60))
}

/// A Launcher on a terminal of its own.
pub(crate) struct Machine {
    run: Child,
    keyboard: File,
    shown: Vec<u8>,
    /// How much of the output earlier waits have used.
    seen: usize,
}

/// A machine that has ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) shown: String,
}

impl Ended {
    /// Checks that it powered off, and printed `text` before.
    pub(crate) fn must_have_said(&self, text: &str) {
        assert!(self.shown.contains(text), "no {text}: {}", self.shown);
        assert_eq!(self.code, 0, "{}", self.shown);
    }
}

impl Machine {
    pub(crate) fn start(words: &[String]) -> Self {
        let mut lguest = Command::new(env!("CARGO_BIN_EXE_lguest"));
        Self::of_command(lguest.args(words))
    }

    /// Starts this command, with the variables that it adds.
    pub(crate) fn of_command(command: &Command) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let terminal: OwnedFd =
            rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        let end = || terminal.try_clone().unwrap();
        let variables = command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        let run = Command::new("setsid")
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .envs(variables)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self {
            run,
            keyboard: keyboard.into(),
            shown: Vec::new(),
            seen: 0,
        }
    }

    /// Waits for the prompt.
    pub(crate) fn with_long_lines(mut self) -> Self {
        self.wait_until_ready();
        // Long lines must not be broken when they are echoed. The kernel's
        // notices must not get between the lines of a command: Linux 3.10
        // changes its clock a second after it has booted.
        self.type_in("stty cols 500; dmesg -n 5\r");
        self.wait_for(PROMPT);
        self
    }

    pub(crate) fn wait_until_ready(&mut self) {
        self.wait_for("GUEST-READY");
        self.wait_for(PROMPT);
    }

    /// Gives the terminal another size.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.keyboard, size).unwrap();
    }

    /// The Launcher's process number.
    pub(crate) fn id(&self) -> u32 {
        self.run.id()
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        // The text may be longer than a terminal's buffer, while the other side
        // writes.
        for piece in text.as_bytes().chunks(512) {
            self.keyboard.write_all(piece).unwrap();
            while self.read_more(Duration::ZERO) {}
        }
    }

    /// Waits until `text` is shown, after the texts of earlier waits. Returns
    /// the output before it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        self.wait_long_for(text, Duration::from_secs(60))
    }

    pub(crate) fn wait_long_for(
        &mut self,
        text: &str,
        patience: Duration,
    ) -> String {
        let start = Instant::now();
        loop {
            let news = &self.shown[self.seen..];
            let at =
                news.windows(text.len()).position(|w| w == text.as_bytes());
            if let Some(at) = at {
                let before = String::from_utf8_lossy(&news[..at]).into_owned();
                self.seen += at + text.len();
                return before.replace('\r', "");
            }
            let left = patience.saturating_sub(start.elapsed());
            let more = !left.is_zero() && self.read_more(left);
            assert!(more, "no {text:?} in: {}", self.text());
        }
    }

    /// Types a command and waits for its end. Returns its output.
    pub(crate) fn command(&mut self, command: &str) -> String {
        self.start_command(command);
        self.finish_command(Duration::from_secs(120))
    }

    /// Types a command so that its end is shown. Its echo does not look like
    /// its end.
    pub(crate) fn start_command(&mut self, command: &str) {
        self.type_in(&format!("{command}; echo EN''D\r"));
        self.wait_for("EN''D\r\n");
    }

    pub(crate) fn finish_command(&mut self, patience: Duration) -> String {
        let said = self.wait_long_for("END\r\n", patience);
        self.wait_for(PROMPT);
        said
    }

    /// Kills the Launcher by SIGKILL.
    pub(crate) fn kill(mut self) {
        let launcher = children(self.id());
        // setsid becomes the command, unless it had to fork.
        assert!(launcher.len() <= 1 || !launcher.is_empty());
        self.run.kill().unwrap();
        self.run.wait().unwrap();
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        let patience = Duration::from_secs(120) + load_time(Duration::ZERO);
        let start = Instant::now();
        let code = loop {
            self.read_more(Duration::from_millis(20));
            if let Some(status) = self.run.try_wait().unwrap() {
                break status.code().unwrap();
            }
            let late = start.elapsed() > patience;
            assert!(!late, "it does not end: {}", self.text());
        };
        while self.read_more(Duration::ZERO) {}
        Ended {
            code,
            shown: self.text(),
        }
    }

    /// Reads the output that is there, and waits for at most `patience`.
    /// Returns whether there was any.
    pub(crate) fn read_more(&mut self, patience: Duration) -> bool {
        let patience = Timespec::try_from(patience).unwrap();
        let mut fds = [PollFd::new(&self.keyboard, PollFlags::IN)];
        if poll(&mut fds, Some(&patience)).unwrap() == 0 {
            return false;
        }
        let mut bytes = [0; 4096];
        // After the end of the last process there, a read fails.
        let len = self.keyboard.read(&mut bytes).unwrap_or(0);
        self.shown.extend(&bytes[..len]);
        len != 0
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).replace('\r', "")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A failed test leaves no machine running.
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

/// The children of a process, and theirs.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(task.path().join("children"));
        for child in list.unwrap_or_default().split_whitespace() {
            let child = child.parse().unwrap();
            all.push(child);
            all.extend(children(child));
        }
    }
    all
}

/// A directory for a test's files, which is removed after it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(test: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lguest-linux-{test}-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether the ext2 file system in `image` is clean; `None` without e2fsck.
pub(crate) fn is_clean(image: &Path) -> Option<bool> {
    let check = Command::new("e2fsck").arg("-fn").arg(image).output();
    check.ok().map(|check| check.status.success())
}
