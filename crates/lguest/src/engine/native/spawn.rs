//! Starting the view spawner, from a program inside our own.
//!
//! It inherits a handful of descriptors, each with a fixed number, and nothing
//! else of the Launcher's: no standard streams, no environment, no arguments.

#![expect(unsafe_code, reason = "what a child does between fork and exec")]

use super::child::{Child, START, WATCH, lack};
use super::footprint;
use super::state::Shared;
use crate::engine::interface::SharedPage;
use crate::memory::{GuestMemory, executable_file};
use crate::needs::{Cause, Lack};
use lg_wire::spawn::{
    COMMAND_FD, COPIES_FD, MEMORY_FD, SHARED_PAGE_FD, STATE_FD, disk_fd,
    outbox_fd,
};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::Ordering;

/// The view program.
static VIEW: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lg-view"));

/// The view program. The Host's part of a state is laid out as this program
/// has it.
#[must_use]
pub fn view_program() -> &'static [u8] {
    VIEW
}

/// Starts the view spawner, with everything that it inherits. Also returns our
/// end of the socket.
pub(super) fn start_spawner(
    memory: &GuestMemory,
    shared: &Shared,
    (copies, pages, disks): (BorrowedFd<'_>, &[SharedPage], &[OwnedFd]),
) -> Result<(UnixStream, Child), Lack> {
    const TALK: &str = "talk to the guest's processes";
    let (command, theirs) = UnixStream::pair().map_err(lack(TALK))?;
    let program = executable_file("lguest-view").map_err(no_program)?;
    let copy = program.try_clone().map_err(lack(START))?;
    File::from(copy).write_all(VIEW).map_err(lack(START))?;
    let_go_of_view();
    let mut fds = vec![
        (memory.file(), MEMORY_FD),
        (shared.file.as_fd(), STATE_FD),
        (theirs.as_fd(), COMMAND_FD),
        (copies, COPIES_FD),
    ];
    fds.extend(pages.iter().map(|p| p.file.as_fd()).zip(SHARED_PAGE_FD..));
    for (index, page) in pages.iter().enumerate() {
        fds.push((page.outbox.as_fd(), outbox_fd(pages.len(), index)));
    }
    for (index, disk) in disks.iter().enumerate() {
        fds.push((disk.as_fd(), disk_fd(pages.len(), index)));
    }
    shared.mailbox().reply.store(0, Ordering::SeqCst);
    // Without a descriptor, a child could not be watched.
    let room = rustix::io::dup(&theirs).map_err(lack(WATCH))?;
    let (limit, trace) = (memory.limit(), shared.trace_size());
    let space = footprint::address_space(limit, pages.len(), trace);
    let child = spawn(&program, &fds, space).map_err(lack(START))?;
    drop(room);
    let pid = i32::try_from(child).unwrap_or(0);
    Ok((command, Child::of_ours(pid)?))
}

/// Why there is no file for a program.
pub(crate) fn no_program(error: rustix::io::Errno) -> Lack {
    if error == rustix::io::Errno::ACCESS {
        Lack::new(START, Cause::NoExecutableFiles)
    } else {
        Lack::when(START, error)
    }
}

/// A Guest's thread-local segments have bases. Only instructions of the
/// processor set them fast enough: FSGSBASE, which the kernel has to allow
/// (Linux 5.9, `AT_HWCAP2` bit 1).
pub(crate) fn check_processor() -> Result<(), Lack> {
    const FSGSBASE: libc::c_ulong = 1 << 1;
    // SAFETY: reads what the kernel has told at the start.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & FSGSBASE != 0 {
        return Ok(());
    }
    Err(Lack::new(START, Cause::NoFsgsbase))
}

/// Gives the pages of the view program back to the kernel: the program is not
/// used again. A later read would load them from our program's file.
fn let_go_of_view() {
    const PAGE: usize = lg_abi::page::PAGE_SIZE as usize;
    let begin = VIEW.as_ptr().align_offset(PAGE).min(VIEW.len());
    let whole = (VIEW.len() - begin) / PAGE * PAGE;
    let at = VIEW[begin..].as_ptr().cast_mut();
    // SAFETY: whole pages of a constant of this program, which cannot have been
    // changed: what is read again is the same.
    let _ = unsafe { libc::madvise(at.cast(), whole, libc::MADV_DONTNEED) };
}

/// A copy of a descriptor, with a number from `least` up.
fn dup_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    match rustix::io::fcntl_dupfd_cloexec(fd, least) {
        // The kernel says so when `least` is more than we may have.
        Err(rustix::io::Errno::INVAL) => Err(rustix::io::Errno::MFILE.into()),
        other => Ok(other?),
    }
}

/// Starts `program` with exactly these descriptors, and nothing else of ours:
/// no standard streams, no environment. Returns its process number.
fn spawn(
    program: &OwnedFd,
    fds: &[(BorrowedFd<'_>, RawFd)],
    address_space: u64,
) -> io::Result<u32> {
    // Above every descriptor of the view, and no further: a user may be allowed
    // few.
    let out_of_the_way = fds.iter().map(|&(_, to)| to + 1).max().unwrap_or(3);
    let mut sources = Vec::with_capacity(fds.len());
    for &(fd, target) in fds {
        let moved = dup_above(fd, out_of_the_way)?;
        sources.push((moved, target));
    }
    let program = dup_above(program.as_fd(), out_of_the_way)?;
    let program = program.as_raw_fd();
    let moves: Vec<(RawFd, RawFd)> = sources
        .iter()
        .map(|(fd, target)| (fd.as_raw_fd(), *target))
        .collect();
    // Standard streams are closed below. For other settings, `Command` would
    // open /dev/null, and a confined Launcher opens nothing.
    let mut command = Command::new("lg-view");
    // SAFETY: between fork and exec, only system calls.
    unsafe {
        command.pre_exec(move || {
            footprint::bound(address_space);
            die_with_launcher();
            become_view(program, &moves)
        });
    }
    let child = command.spawn()?;
    // The child is reaped by its descriptor, not by std.
    Ok(child.id())
}

/// In the child: the kernel kills it when the Launcher ends. Its program asks
/// for the same, and reports an error if that fails. This call is for a child
/// that is stopped before.
fn die_with_launcher() {
    // SAFETY: a switch of this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// In the child: gives the descriptors their numbers and becomes the view.
/// Returns only with an error.
fn become_view(program: RawFd, moves: &[(RawFd, RawFd)]) -> io::Result<()> {
    for &(from, to) in moves {
        // SAFETY: a system call on numbers. The copy survives exec.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for fd in 0..=2 {
        // SAFETY: a view has no standard streams; nothing is written to them
        // between here and exec.
        unsafe { libc::close(fd) };
    }
    // Descriptors that the Launcher has inherited and never closed end here,
    // too. The program's own descriptor is still needed, so exec closes them
    // all.
    let last = moves.iter().map(|&(_, to)| to).max().unwrap_or(2);
    let first = libc::c_uint::try_from(last + 1).unwrap_or(0);
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: a system call on numbers.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }
        < 0
    {
        return Err(io::Error::last_os_error());
    }
    let name = c"lguest-view";
    let arguments = [name.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both arrays end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the view program has this text in it.
    fn says(text: &str) -> bool {
        VIEW.windows(text.len()).any(|w| w == text.as_bytes())
    }

    #[test]
    fn panics_do_not_tell_where_the_view_was_built() {
        let here = env!("CARGO_MANIFEST_DIR");
        let root = here.strip_suffix("crates/lguest").unwrap();
        assert!(!says(root), "{root}");
        assert!(says("crates/lg-host/src/"));
    }
}
