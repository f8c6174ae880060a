//! The systems: how each of them is started with the same program.
//!
//! Natively the program is a process on one processor, as a Guest is. In a
//! machine it is the first process.

use super::conversation::Conversation;
use super::kit::{FIRST_PROCESS, Kit};
use super::options::Options;
use super::results::System;
use crate::program::exists;
use std::path::{Path, PathBuf};
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
    pub(super) network: Option<Network>,
}

/// What the network interface of a machine is connected to.
#[derive(Clone)]
pub(super) enum Network {
    /// Another machine of the kind.
    Shared {
        /// The path of the file or socket of the network.
        path: PathBuf,
        /// Whether this is the machine that was started first.
        first: bool,
    },
    /// What a user without root can reach.
    User,
}

/// How long a machine may take to start. An emulator is slow.
const PATIENCE: Duration = Duration::from_secs(60);

const QEMU: &str = "qemu-system-i386";
const UML: &str = "linux";

/// The chosen systems, each with its lguest. They may be missing here.
pub(super) fn wanted(
    options: &Options,
    lguest: &Path,
) -> Vec<(System, PathBuf)> {
    let mut systems = vec![System::Native, System::Lguest];
    if options.peers {
        systems.extend([System::Qemu, System::Uml]);
    }
    let ours = systems.into_iter().map(|s| (s, lguest.to_owned()));
    let other = options.baseline.iter();
    let other = other.map(|path| (System::Baseline, path.clone()));
    ours.chain(other).collect()
}

/// Whether there is such a system here. The error says why not.
pub(super) fn is_there(system: System, kit: &Kit) -> Result<(), String> {
    match system {
        System::Qemu if !exists(QEMU) => Err(format!("no {QEMU}")),
        System::Qemu if kit.qemu_kernel.is_none() => {
            Err("give LGUEST_BENCH_QEMU_KERNEL".into())
        }
        System::Uml if !exists(UML) => Err(format!("no {UML}")),
        System::Uml if kit.uml_initrd.is_none() => {
            Err("give LGUEST_BENCH_UML_PROGRAM".into())
        }
        _ => Ok(()),
    }
}

impl<'a> Machine<'a> {
    /// A machine with memory only.
    pub(super) fn bare(
        system: System,
        lguest: &Path,
        kit: &'a Kit,
        megabytes: u32,
    ) -> Self {
        Self {
            system,
            kit,
            lguest: lguest.to_owned(),
            megabytes,
            small: true,
            disks: None,
            network: None,
        }
    }

    /// Starts it and waits until it reads its input. Returns how long that
    /// took.
    pub(super) fn start(&self) -> Result<(Conversation, Duration), String> {
        let name = self.system.name();
        let log = self.kit.folder.join(format!("{name}.log"));
        let mut machine = Conversation::start(self.command(), Some(&log))?;
        if self.system == System::Native {
            return Ok((machine, Duration::ZERO));
        }
        let (_, time) = machine.wait_for("bench ready", PATIENCE)?;
        // The rest of the line.
        machine.wait_for("\n", PATIENCE)?;
        Ok((machine, time))
    }

    fn command(&self) -> Command {
        let kit = self.kit;
        let initrd = if self.small { &kit.small } else { &kit.initrd };
        let words = format!("quiet rdinit=/{FIRST_PROCESS}");
        match self.system {
            System::Native => self.native(),
            System::Lguest | System::Baseline => {
                let mut command = self.lguest(initrd);
                command.arg(format!("console=hvc0 {words}"));
                command
            }
            System::Qemu => {
                let mut command = self.qemu(initrd);
                command.arg("-append");
                command.arg(format!("console=ttyS0 {words}"));
                command
            }
            System::Uml => {
                let mut command = self.uml();
                command.args(words.split(' '));
                command
            }
        }
    }

    /// The command of lguest, without the kernel's arguments.
    pub(super) fn lguest(&self, initrd: &Path) -> Command {
        let mut command = Command::new(&self.lguest);
        if let Some(Network::User) = self.network {
            // The command line of 2007 has no such network.
            command.args(["run", "--verbose", "--net=user"]);
            command.arg(format!("--initrd={}", initrd.display()));
            command.arg(format!("--memory={}M", self.megabytes));
            command.arg(format!("--kernel={}", self.kit.vmlinux.display()));
            command.arg("--append");
            return command;
        }
        command.arg("--verbose");
        command.arg(format!("--initrd={}", initrd.display()));
        for disk in self.disks.iter().flatten() {
            command.arg(format!("--block={}", disk.display()));
        }
        if let Some(Network::Shared { path, .. }) = &self.network {
            command.arg(format!("--sharenet={}", path.display()));
        }
        command.arg(self.megabytes.to_string());
        command.arg(&self.kit.vmlinux);
        command
    }

    /// The command of QEMU, without the kernel's arguments.
    pub(super) fn qemu(&self, initrd: &Path) -> Command {
        let mut command = Command::new(QEMU);
        command.args(["-accel", "tcg", "-nodefaults", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio"]);
        // The memory as a file, so that it can be distinguished from the rest.
        command.arg("-object").arg(format!(
            "memory-backend-memfd,id=ram,size={}M",
            self.megabytes
        ));
        command.args(["-machine", "pc,memory-backend=ram", "-m"]);
        command.arg(self.megabytes.to_string());
        command.arg("-kernel");
        command.args(self.kit.qemu_kernel.as_ref());
        command.arg("-initrd").arg(initrd);
        for (index, disk) in self.disks.iter().flatten().enumerate() {
            let disk = disk.display();
            command
                .arg("-drive")
                .arg(format!("file={disk},format=raw,if=ide,index={index}"));
        }
        let net = match &self.network {
            Some(Network::Shared { path, first }) => {
                let server = if *first { "on" } else { "off" };
                let path = path.display();
                let ends = format!("addr.type=unix,addr.path={path}");
                let number = if *first { 1 } else { 2 };
                let net = format!("stream,id=net,server={server},{ends}");
                Some((net, number))
            }
            Some(Network::User) => Some(("user,id=net".to_owned(), 1)),
            None => None,
        };
        if let Some((net, number)) = net {
            command.arg("-netdev").arg(net).arg("-device");
            command.arg(format!(
                "e1000,netdev=net,mac=52:54:00:12:34:{number:02}"
            ));
        }
        command
    }

    fn uml(&self) -> Command {
        let mut command = Command::new(UML);
        command.arg(format!("mem={}M", self.megabytes));
        if let Some(initrd) = &self.kit.uml_initrd {
            command.arg(format!("initrd={}", initrd.display()));
        }
        for (letter, disk) in "ab".chars().zip(self.disks.iter().flatten()) {
            command.arg(format!("ubd{letter}={}", disk.display()));
        }
        command.args(["con=none", "con0=fd:0,fd:1"]);
        command
    }

    fn native(&self) -> Command {
        let kit = self.kit;
        let mut command = Command::new(&kit.program);
        command.arg("serve").current_dir(&kit.folder);
        // Native processes on a network may use all processors, as guests and
        // what they speak to do.
        if self.network.is_none() {
            command.env("cpu", last_processor().to_string());
        }
        command.env("tree", &kit.folder);
        let programs = [("busybox", &kit.busybox), ("compiler", &kit.compiler)];
        for (name, program) in programs {
            if let Some(program) = program {
                command.env(name, program);
            }
        }
        if let Some([disk, _]) = &self.disks {
            command.env("disk", disk);
        }
        command
    }
}

/// The last processor that this process may use. The first ones have more work.
fn last_processor() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status");
    let status = status.unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = list.and_then(|list| list.trim().rsplit([',', '-']).next());
    last.and_then(|last| last.parse().ok()).unwrap_or(0)
}
