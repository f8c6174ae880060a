//! A place for the machines of a test.

use crate::support::processes::Process;
use crate::support::{Finished, PATIENCE, Scratch, lguest, run};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The folder in place of `$XDG_RUNTIME_DIR`. All machines there are killed at
/// the end.
pub(crate) struct Place(Scratch);

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        Self(Scratch::new(name))
    }

    /// The command under test, with its words separated by blanks.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = lguest();
        command.env("XDG_RUNTIME_DIR", self.0.path(""));
        command.args(words.split_whitespace());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn run(&self, words: &str) -> Finished {
        run(&mut self.command(words), b"")
    }

    /// Runs a command that has to succeed, and returns its output.
    #[track_caller]
    pub(crate) fn done(&self, words: &str) -> String {
        let end = self.run(words);
        assert_eq!(end.code(), 0, "{words}: {end:?}");
        end.stdout
    }

    /// Runs a command that has to fail with this code, and returns its message.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &str) -> String {
        let end = self.run(words);
        assert_eq!(end.code(), code, "{words}: {end:?}");
        assert!(end.stderr.starts_with("lguest: "), "{end:?}");
        end.stderr
    }

    /// Starts the built-in guest, and waits for its prompt.
    #[track_caller]
    pub(crate) fn start(&self, name: &str) {
        self.start_with(name, "");
    }

    /// [`Self::start`], with more options.
    #[track_caller]
    pub(crate) fn start_with(&self, name: &str, options: &str) {
        let mut command = self.command("run --detach --until");
        command.arg("lguest> ").args(["--name", name]);
        command.args(options.split_whitespace());
        let end = run(&mut command, b"");
        assert_eq!((end.code(), &*end.stderr), (0, ""), "{name}: {end:?}");
    }

    /// Types a line on the console of a machine.
    #[track_caller]
    pub(crate) fn type_in(&self, name: &str, line: &str) {
        let end = run(self.command("send").args([name, line]), b"");
        assert_eq!(end.code(), 0, "{line}: {end:?}");
    }

    /// The Launcher of a machine.
    #[track_caller]
    pub(crate) fn launcher(&self, name: &str) -> Process {
        let text = self.done(&format!("inspect {name}"));
        let pid = text.split_once("\"pid\": ").unwrap().1;
        let pid = pid.split_once(',').unwrap().0.parse().unwrap();
        Process::find(pid).unwrap()
    }

    /// A file in the folder of a machine.
    pub(crate) fn file(&self, name: &str, file: &str) -> PathBuf {
        self.folder(name).join(file)
    }

    /// The folder of a machine.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.0.path("lguest").join(name)
    }

    /// Waits until a machine has printed `text`.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str, text: &str) -> String {
        let start = Instant::now();
        loop {
            let printed = self.done(&format!("logs {name}"));
            if printed.contains(text) {
                return printed;
            }
            assert!(start.elapsed() < PATIENCE, "{printed:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        std::fs::read_dir(self.0.path("")).unwrap().next().is_none()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.command("kill --all").output();
    }
}
