//! The systems: how each of them is started with the same program.
//!
//! Natively the program is a process that keeps to one processor, as a Guest
//! does. In a machine it is the first process of all.

use super::conversation::Conversation;
use super::kit::{FIRST_PROCESS, Kit};
use super::results::System;
use crate::program::exists;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A system that can be started, and started again if it breaks.
pub(super) struct Machine<'a> {
    pub(super) system: System,
    pub(super) kit: &'a Kit,
    /// For `Lguest` and `Baseline`.
    pub(super) lguest: PathBuf,
    pub(super) megabytes: u32,
    /// Only our program in the ram disk.
    pub(super) small: bool,
    /// An empty disk and one with a file system.
    pub(super) disks: Option<[PathBuf; 2]>,
    /// The file of a network between guests.
    pub(super) sharenet: Option<PathBuf>,
}

/// How long a machine may take to come up: an emulator is slow.
const PATIENCE: Duration = Duration::from_secs(60);

const QEMU: &str = "qemu-system-i386";
const UML: &str = "linux";

/// Whether there is such a system here; else, why not.
pub(super) fn is_there(system: System, kit: &Kit) -> Result<(), String> {
    match system {
        System::Qemu if !exists(QEMU) => Err(format!("no {QEMU}")),
        System::Qemu if kit.qemu_kernel.is_none() => {
            Err("give LGUEST_BENCH_QEMU_KERNEL".into())
        }
        System::Uml if !exists(UML) => Err(format!("no {UML}")),
        _ => Ok(()),
    }
}

impl Machine<'_> {
    /// Starts it, up to where it listens; answers how long that took.
    pub(super) fn start(&self) -> Result<(Conversation, Duration), String> {
        let name = self.system.name();
        let log = self.kit.folder.join(format!("{name}.log"));
        let mut machine = Conversation::start(self.command(), Some(&log))?;
        let time = if self.system == System::Native {
            Duration::ZERO
        } else {
            machine.wait_for("bench ready", PATIENCE)?.1
        };
        // The rest of the line.
        if self.system != System::Native {
            machine.wait_for("\n", PATIENCE)?;
        }
        Ok((machine, time))
    }

    fn command(&self) -> Command {
        let kit = self.kit;
        let initrd = if self.small { &kit.small } else { &kit.initrd };
        let first = format!("rdinit=/{FIRST_PROCESS}");
        match self.system {
            System::Native => self.native(),
            System::Lguest | System::Baseline => {
                let mut command = Command::new(&self.lguest);
                command.arg(format!("--initrd={}", initrd.display()));
                for disk in self.disks.iter().flatten() {
                    command.arg(format!("--block={}", disk.display()));
                }
                if let Some(net) = &self.sharenet {
                    command.arg(format!("--sharenet={}", net.display()));
                }
                command.arg(self.megabytes.to_string()).arg(&kit.vmlinux);
                command.args(["console=hvc0", "quiet", &first]);
                command
            }
            System::Qemu => {
                let mut command = Command::new(QEMU);
                command.args(["-accel", "tcg", "-nodefaults", "-no-reboot"]);
                command.args(["-display", "none", "-serial", "stdio"]);
                // The memory as a file, so that it can be told from the rest.
                command.arg("-object").arg(format!(
                    "memory-backend-memfd,id=ram,size={}M",
                    self.megabytes
                ));
                command.args(["-machine", "pc,memory-backend=ram", "-m"]);
                command.arg(self.megabytes.to_string());
                command.arg("-kernel");
                command.args(kit.qemu_kernel.as_ref());
                command.arg("-initrd").arg(initrd);
                for disk in self.disks.iter().flatten() {
                    let disk = disk.display();
                    command.arg("-drive");
                    command.arg(format!("file={disk},format=raw,if=ide"));
                }
                command.arg("-append");
                command.arg(format!("console=ttyS0 quiet {first}"));
                command
            }
            System::Uml => {
                let mut command = Command::new(UML);
                command.arg(format!("mem={}M", self.megabytes));
                command.arg(format!("initrd={}", initrd.display()));
                for (letter, disk) in
                    "ab".chars().zip(self.disks.iter().flatten())
                {
                    command.arg(format!("ubd{letter}={}", disk.display()));
                }
                command.args(["con=none", "con0=fd:0,fd:1", "quiet", &first]);
                command
            }
        }
    }

    fn native(&self) -> Command {
        let kit = self.kit;
        let mut command = Command::new(&kit.program);
        command.arg("serve").current_dir(&kit.folder);
        command.env("cpu", last_processor().to_string());
        command.env("tree", &kit.folder);
        if let Some(busybox) = &kit.busybox {
            command.env("busybox", busybox);
        }
        if let Some([disk, _]) = &self.disks {
            command.env("disk", disk);
        }
        command
    }
}

/// The last processor that we may use: the first ones have more to do.
fn last_processor() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status");
    let status = status.unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = list.and_then(|list| list.trim().rsplit([',', '-']).next());
    last.and_then(|last| last.parse().ok()).unwrap_or(0)
}
