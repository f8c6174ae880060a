//! Causes: what a machine may refuse, and the cure for each.
//!
//! A message has `Display` after a colon, and the cure after a semicolon. Cures
//! that are commands are between backticks. A test runs them.

use std::fmt;
use std::io;

/// Why the machine refuses something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A system call fails with an error that its arguments do not explain.
    Refused {
        /// Its name.
        call: &'static str,
        /// The error.
        error: i32,
    },
    /// A process is killed for a system call.
    Killed {
        /// Its name.
        call: &'static str,
    },
    /// A call that is not known fails as if it were not allowed.
    Forbidden {
        /// The error.
        error: i32,
    },
    /// Memory must not be written and executed (`PR_SET_MDWE` and the like).
    WriteExecute,
    /// Memory files must not be executed.
    NoExecutableFiles,
    /// The kernel has no segment for 32-bit code.
    No32BitCode,
    /// The instructions for segment bases cannot be used.
    NoFsgsbase,
    /// The kernel cannot hold a process while its call is answered.
    NoUserProcesses,
    /// A process may open no more files than this.
    OpenFiles(u64),
    /// The machine has no more open files.
    OpenFilesOfAll,
    /// The user may have no more processes than this.
    Processes(u64),
    /// A control group may have no more processes than this.
    ProcessesOfGroup(u64),
    /// The machine has no more processes.
    ProcessesOfAll,
    /// A process may map no more bytes than this.
    AddressSpace(u64),
    /// A process may have no more bytes of its own than this.
    Data(u64),
    /// The machine has no more memory.
    Memory,
    /// A process has too many mappings, or there is no memory for more.
    Mappings,
    /// A process was killed because its control group had no memory left.
    MemoryOfGroup(u64),
    /// A process was killed by SIGKILL, and it is not known why.
    KilledFromOutside,
    /// A file may have no more bytes than this.
    FileSize(u64),
    /// A process may have no more bytes of stack than this.
    Stack(u64),
    /// A process may work for no more seconds than this.
    ProcessorTime(u64),
    /// A user may have no more timers and waiting signals than this.
    Timers(u64),
    /// A file's file system has no locks.
    NoLocks {
        /// The error.
        error: i32,
    },
    /// The view program inside the Launcher is of another build.
    OtherVersion,
    /// Another error, which does not name a lack of the machine.
    Other(String),
}

impl Cause {
    /// The error number of a system call that fails for this cause.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { error, .. } | Self::Forbidden { error } => *error,
            Self::OpenFiles(_) => libc::EMFILE,
            Self::OpenFilesOfAll => libc::ENFILE,
            Self::Processes(_)
            | Self::ProcessesOfGroup(_)
            | Self::ProcessesOfAll
            | Self::Timers(_) => libc::EAGAIN,
            Self::FileSize(_) => libc::EFBIG,
            Self::AddressSpace(_)
            | Self::Data(_)
            | Self::Memory
            | Self::Mappings
            | Self::Stack(_)
            | Self::MemoryOfGroup(_) => libc::ENOMEM,
            _ => libc::EPERM,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        const ALLOW: &str = "let the filter of the container or service allow \
             it (docker: --security-opt seccomp=FILE, systemd: \
             SystemCallFilter=)";
        match self {
            Self::Refused {
                error: libc::ENOSYS,
                call: "modify_ldt",
            } => {
                "let the filter of the container or service allow it, or take \
                 a kernel with MODIFY_LDT_SYSCALL"
            }
            Self::Refused {
                error: libc::ENOSYS,
                call: "seccomp",
            } => {
                "let the filter of the container or service allow it, or take \
                 a kernel with SECCOMP_FILTER"
            }
            Self::Refused {
                error: libc::ENOSYS,
                ..
            } => {
                "let the filter of the container or service allow it, or take \
                 Linux 5.11 or later"
            }
            Self::Refused { .. } | Self::Killed { .. } => ALLOW,
            Self::Forbidden { .. } => {
                "look for a rule of the container, the service or a security \
                 module (SELinux, AppArmor) that forbids it"
            }
            Self::WriteExecute => {
                "start it without MemoryDenyWriteExecute= (systemd), \
                 PR_SET_MDWE or SELinux's rule on execmem"
            }
            Self::NoExecutableFiles => {
                "set vm.memfd_noexec to 0 or 1 (`sysctl vm.memfd_noexec=1`)"
            }
            Self::No32BitCode => {
                "boot with 'ia32_emulation=on', and take a kernel with \
                 IA32_EMULATION"
            }
            Self::NoFsgsbase => {
                "boot without 'nofsgsbase', and take Linux 5.9 or later on an \
                 x86-64 of 2012 or later"
            }
            Self::NoUserProcesses => {
                "take Linux 5.19 or later, or leave --isolation=user out"
            }
            Self::OpenFiles(_) => "raise that (`ulimit -n 1024`)",
            Self::OpenFilesOfAll => "raise fs.file-max, or end other programs",
            Self::Processes(_) => {
                "raise that (`ulimit -u 1024`), or end other processes of the \
                 user"
            }
            Self::ProcessesOfGroup(_) => {
                "raise its pids.max (docker: --pids-limit, systemd: TasksMax=)"
            }
            Self::ProcessesOfAll => {
                "raise kernel.pid_max and kernel.threads-max, or the pids.max \
                 of a container (docker: --pids-limit)"
            }
            Self::AddressSpace(_) => "lift that (`ulimit -v unlimited`)",
            Self::Data(_) => "lift that (`ulimit -d unlimited`)",
            Self::Memory => {
                "end other programs, or give the guest less ('--memory'); \
                 'lguest doctor' reports whether vm.overcommit_memory is the \
                 reason"
            }
            Self::Mappings => {
                "raise that (`sysctl vm.max_map_count=262144`), or end other \
                 programs"
            }
            Self::MemoryOfGroup(_) => {
                "raise its memory.max (docker: --memory, systemd: MemoryMax=), \
                 or give the guest less ('--memory')"
            }
            Self::KilledFromOutside => {
                "look in the kernel's log whether the machine had too little \
                 memory"
            }
            Self::FileSize(_) => "lift that (`ulimit -f unlimited`)",
            Self::Stack(_) => "raise that (`ulimit -s 8192`)",
            Self::ProcessorTime(_) => "lift that (`ulimit -t unlimited`)",
            Self::Timers(_) => "raise that (`ulimit -i 1024`)",
            Self::NoLocks { .. } => {
                "mount the file system with locks (NFS: 'local_lock=flock', or \
                 a server with lockd), or copy the disk to another"
            }
            Self::OtherVersion => {
                "delete the folder 'target' and build lguest again"
            }
            Self::Other(_) => "run 'lguest doctor', which checks more",
        }
    }
}

/// A number of bytes. It is written in the largest unit that keeps it exact.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n != 0 && n.is_multiple_of(1 << 20) => {
                write!(f, "{} MiB", n >> 20)
            }
            n if n != 0 && n.is_multiple_of(1 << 10) => {
                write!(f, "{} KiB", n >> 10)
            }
            n => write!(f, "{n} bytes"),
        }
    }
}

/// The text for an error number.
fn words(error: i32) -> String {
    let text = io::Error::from_raw_os_error(error).to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { call, error } => {
                let error = words(*error);
                write!(f, "this system refuses the call {call} ({error})")
            }
            Self::Killed { call } => {
                write!(f, "this system kills a process for the call {call}")
            }
            Self::Forbidden { error } => {
                write!(f, "this system forbids it ({})", words(*error))
            }
            Self::WriteExecute => f.write_str(
                "memory that is both written and executed is forbidden here",
            ),
            Self::NoExecutableFiles => f.write_str(
                "vm.memfd_noexec is 2, so memory files cannot be executed",
            ),
            Self::No32BitCode => f.write_str(
                "this kernel was built or booted without 32-bit programs",
            ),
            Self::NoFsgsbase => {
                f.write_str("this processor or kernel has no FSGSBASE")
            }
            Self::NoUserProcesses => f.write_str(
                "this kernel cannot hold a process while its system call is \
                 answered",
            ),
            Self::OpenFiles(n) => {
                write!(f, "this process may open only {n} files")
            }
            Self::OpenFilesOfAll => {
                f.write_str("the machine has no more open files")
            }
            Self::Processes(n) => write!(
                f,
                "this user may have only {n} processes and threads, and has \
                 them"
            ),
            Self::ProcessesOfGroup(n) => write!(
                f,
                "this control group may have only {n} processes and threads, \
                 and has them"
            ),
            Self::ProcessesOfAll => f.write_str(
                "the machine, or a container around it, allows no more \
                 processes and threads",
            ),
            Self::AddressSpace(n) => write!(
                f,
                "a process may have only {} of address space",
                Bytes(*n)
            ),
            Self::Data(n) => {
                write!(f, "a process may have only {} of data", Bytes(*n))
            }
            Self::Memory => f.write_str("the machine has too little memory"),
            Self::Mappings => f.write_str(
                "a process has as many mappings as vm.max_map_count allows, \
                 or the machine has no memory for more",
            ),
            Self::MemoryOfGroup(n) => write!(
                f,
                "this control group may have only {} of memory, and a process \
                 was killed for it",
                Bytes(*n)
            ),
            Self::KilledFromOutside => {
                f.write_str("a process was killed from outside (SIGKILL)")
            }
            Self::FileSize(n) => {
                write!(f, "a file may have only {}", Bytes(*n))
            }
            Self::Stack(n) => {
                write!(f, "a process may have only {} of stack", Bytes(*n))
            }
            Self::ProcessorTime(n) => write!(
                f,
                "a process may work for only {n} s, and one was killed for it"
            ),
            Self::Timers(n) => write!(
                f,
                "this user may have only {n} timers and waiting signals"
            ),
            Self::NoLocks { error } => {
                write!(f, "its file system has no locks ({})", words(*error))
            }
            Self::OtherVersion => f.write_str(
                "lguest and the program in it that runs a guest are of \
                 different versions",
            ),
            Self::Other(why) => f.write_str(why),
        }
    }
}
