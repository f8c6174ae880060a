//! Guests on a network between Launchers.

use super::later::Later;
use super::{Running, Scratch, built_in, lguest};
use std::path::PathBuf;
use std::process::Command;

/// The file that makes a network, in a folder of its own.
pub(crate) struct Network {
    pub(crate) scratch: Scratch,
    pub(crate) file: PathBuf,
}

impl Network {
    pub(crate) fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let file = scratch.file("lan", &[0; 4096]);
        Self { scratch, file }
    }

    /// A Guest on it, at its prompt.
    pub(crate) fn guest(&self) -> Guest {
        let mut command = lguest();
        command.args(["run", "--append=quiet"]);
        self.start(command)
    }

    /// The same, as a Guest of a later release.
    pub(crate) fn later_guest(&self, later: Later) -> Guest {
        let mut command = lguest();
        command.args(["run", "--append=quiet", "--kernel"]);
        command.arg(later.of(&built_in(), &self.scratch));
        self.start(command)
    }

    fn start(&self, mut command: Command) -> Guest {
        command.arg(format!("--net=sharenet={}", self.file.display()));
        Guest::start(command)
    }
}

/// A Guest that takes commands, and how often it has pinged.
pub(crate) struct Guest(pub(crate) Running, usize);

impl Guest {
    /// A Guest with `--net=NET` and these words, at its prompt.
    pub(crate) fn on(net: &str, words: &[&str]) -> Self {
        let mut command = lguest();
        command.arg("run").arg(format!("--net={net}")).args(words);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut guest = Self(Running::start(&mut command), 0);
        guest.0.wait_for("lguest> ");
        guest.says("echo", "hello");
        guest
    }

    /// Types a line.
    pub(crate) fn types(&mut self, line: &str) {
        self.0.type_in(format!("{line}\n").as_bytes());
    }

    /// Lets it print something that nothing else prints.
    pub(crate) fn says(&mut self, command: &str, word: &str) {
        self.types(&format!("{command} {word}"));
        self.0.wait_for(&format!("\n{word}"));
    }

    /// Pings the Guest in a slot. The first answer may be missing, because the
    /// Guest asks for at most one address a second.
    #[track_caller]
    pub(crate) fn pings(&mut self, slot: u32) {
        self.1 += 1;
        self.types(&format!("ping 10.0.0.{} 4", slot + 1));
        let said = self.0.wait_for_nth(" of 4 answered", self.1);
        assert!(!said.contains(" 0 of 4 answered"), "{said}");
    }

    /// Sends so many megabytes by TCP to the Guest in `slot`.
    pub(crate) fn sends(&mut self, megabytes: u32, to: &mut Self, slot: u32) {
        let ip = format!("10.0.0.{}", slot + 1);
        to.types("tcp-serve");
        to.0.wait_for(&format!("listening on {ip}:5001"));
        self.types(&format!("tcp-send {ip} {megabytes}"));
        self.0.wait_for(&format!("sent {megabytes}000000 bytes"));
        to.0.wait_for(&format!("received {megabytes}000000 bytes"));
    }

    pub(crate) fn is_in_slot(&mut self, slot: u32) {
        self.types("net");
        self.0.wait_for(&format!("slot {slot}, "));
    }

    /// Powers it off, and checks how it ended.
    #[track_caller]
    pub(crate) fn ends(mut self) {
        self.types("poweroff");
        self.0.finish().ends_well(0);
    }
}
