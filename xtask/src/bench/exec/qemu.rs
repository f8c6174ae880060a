//! QEMU without KVM: the same disk, with a shell as the first process.
//!
//! A machine boots once, runs what warms it, and is written into a file as for
//! a migration. A run goes on from that file, types the command, and waits for
//! what it prints. The root file system is read-only, so that each run finds
//! the same one.

use super::super::conversation::Conversation;
use super::images::Images;
use super::options::Options;
use crate::program::exists;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-i386";
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a machine that goes on is asked for a prompt.
const PAUSE: Duration = Duration::from_millis(5);
/// The prompt of the shell.
const PROMPT: &str = "# ";

/// How a machine is started.
pub(super) struct Qemu {
    kernel: PathBuf,
    disk: PathBuf,
    /// The file of the machine that was written.
    state: PathBuf,
    monitor: PathBuf,
}

impl Qemu {
    /// Writes the state of a warm machine. The error says why there is none.
    pub(super) fn new(
        options: &Options,
        images: &Images,
        folder: &Path,
    ) -> Result<Self, String> {
        if !exists(QEMU) {
            return Err(format!("no {QEMU}"));
        }
        let kernel = options.qemu_kernel.clone();
        let kernel = kernel.ok_or("give LGUEST_BENCH_QEMU_KERNEL")?;
        let qemu = Self {
            kernel,
            disk: images.disk(),
            state: folder.join("qemu-state"),
            monitor: folder.join("qemu-monitor"),
        };
        eprintln!("exec: QEMU boots and is written into a file");
        let (mut machine, _) = qemu.boot(None)?;
        // What the commands of the rows read.
        for warm in ["/bin/true", "python3 -c pass"] {
            machine.say(&format!("{warm}; echo WA\"\"RM"))?;
            machine.wait_for("WARM", PATIENCE)?;
        }
        qemu.write()?;
        Ok(qemu)
    }

    /// Boots a machine, with this file as its second disk. Returns the time to
    /// the prompt.
    pub(super) fn boot(
        &self,
        second: Option<&Path>,
    ) -> Result<(Conversation, Duration), String> {
        let mut command = self.command();
        if let Some(second) = second {
            command.arg("-drive");
            command.arg(format!(
                "file={},format=raw,if=virtio,readonly=on",
                second.display()
            ));
        }
        let mut machine = Conversation::start(command, None)?;
        let (_, time) = machine.wait_for(PROMPT, PATIENCE)?;
        Ok((machine, time))
    }

    /// Goes on from the file, and runs a line. Returns what it prints, and the
    /// time since the start.
    pub(super) fn run(&self, line: &str) -> Result<(String, Duration), String> {
        let mut command = self.command();
        command.arg("-incoming");
        command.arg(format!("exec:cat {}", self.state.display()));
        let mut machine = Conversation::start(command, None)?;
        // A key that comes before the state is lost with the old state.
        let end = Instant::now() + PATIENCE;
        loop {
            machine.say("")?;
            match machine.wait_for(PROMPT, PAUSE) {
                Ok(_) => break,
                Err(why) if Instant::now() > end => return Err(why),
                Err(_) => {}
            }
        }
        Self::answer(&mut machine, line)
    }

    /// Runs a line in a machine that waits for one.
    pub(super) fn answer(
        machine: &mut Conversation,
        line: &str,
    ) -> Result<(String, Duration), String> {
        machine.say(&format!("echo BE\"\"GIN; {line}; echo EN\"\"D"))?;
        machine.wait_for("BEGIN", PATIENCE)?;
        machine.wait_for("END", PATIENCE)
    }

    fn command(&self) -> Command {
        let _ = fs::remove_file(&self.monitor);
        let mut command = Command::new(QEMU);
        command.args(["-accel", "tcg", "-cpu", "qemu32,+sse3", "-m", "128"]);
        command.args(["-nodefaults", "-no-reboot", "-display", "none"]);
        command
            .args(["-serial", "stdio", "-kernel"])
            .arg(&self.kernel);
        command.args([
            "-append",
            "root=/dev/vda ro quiet console=ttyS0 init=/bin/sh",
        ]);
        command.arg("-drive").arg(format!(
            "file={},format=raw,if=virtio,readonly=on",
            self.disk.display()
        ));
        command.arg("-monitor").arg(format!(
            "unix:{},server=on,wait=off",
            self.monitor.display()
        ));
        command
    }

    /// Writes the machine that runs into the file.
    fn write(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("QEMU's monitor: {error}");
        let mut monitor = UnixStream::connect(&self.monitor).map_err(failed)?;
        monitor.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let file = self.state.display();
        let line = format!("migrate \"exec:cat > {file}\"\ninfo migrate\n");
        monitor.write_all(line.as_bytes()).map_err(failed)?;
        let mut said = String::new();
        let mut bytes = [0; 4096];
        while !said.contains("Migration status: completed") {
            match monitor.read(&mut bytes).map_err(failed)? {
                0 => return Err("QEMU's monitor has closed".into()),
                n => said.push_str(&String::from_utf8_lossy(&bytes[..n])),
            }
            if said.contains("Migration status: failed") {
                return Err("QEMU cannot write its machine".into());
            }
        }
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.state);
        let _ = fs::remove_file(&self.monitor);
    }
}
