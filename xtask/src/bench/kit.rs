//! Files for the rows of Linux: a kernel, a program, and ram disks of them.
//!
//! The environment names the files. Our program is appended to the ram disk.
//! The busybox and the compiler in the ram disk are also extracted, so that
//! programs are the same natively and in a guest.

use super::archive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const VMLINUX: &str = "LGUEST_TEST_VMLINUX";
const INITRD: &str = "LGUEST_TEST_INITRD";
const PROGRAM: &str = "LGUEST_BENCH_PROGRAM";
const UML_PROGRAM: &str = "LGUEST_BENCH_UML_PROGRAM";
const QEMU_KERNEL: &str = "LGUEST_BENCH_QEMU_KERNEL";

/// The program's name in the guest, where it is the first process.
pub(super) const FIRST_PROCESS: &str = "lgbench";

/// Files to run Linux with.
pub(super) struct Kit {
    pub(super) vmlinux: PathBuf,
    /// Our program as a file of this machine.
    pub(super) program: PathBuf,
    /// The initial ram disk as it was given.
    pub(super) given: Option<PathBuf>,
    /// The same with our program appended.
    pub(super) initrd: PathBuf,
    /// Our program alone, for small guests.
    pub(super) small: PathBuf,
    /// The busybox of the initial ram disk.
    pub(super) busybox: Option<PathBuf>,
    /// The C compiler of the initial ram disk.
    pub(super) compiler: Option<PathBuf>,
    /// A kernel with a serial console, for QEMU.
    pub(super) qemu_kernel: Option<PathBuf>,
    /// Our program for User Mode Linux, which may have another word size.
    pub(super) uml_initrd: Option<PathBuf>,
    /// The folder for files that are made.
    pub(super) folder: PathBuf,
}

/// The size of the disks.
const DISK: u64 = 64 << 20;

impl Kit {
    /// The files that the environment names.
    pub(super) fn from_environment(folder: &Path) -> Result<Self, String> {
        let given = |name| std::env::var_os(name).map(PathBuf::from);
        let needed = |name| given(name).ok_or(format!("give {name}"));
        let mut kit = Self {
            vmlinux: needed(VMLINUX)?,
            program: needed(PROGRAM)?,
            given: given(INITRD),
            initrd: folder.join("initrd"),
            small: folder.join("initrd-small"),
            busybox: None,
            compiler: None,
            qemu_kernel: given(QEMU_KERNEL),
            uml_initrd: None,
            folder: folder.to_owned(),
        };
        let program = read(&kit.program)?;
        let ours = archive::with_program(FIRST_PROCESS, &program);
        write(&kit.small, &ours)?;
        if let Some(program) = given(UML_PROGRAM) {
            let path = folder.join("initrd-uml");
            let program = read(&program)?;
            write(&path, &archive::with_program(FIRST_PROCESS, &program))?;
            kit.uml_initrd = Some(path);
        }
        let mut all = Vec::new();
        if let Some(given) = &kit.given {
            all = read(given)?;
            archive::pad(&mut all);
            let unpacked = archive::unpacked(given)?;
            let program = |name| extracted(&unpacked, name, folder);
            kit.busybox = program("busybox")?;
            kit.compiler = program("cc")?;
        }
        all.extend(ours);
        write(&kit.initrd, &all)?;
        Ok(kit)
    }

    /// Two disks for one system: empty, and with an ext2 file system.
    pub(super) fn disks(&self, name: &str) -> Result<[PathBuf; 2], String> {
        let disks = ["raw", "ext2"]
            .map(|kind| self.folder.join(format!("{name}-{kind}")));
        // Written once, so that the file has no holes.
        write(&disks[0], &vec![1; usize::try_from(DISK).unwrap_or(0)])?;
        write(&disks[1], &[])?;
        let file = std::fs::File::options().write(true).open(&disks[1]);
        file.and_then(|file| file.set_len(DISK))
            .map_err(|error| failed(&disks[1], error))?;
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext2", "-b", "1024", "-I", "128"])
            .args(["-O", "none,filetype,sparse_super"])
            .arg(&disks[1])
            .env("PATH", path_with_sbin())
            .stdout(Stdio::null()) // it warns about small inodes
            .stderr(Stdio::null())
            .status();
        match made {
            Ok(status) if status.success() => Ok(disks),
            Ok(status) => Err(format!("mke2fs: {status}")),
            Err(error) => Err(format!("mke2fs: {error}")),
        }
    }
}

/// A program in `bin` of an unpacked ram disk, as a file in `folder`.
fn extracted(
    unpacked: &[u8],
    name: &str,
    folder: &Path,
) -> Result<Option<PathBuf>, String> {
    let Some(bytes) = archive::find(unpacked, &format!("bin/{name}")) else {
        return Ok(None);
    };
    let path = folder.join(name);
    write(&path, bytes)?;
    make_executable(&path)?;
    Ok(Some(path))
}

/// `PATH` with the folders of programs for administrators.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

fn make_executable(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).map_err(|error| failed(path, error))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| failed(path, error))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
