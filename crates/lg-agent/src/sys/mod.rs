//! Linux, as the agent uses it: system calls with checked types.
//!
//! There is no C library. On i386 the calls are those that all kernels with
//! ports have, from 2.6.35 on; numbers of users are 32 bits wide.
#![expect(unsafe_code, reason = "system calls")]

mod raw;

pub use linux_raw_sys::general::{pollfd, rusage};
pub use raw::Errno;

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::mem::MaybeUninit;
use linux_raw_sys::{errno, general as g, ioctl, prctl};

/// The numbers of calls whose names differ between the processors.
#[cfg(target_arch = "x86")]
mod number {
    pub(super) use linux_raw_sys::general::{
        __NR_fcntl64 as FCNTL, __NR_fstat64 as FSTAT, __NR_mmap2 as MMAP,
        __NR_setfsgid32 as SETFSGID, __NR_setfsuid32 as SETFSUID,
        __NR_setgroups32 as SETGROUPS, __NR_setresgid32 as SETRESGID,
        __NR_setresuid32 as SETRESUID,
    };
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) use linux_raw_sys::general::{
        __NR_fcntl as FCNTL, __NR_fstat as FSTAT, __NR_mmap as MMAP,
        __NR_setfsgid as SETFSGID, __NR_setfsuid as SETFSUID,
        __NR_setgroups as SETGROUPS, __NR_setresgid as SETRESGID,
        __NR_setresuid as SETRESUID,
    };
}

/// What `fstat` fills in.
#[cfg(target_arch = "x86")]
pub type Stat = g::stat64;
/// What `fstat` fills in.
#[cfg(target_arch = "x86_64")]
pub type Stat = g::stat;

/// Result of a call.
pub type Result<T> = core::result::Result<T, Errno>;

impl Errno {
    /// There is no such file or process.
    pub const NOENT: Self = Self(errno::ENOENT);
    /// Not now.
    pub const AGAIN: Self = Self(errno::EAGAIN);
    /// A signal came.
    pub const INTR: Self = Self(errno::EINTR);
    /// Not permitted.
    pub const PERM: Self = Self(errno::EPERM);
    /// Not permitted.
    pub const ACCES: Self = Self(errno::EACCES);
    /// It is no folder.
    pub const NOTDIR: Self = Self(errno::ENOTDIR);
    /// It is a folder.
    pub const ISDIR: Self = Self(errno::EISDIR);
    /// It is no program.
    pub const NOEXEC: Self = Self(errno::ENOEXEC);
    /// There is no room on the disk.
    pub const NOSPC: Self = Self(errno::ENOSPC);
    /// There is no memory.
    pub const NOMEM: Self = Self(errno::ENOMEM);
    /// The process has too many files.
    pub const MFILE: Self = Self(errno::EMFILE);
    /// A value makes no sense.
    pub const INVAL: Self = Self(errno::EINVAL);

    /// A few words for a person.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self.0 {
            errno::ENOENT => "there is no such file",
            errno::EPERM | errno::EACCES => "permission denied",
            errno::ENOTDIR => "a part of the path is not a folder",
            errno::EISDIR => "it is a folder",
            errno::ENOEXEC => "it is not a program for this machine",
            errno::ENOSPC => "there is no room on the disk",
            errno::EROFS => "the file system is read-only",
            errno::ENOMEM => "there is no memory left",
            errno::EAGAIN => "there are too many processes",
            errno::EMFILE | errno::ENFILE => "there are too many open files",
            errno::E2BIG => "arguments and environment are too long",
            errno::ETXTBSY => "the program is being written to",
            errno::ELOOP => "there are too many links in the path",
            errno::ENAMETOOLONG => "the name is too long",
            errno::EFBIG => "the file is larger than the limit",
            _ => "the system refuses it",
        }
    }
}

/// An open file, closed when it is dropped.
#[derive(Debug)]
pub struct Fd(u32);

impl Fd {
    /// A descriptor that this process was started with.
    #[must_use]
    pub fn inherited(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> i32 {
        i32::try_from(self.0).unwrap_or(-1)
    }

    /// The same without a sign.
    #[must_use]
    pub fn raw(&self) -> u32 {
        self.0
    }

    fn word(&self) -> usize {
        self.0 as usize
    }

    fn made(word: usize) -> Self {
        Self(u32::try_from(word).unwrap_or(u32::MAX))
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: it touches no memory.
        let _ = unsafe { raw::call(g::__NR_close, [self.word()]) };
    }
}

/// A number with a sign as an argument.
const fn word(number: i32) -> usize {
    number as isize as usize
}

/// Opens a file. `O_CLOEXEC` and `O_NOCTTY` are always set.
///
/// # Errors
///
/// As the kernel says.
pub fn open(path: &CStr, flags: u32, mode: u32) -> Result<Fd> {
    let flags = flags | g::O_CLOEXEC | g::O_NOCTTY | g::O_LARGEFILE;
    let (here, path) = (g::AT_FDCWD as usize, path.as_ptr().addr());
    // SAFETY: the path ends with a zero.
    let made = unsafe {
        raw::call(g::__NR_openat, [here, path, flags as usize, mode as usize])
    };
    made.map(Fd::made)
}

/// Reads.
///
/// # Errors
///
/// As the kernel says.
pub fn read(fd: &Fd, bytes: &mut [u8]) -> Result<usize> {
    let (at, len) = (bytes.as_mut_ptr().addr(), bytes.len());
    // SAFETY: the bytes can be written.
    unsafe { raw::call(g::__NR_read, [fd.word(), at, len]) }
}

/// Writes.
///
/// # Errors
///
/// As the kernel says.
pub fn write(fd: &Fd, bytes: &[u8]) -> Result<usize> {
    let (at, len) = (bytes.as_ptr().addr(), bytes.len());
    // SAFETY: the bytes can be read.
    unsafe { raw::call(g::__NR_write, [fd.word(), at, len]) }
}

/// What there is to know of an open file.
///
/// # Errors
///
/// As the kernel says.
pub fn fstat(fd: &Fd) -> Result<Stat> {
    let mut stat = MaybeUninit::<Stat>::zeroed();
    let at = stat.as_mut_ptr().addr();
    // SAFETY: there is room for the struct.
    unsafe { raw::call(number::FSTAT, [fd.word(), at]) }?;
    // SAFETY: it is made of integers.
    Ok(unsafe { stat.assume_init() })
}

/// When a file was written to, in seconds since 1970.
#[must_use]
pub fn modified(stat: &Stat) -> i64 {
    // Its type depends on the processor.
    #[cfg(target_arch = "x86")]
    return stat.st_mtime.into();
    #[cfg(target_arch = "x86_64")]
    i64::try_from(stat.st_mtime).unwrap_or(0)
}

/// Whether a file is an ordinary one, by its mode.
#[must_use]
pub fn is_ordinary(mode: u32) -> bool {
    mode & g::S_IFMT == g::S_IFREG
}

/// Lets reads and writes return at once.
///
/// # Errors
///
/// As the kernel says.
pub fn set_nonblocking(fd: &Fd) -> Result<()> {
    let get = [fd.word(), g::F_GETFL as usize, 0];
    // SAFETY: it touches no memory.
    let flags = unsafe { raw::call(number::FCNTL, get) }?;
    let flags = flags | g::O_NONBLOCK as usize;
    let set = [fd.word(), g::F_SETFL as usize, flags];
    // SAFETY: it touches no memory.
    unsafe { raw::call(number::FCNTL, set) }?;
    Ok(())
}

/// A descriptor is closed when another program is run.
///
/// # Errors
///
/// As the kernel says.
pub fn close_in_programs(fd: u32) -> Result<()> {
    let set = [fd as usize, g::F_SETFD as usize, g::FD_CLOEXEC as usize];
    // SAFETY: it touches no memory.
    unsafe { raw::call(number::FCNTL, set) }?;
    Ok(())
}

/// A copy of a descriptor whose number is above those of the standard files.
///
/// # Errors
///
/// As the kernel says.
pub fn above_standard(fd: &Fd) -> Result<Fd> {
    let above = [fd.word(), g::F_DUPFD_CLOEXEC as usize, 3];
    // SAFETY: it touches no memory.
    unsafe { raw::call(number::FCNTL, above) }.map(Fd::made)
}

/// Both ends of a pipe: to read, to write.
///
/// # Errors
///
/// As the kernel says.
pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0_u32; 2];
    let at = ends.as_mut_ptr().addr();
    // SAFETY: there is room for two numbers.
    unsafe { raw::call(g::__NR_pipe2, [at, g::O_CLOEXEC as usize]) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// Makes `to` the same file as `fd`. It stays open in a new program.
///
/// # Errors
///
/// As the kernel says.
pub fn dup2(fd: u32, to: u32) -> Result<()> {
    // SAFETY: it touches no memory.
    unsafe { raw::call(g::__NR_dup2, [fd as usize, to as usize]) }?;
    Ok(())
}

/// Waits until one of the descriptors is ready, or for so many milliseconds.
///
/// # Errors
///
/// As the kernel says.
pub fn poll(fds: &mut [pollfd], timeout: Option<u32>) -> Result<usize> {
    let timeout =
        timeout.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
    let at = fds.as_mut_ptr().addr();
    let arguments = [at, fds.len(), word(timeout)];
    // SAFETY: the structs can be read and written.
    unsafe { raw::call(g::__NR_poll, arguments) }
}

/// The size of a set of signals in the kernel.
const SET: usize = 8;

/// Blocks all signals, or none.
///
/// # Errors
///
/// As the kernel says.
pub fn block_signals(all: bool) -> Result<()> {
    let set = if all { u64::MAX } else { 0 };
    let at = (&raw const set).addr();
    let how = g::SIG_SETMASK as usize;
    // SAFETY: the set can be read.
    unsafe { raw::call(g::__NR_rt_sigprocmask, [how, at, 0, SET]) }?;
    Ok(())
}

/// A descriptor that is ready when one of these signals came.
///
/// # Errors
///
/// As the kernel says.
pub fn signals(of: &[u32]) -> Result<Fd> {
    let set = of.iter().fold(0_u64, |set, n| set | (1 << (n - 1)));
    let at = (&raw const set).addr();
    let flags = (g::O_CLOEXEC | g::O_NONBLOCK) as usize;
    let new = usize::MAX;
    // SAFETY: the set can be read.
    let made = unsafe { raw::call(g::__NR_signalfd4, [new, at, SET, flags]) };
    made.map(Fd::made)
}

/// Gives a signal its default action.
///
/// # Errors
///
/// As the kernel says.
pub fn default_action(signal: u32) -> Result<()> {
    // Handler, flags, restorer and mask: zeros, longer than on each processor.
    let action = [0_u64; 8];
    let at = (&raw const action).addr();
    let arguments = [signal as usize, at, 0, SET];
    // SAFETY: the struct can be read.
    unsafe { raw::call(g::__NR_rt_sigaction, arguments) }?;
    Ok(())
}

/// Sends a signal to a process, or with a negative number to its group.
///
/// # Errors
///
/// As the kernel says.
pub fn kill(pid: i32, signal: u32) -> Result<()> {
    let pid = word(pid);
    // SAFETY: it touches no memory of this process.
    unsafe { raw::call(g::__NR_kill, [pid, signal as usize]) }?;
    Ok(())
}

/// The number of this process.
#[must_use]
pub fn pid() -> u32 {
    // SAFETY: it touches no memory.
    let pid = unsafe { raw::call(g::__NR_getpid, []) };
    pid.ok()
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or(0)
}

/// A child that has ended: its number, and its status as the kernel has it.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// The process.
    pub pid: u32,
    /// Its status.
    pub status: u32,
}

/// Waits for a child, one or any (`-1`). `None`: none has ended, and it was not
/// to wait.
///
/// # Errors
///
/// As the kernel says.
pub fn wait(
    pid: i32,
    block: bool,
    usage: &mut rusage,
) -> Result<Option<Waited>> {
    let mut status = 0_u32;
    let flags = if block {
        g::__WALL
    } else {
        g::__WALL | g::WNOHANG
    };
    let arguments = [
        word(pid),
        (&raw mut status).addr(),
        flags as usize,
        core::ptr::from_mut(usage).addr(),
    ];
    // SAFETY: both can be written.
    let pid = unsafe { raw::call(g::__NR_wait4, arguments) }?;
    let pid = u32::try_from(pid).unwrap_or(0);
    Ok((pid != 0).then_some(Waited { pid, status }))
}

/// An empty struct for [`wait`].
#[must_use]
pub fn no_usage() -> rusage {
    // SAFETY: it is made of integers.
    unsafe { MaybeUninit::<rusage>::zeroed().assume_init() }
}

/// Ends this process.
pub fn exit(code: u8) -> ! {
    loop {
        // SAFETY: nothing is done after it.
        let _ = unsafe { raw::call(g::__NR_exit_group, [usize::from(code)]) };
    }
}

/// Seconds and nanoseconds as the kernel has them.
#[repr(C)]
struct Time {
    seconds: isize,
    nanoseconds: isize,
}

/// Microseconds since the boot.
#[must_use]
pub fn now_us() -> u64 {
    let mut time = Time {
        seconds: 0,
        nanoseconds: 0,
    };
    let at = (&raw mut time).addr();
    let arguments = [g::CLOCK_MONOTONIC as usize, at];
    // SAFETY: the struct can be written.
    let _ = unsafe { raw::call(g::__NR_clock_gettime, arguments) };
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    let rest = u64::try_from(time.nanoseconds).unwrap_or(0) / 1000;
    seconds.saturating_mul(1_000_000).saturating_add(rest)
}

/// Milliseconds since the boot.
#[must_use]
pub fn now_ms() -> u64 {
    now_us() / 1000
}

/// Sets the time of day.
///
/// # Errors
///
/// As the kernel says.
pub fn set_time(seconds: i64, nanoseconds: u32) -> Result<()> {
    let time = Time {
        seconds: isize::try_from(seconds).map_err(|_| Errno::INVAL)?,
        nanoseconds: isize::try_from(nanoseconds).map_err(|_| Errno::INVAL)?,
    };
    let at = (&raw const time).addr();
    let arguments = [g::CLOCK_REALTIME as usize, at];
    // SAFETY: the struct can be read.
    unsafe { raw::call(g::__NR_clock_settime, arguments) }?;
    Ok(())
}

/// Becomes the leader of a new session.
///
/// # Errors
///
/// As the kernel says.
pub fn setsid() -> Result<()> {
    // SAFETY: it touches no memory.
    unsafe { raw::call(g::__NR_setsid, []) }?;
    Ok(())
}

/// Enters a folder.
///
/// # Errors
///
/// As the kernel says.
pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: the path ends with a zero.
    unsafe { raw::call(g::__NR_chdir, [path.as_ptr().addr()]) }?;
    Ok(())
}

/// Sets which rights new files do not get.
pub fn umask(mask: u32) {
    // SAFETY: it touches no memory.
    let _ = unsafe { raw::call(g::__NR_umask, [mask as usize]) };
}

/// Sets the priority of this process: -20 is the highest.
///
/// # Errors
///
/// As the kernel says.
pub fn set_priority(nice: i32) -> Result<()> {
    let nice = word(nice);
    // SAFETY: it touches no memory.
    unsafe { raw::call(g::__NR_setpriority, [0, 0, nice]) }?;
    Ok(())
}

/// Sets both limits of a resource.
///
/// # Errors
///
/// As the kernel says.
pub fn set_limit(resource: u32, value: u64) -> Result<()> {
    let value = usize::try_from(value).unwrap_or(usize::MAX);
    let limits = [value; 2];
    let at = (&raw const limits).addr();
    // SAFETY: both words can be read.
    unsafe { raw::call(g::__NR_setrlimit, [resource as usize, at]) }?;
    Ok(())
}

/// Takes over groups, then group, then user, for good.
///
/// # Errors
///
/// As the kernel says.
pub fn become_user(user: u32, group: u32, groups: &[u32]) -> Result<()> {
    set_groups(groups)?;
    let group = [group as usize; 3];
    // SAFETY: it touches no memory.
    unsafe { raw::call(number::SETRESGID, group) }?;
    let user = [user as usize; 3];
    // SAFETY: it touches no memory.
    unsafe { raw::call(number::SETRESUID, user) }?;
    Ok(())
}

/// Sets the further groups of this process.
///
/// # Errors
///
/// As the kernel says.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    let arguments = [groups.len(), groups.as_ptr().addr()];
    // SAFETY: the groups can be read.
    unsafe { raw::call(number::SETGROUPS, arguments) }?;
    Ok(())
}

/// Sets the user and the group whose rights files are opened with.
pub fn set_file_user(user: u32, group: u32) {
    // SAFETY: they touch no memory.
    let _ = unsafe { raw::call(number::SETFSGID, [group as usize]) };
    // SAFETY: likewise.
    let _ = unsafe { raw::call(number::SETFSUID, [user as usize]) };
}

/// Runs another program in this process. It returns only if it cannot.
pub fn execve(path: &CStr, argv: &Strings, env: &Strings) -> Errno {
    let arguments = [
        path.as_ptr().addr(),
        argv.pointers.as_ptr().addr(),
        env.pointers.as_ptr().addr(),
    ];
    // SAFETY: the path ends with a zero, and so do both lists and what they
    // point to.
    match unsafe { raw::call(g::__NR_execve, arguments) } {
        Err(error) => error,
        Ok(_) => Errno::INVAL,
    }
}

/// Strings as a program gets them: a list of addresses that ends with zero.
#[derive(Debug)]
pub struct Strings {
    /// What the addresses point to. It is never changed.
    _strings: Vec<CString>,
    pointers: Vec<usize>,
}

impl Strings {
    /// These strings.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<usize> = strings
            .iter()
            .map(|s| s.as_ptr().expose_provenance())
            .collect();
        pointers.push(0);
        Self {
            _strings: strings,
            pointers,
        }
    }
}

/// Mounts a file system, with options of its own.
///
/// # Errors
///
/// As the kernel says.
pub fn mount(
    source: &CStr,
    to: &CStr,
    kind: &CStr,
    flags: u32,
    options: &CStr,
) -> Result<()> {
    let arguments = [
        source.as_ptr().addr(),
        to.as_ptr().addr(),
        kind.as_ptr().addr(),
        flags as usize,
        options.as_ptr().addr(),
    ];
    // SAFETY: the strings end with a zero.
    unsafe { raw::call(g::__NR_mount, arguments) }?;
    Ok(())
}

/// Makes a folder.
///
/// # Errors
///
/// As the kernel says.
pub fn mkdir(path: &CStr, mode: u32) -> Result<()> {
    let arguments = [path.as_ptr().addr(), mode as usize];
    // SAFETY: the path ends with a zero.
    unsafe { raw::call(g::__NR_mkdir, arguments) }?;
    Ok(())
}

/// Removes an empty folder.
///
/// # Errors
///
/// As the kernel says.
pub fn rmdir(path: &CStr) -> Result<()> {
    // SAFETY: the path ends with a zero.
    unsafe { raw::call(g::__NR_rmdir, [path.as_ptr().addr()]) }?;
    Ok(())
}

/// Makes a node for a character device.
///
/// # Errors
///
/// As the kernel says.
pub fn mknod(path: &CStr, mode: u32, major: u32, minor: u32) -> Result<()> {
    let device = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
    let mode = mode | g::S_IFCHR;
    let arguments = [path.as_ptr().addr(), mode as usize, device as usize];
    // SAFETY: the path ends with a zero.
    unsafe { raw::call(g::__NR_mknod, arguments) }?;
    Ok(())
}

/// Gives a file another name.
///
/// # Errors
///
/// As the kernel says.
pub fn rename(from: &CStr, to: &CStr) -> Result<()> {
    let arguments = [from.as_ptr().addr(), to.as_ptr().addr()];
    // SAFETY: the paths end with a zero.
    unsafe { raw::call(g::__NR_rename, arguments) }?;
    Ok(())
}

/// Removes a file.
///
/// # Errors
///
/// As the kernel says.
pub fn unlink(path: &CStr) -> Result<()> {
    // SAFETY: the path ends with a zero.
    unsafe { raw::call(g::__NR_unlink, [path.as_ptr().addr()]) }?;
    Ok(())
}

/// Sets the rights of a file.
///
/// # Errors
///
/// As the kernel says.
pub fn fchmod(fd: &Fd, mode: u32) -> Result<()> {
    // SAFETY: it touches no memory.
    unsafe { raw::call(g::__NR_fchmod, [fd.word(), mode as usize]) }?;
    Ok(())
}

/// The next entries of a folder, as the kernel writes them.
///
/// # Errors
///
/// As the kernel says.
pub fn entries(fd: &Fd, bytes: &mut [u8]) -> Result<usize> {
    let (at, len) = (bytes.as_mut_ptr().addr(), bytes.len());
    // SAFETY: the bytes can be written.
    unsafe { raw::call(g::__NR_getdents64, [fd.word(), at, len]) }
}

/// Writes all that is in memory to the disks.
pub fn sync() {
    // SAFETY: it touches no memory.
    let _ = unsafe { raw::call(g::__NR_sync, []) };
}

/// Powers the machine off. It returns only if it cannot.
pub fn power_off() -> Errno {
    const MAGIC: [usize; 3] = [0xfee1_dead, 672_274_793, 0x4321_fedc];
    // SAFETY: nothing is left to be done.
    match unsafe { raw::call(g::__NR_reboot, MAGIC) } {
        Err(error) => error,
        Ok(_) => Errno::INVAL,
    }
}

/// Orphans among this process's descendants become its children.
pub fn adopt_orphans() {
    let what = prctl::PR_SET_CHILD_SUBREAPER as usize;
    // SAFETY: it touches no memory.
    let _ = unsafe { raw::call(g::__NR_prctl, [what, 1, 0, 0, 0]) };
}

/// This process is killed when its parent ends.
pub fn end_with_parent() {
    let what = prctl::PR_SET_PDEATHSIG as usize;
    let signal = g::SIGKILL as usize;
    // SAFETY: it touches no memory.
    let _ = unsafe { raw::call(g::__NR_prctl, [what, signal, 0, 0, 0]) };
}

/// Both sides of a new terminal: its master, and the terminal itself.
///
/// # Errors
///
/// As the kernel says.
pub fn terminal() -> Result<(Fd, Fd)> {
    let master = open(c"/dev/ptmx", g::O_RDWR, 0)?;
    let (mut locked, mut number) = (0_i32, 0_u32);
    let unlock = [
        master.word(),
        ioctl::TIOCSPTLCK as usize,
        (&raw mut locked).addr(),
    ];
    // SAFETY: the number can be read.
    unsafe { raw::call(g::__NR_ioctl, unlock) }?;
    let which = [
        master.word(),
        ioctl::TIOCGPTN as usize,
        (&raw mut number).addr(),
    ];
    // SAFETY: the number can be written.
    unsafe { raw::call(g::__NR_ioctl, which) }?;
    let path = alloc::format!("/dev/pts/{number}");
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let slave = open(&path, g::O_RDWR, 0)?;
    Ok((master, slave))
}

/// Sets the size of a terminal.
///
/// # Errors
///
/// As the kernel says.
pub fn resize(fd: &Fd, rows: u16, cols: u16) -> Result<()> {
    let size = [rows, cols, 0, 0];
    let at = (&raw const size).addr();
    let arguments = [fd.word(), ioctl::TIOCSWINSZ as usize, at];
    // SAFETY: the struct can be read.
    unsafe { raw::call(g::__NR_ioctl, arguments) }?;
    Ok(())
}

/// Makes the terminal at a descriptor this session's.
///
/// # Errors
///
/// As the kernel says.
pub fn control_terminal(fd: u32) -> Result<()> {
    let arguments = [fd as usize, ioctl::TIOCSCTTY as usize, 0];
    // SAFETY: it touches no memory.
    unsafe { raw::call(g::__NR_ioctl, arguments) }?;
    Ok(())
}

/// Gives the kernel's pool random bytes, counted as random, and has it use
/// them at once, where it can.
///
/// # Errors
///
/// As the kernel says.
pub fn add_random(fd: &Fd, bytes: &[u8]) -> Result<()> {
    /// Bits, bytes, and the bytes.
    #[repr(C)]
    struct Pool {
        bits: i32,
        length: i32,
        bytes: [u8; 256],
    }
    let mut pool = Pool {
        bits: 0,
        length: 0,
        bytes: [0; 256],
    };
    let length = bytes.len().min(pool.bytes.len());
    pool.bytes[..length].copy_from_slice(&bytes[..length]);
    pool.length = i32::try_from(length).unwrap_or(0);
    pool.bits = pool.length * 8;
    let at = (&raw const pool).addr();
    let add = [fd.word(), ioctl::RNDADDENTROPY as usize, at];
    // SAFETY: the struct can be read.
    unsafe { raw::call(g::__NR_ioctl, add) }?;
    let again = [fd.word(), ioctl::RNDRESEEDCRNG as usize, 0];
    // SAFETY: it touches no memory.
    unsafe { raw::call(g::__NR_ioctl, again) }?;
    Ok(())
}

/// Switches the loopback interface on.
///
/// # Errors
///
/// As the kernel says.
pub fn loopback_up() -> Result<()> {
    const INET_DATAGRAM: [usize; 3] = [2, 2, 0];
    const SIOCSIFFLAGS: usize = 0x8914;
    // Older kernels have sockets by one call for all of them.
    #[cfg(target_arch = "x86")]
    let (number, arguments) =
        (g::__NR_socketcall, [1, INET_DATAGRAM.as_ptr().addr(), 0]);
    #[cfg(target_arch = "x86_64")]
    let (number, arguments) = (g::__NR_socket, INET_DATAGRAM);
    // SAFETY: the arguments can be read.
    let socket = Fd::made(unsafe { raw::call(number, arguments) }?);
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16] = 1; // IFF_UP
    let at = request.as_ptr().addr();
    // SAFETY: the struct can be read.
    unsafe { raw::call(g::__NR_ioctl, [socket.word(), SIOCSIFFLAGS, at]) }?;
    Ok(())
}

/// Sets the name of the machine.
pub fn set_host_name(name: &[u8]) {
    let arguments = [name.as_ptr().addr(), name.len()];
    // SAFETY: the name can be read.
    let _ = unsafe { raw::call(g::__NR_sethostname, arguments) };
}

/// Zeroed memory of its own, unmapped when it is dropped.
#[derive(Debug)]
pub struct Memory {
    at: *mut u8,
    length: usize,
}

impl Memory {
    /// So many bytes. Pages cost memory once they are used.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn new(length: usize) -> Result<Self> {
        let rights = g::PROT_READ | g::PROT_WRITE;
        let flags = g::MAP_PRIVATE | g::MAP_ANONYMOUS | g::MAP_NORESERVE;
        let arguments =
            [0, length, rights as usize, flags as usize, usize::MAX, 0];
        // SAFETY: nothing was there.
        let at = unsafe { raw::call(number::MMAP, arguments) }?;
        let at = core::ptr::with_exposed_provenance_mut(at);
        Ok(Self { at, length })
    }

    /// Its first byte.
    #[must_use]
    pub fn start(&self) -> *mut u8 {
        self.at
    }

    /// The byte after its last.
    #[must_use]
    pub fn end(&self) -> *mut u8 {
        self.at.wrapping_add(self.length)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let arguments = [self.at.addr(), self.length];
        // SAFETY: no process uses the memory any more.
        let _ = unsafe { raw::call(g::__NR_munmap, arguments) };
    }
}

/// How a process is made that shares this one's memory.
#[derive(Clone, Copy, Debug)]
pub enum Shares {
    /// It shares open files, too, and runs beside this process.
    Files,
    /// This process waits until it has started a program or ended.
    Waits,
}

/// Makes a process that calls a function on another stack.
///
/// # Safety
///
/// As for [`raw::clone`]: nothing uses the stack until the process is gone, and
/// what the function does is right for two processes at once.
///
/// # Errors
///
/// As the kernel says.
pub unsafe fn clone(
    shares: Shares,
    stack: &Memory,
    function: unsafe extern "C" fn(*mut u8) -> !,
    argument: *mut u8,
) -> Result<u32> {
    let more = match shares {
        Shares::Files => g::CLONE_FILES,
        Shares::Waits => g::CLONE_VFORK,
    };
    let flags = g::CLONE_VM | more | g::SIGCHLD;
    // SAFETY: the caller answers for the stack and the function; none of the
    // flags needs an argument.
    unsafe { raw::clone(flags, stack.end(), function, argument) }
}

/// Ends the calling process that was made by [`clone`].
pub fn exit_alone(code: u8) -> ! {
    loop {
        // SAFETY: nothing is done after it.
        let _ = unsafe { raw::call(g::__NR_exit, [usize::from(code)]) };
    }
}

/// The limits that a run can have.
pub mod limit {
    pub use linux_raw_sys::general::{
        RLIMIT_AS, RLIMIT_CORE, RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_NOFILE,
        RLIMIT_NPROC,
    };
}

/// Flags and numbers that callers pass.
pub mod flag {
    pub use linux_raw_sys::general::{
        MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT, O_CREAT,
        O_DIRECTORY, O_EXCL, O_NONBLOCK, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY,
        POLLHUP, POLLIN, POLLOUT, SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM,
    };
}
