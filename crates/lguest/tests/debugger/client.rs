//! The built-in guest with a debugger.

pub(crate) use crate::support::gdb::{
    ALL, Gdb, TF, from_hex, register, to_hex, word,
};
use crate::support::{Running, Scratch, lguest};
use std::path::PathBuf;

/// A guest, and where a debugger finds it.
pub(crate) struct Debuggee {
    pub(crate) run: Running,
    pub(crate) at: PathBuf,
    _scratch: Scratch,
}

impl Debuggee {
    /// Starts the built-in guest with these options.
    pub(crate) fn start(options: &[&str]) -> Self {
        let scratch = Scratch::new("gdb");
        let at = scratch.path("gdb");
        let mut command = lguest();
        command.arg("run").arg("--gdb");
        command.arg(format!("unix:{}", at.display())).args(options);
        let run = Running::start(&mut command);
        Self {
            run,
            at,
            _scratch: scratch,
        }
    }

    /// The same, and a debugger is there before the first instruction.
    pub(crate) fn waiting(options: &[&str]) -> (Self, Gdb) {
        let options = [&["--gdb-wait"], options].concat();
        let guest = Self::start(&options);
        let gdb = Gdb::connect(&guest.at);
        (guest, gdb)
    }

    /// The same, and a debugger comes when the guest waits for a command.
    pub(crate) fn at_its_prompt(options: &[&str]) -> (Self, Gdb) {
        let guest = Self::start(options);
        guest.run.wait_for("lguest> ");
        let gdb = Gdb::connect(&guest.at);
        (guest, gdb)
    }

    /// Ends the guest by its own command, and checks that it ends well.
    #[track_caller]
    pub(crate) fn power_off(mut self) {
        self.run.type_in(b"poweroff\n");
        assert_eq!(self.run.finish().code(), 0);
    }
}
