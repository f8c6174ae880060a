//! The process of a share: its start, its life, its end.
//!
//! It is a fork of the Launcher, made while the Launcher opens files. It keeps
//! the folder and its socket, and nothing else that was open. It ends when the
//! Launcher does: its socket is closed then, and the kernel kills it.

#![expect(unsafe_code, reason = "forks")]

use super::error::ShareError;
use super::server::{Payload, Server};
use super::wire::Asked;
use super::{walls, wire};
use crate::killer;
use crate::needs::Lack;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions,
    getppid, pidfd_open, waitid, waitpid,
};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// What could not be done.
const SHARE: &str = "share a folder";

/// How long the start may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the end is waited for, twice. A server that waits for a disk does
/// not end at once, and ends all the same.
const END: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Exit codes of a server: its Launcher has ended, and others. A panic may end
/// it as it ends the Launcher.
const DONE: i32 = 0;
const PANICKED: i32 = 123;
const BAD_REQUEST: i32 = 2;
const NOT_STARTED: i32 = 3;

/// A share server, as the Launcher has it.
pub(super) struct Process {
    descriptor: OwnedFd,
    killer: killer::Killer,
}

/// Starts a server of `folder`. Returns it, the socket to it, and a line about
/// each of its walls.
pub(super) fn start(
    folder: OwnedFd,
    read_only: bool,
    open_walls: u32,
) -> Result<(Process, OwnedFd, String), ShareError> {
    let lack = |error: io::Error| Lack::when(SHARE, error);
    let (ours, theirs) = wire::pair().map_err(|e| lack(e.into()))?;
    let launcher = rustix::process::getpid();
    // SAFETY: the child never returns from here, and takes no lock that another
    // thread of this process may hold: the C library keeps its own in order.
    let pid = match unsafe { libc::fork() } {
        0 => {
            let life = AssertUnwindSafe(|| {
                live(folder, theirs, launcher, read_only, open_walls)
            });
            let Err(_) = std::panic::catch_unwind(life);
            end(PANICKED)
        }
        -1 => return Err(lack(io::Error::last_os_error()).into()),
        pid => pid,
    };
    drop((folder, theirs));
    let pid = Pid::from_raw(pid).expect("a child has a number");
    let process = match Process::of(pid) {
        Ok(process) => process,
        Err(error) => {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
            return Err(lack(error).into());
        }
    };
    match process.wait_until_ready(&ours) {
        Ok(walls) => Ok((process, ours, walls)),
        Err(error) => {
            // Its end is waited for, and without its socket it ends.
            drop(ours);
            Err(error)
        }
    }
}

impl Process {
    /// The child with this number.
    fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self {
            descriptor: pidfd_open(pid, PidfdFlags::empty())?,
            killer: killer::Killer::of(pid)?,
        })
    }

    fn wait_until_ready(&self, socket: &OwnedFd) -> Result<String, ShareError> {
        let lack = |error: Errno| Lack::when(SHARE, error);
        let time = Timespec::try_from(PATIENCE).ok();
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut fds, time.as_ref()) {
            Ok(0) => return Err(ShareError::NotReady(PATIENCE)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(lack(error).into()),
        }
        let mut report = vec![0; wire::LONGEST_REPORT];
        let got = recv(socket, &mut report[..], RecvFlags::empty());
        let (_, got) = got.map_err(lack)?;
        match &report[..got] {
            [wire::READY, walls @ ..] => {
                Ok(String::from_utf8_lossy(walls).into_owned())
            }
            [_, number @ ..] if number.len() == 4 => {
                let number = [number[0], number[1], number[2], number[3]];
                let number = i32::from_le_bytes(number);
                let error = io::Error::from_raw_os_error(number);
                Err(ShareError::NoProc(error))
            }
            _ => Err(ShareError::Ended(self.how_it_ended())),
        }
    }

    /// How it has ended, in a few words.
    pub(super) fn how_it_ended(&self) -> String {
        let Some(status) = self.wait_for_the_end() else {
            return "it is not known why".into();
        };
        match (status.exit_status(), status.terminating_signal()) {
            (Some(PANICKED), _) => "by a bug in it".into(),
            (Some(BAD_REQUEST), _) => "it was sent no request".into(),
            (Some(code), _) => format!("with code {code}"),
            (_, Some(libc::SIGSYS)) => {
                "by a system call that it may not make".into()
            }
            (_, Some(signal)) => format!("by signal {signal}"),
            _ => "it is not known why".into(),
        }
    }

    /// Waits for its end, which the end of its socket brings about. One that
    /// was taken over may have other plans, and has the Guest's memory. So it
    /// is killed.
    pub(super) fn wait_for_the_end(&self) -> Option<WaitIdStatus> {
        if !self.ends_soon() {
            self.killer.kill();
            self.ends_soon();
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        waitid(WaitId::PidFd(self.descriptor.as_fd()), options)
            .ok()
            .flatten()
    }

    /// Kills it. Does not wait for its end.
    pub(super) fn kill(&self) {
        self.killer.kill();
    }

    fn ends_soon(&self) -> bool {
        let mut ended = [PollFd::new(&self.descriptor, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&END)), Ok(1..))
    }

    /// What kills it.
    #[cfg(test)]
    pub(super) fn killer(&self) -> Killer {
        Killer(
            self.descriptor
                .try_clone()
                .expect("there is a descriptor left"),
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.wait_for_the_end();
    }
}

/// What kills a server, as another process may.
#[cfg(test)]
pub(crate) struct Killer(OwnedFd);

#[cfg(test)]
impl Killer {
    /// Stops it until [`Self::go_on`].
    pub(crate) fn stop(&self) {
        let stop = rustix::process::pidfd_send_signal(&self.0, Signal::STOP);
        stop.expect("it is our child");
        let this = WaitId::PidFd(self.0.as_fd());
        let stopped = waitid(this, WaitIdOptions::STOPPED);
        stopped.expect("it is our child");
    }

    pub(crate) fn go_on(&self) {
        let go_on = rustix::process::pidfd_send_signal(&self.0, Signal::CONT);
        go_on.expect("it is our child");
    }

    /// Whether it is gone.
    pub(crate) fn has_killed(&self) -> bool {
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&END)), Ok(1..))
    }

    pub(crate) fn kill(&self) {
        let kill = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
        kill.expect("it is our child");
        // Until its end can be seen, its socket may be open.
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        let _ = poll(&mut ended, None);
    }
}

/// The life of a server.
fn live(
    folder: OwnedFd,
    socket: OwnedFd,
    launcher: Pid,
    read_only: bool,
    open_walls: u32,
) -> ! {
    let [folder, socket] = match settle([folder, socket]) {
        Ok(kept) => kept,
        Err(_) => end(NOT_STARTED),
    };
    let death =
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // It may have ended before that.
    if death.is_err() || getppid() != Some(launcher) {
        end(NOT_STARTED);
    }
    let server = folder
        .try_clone()
        .and_then(|folder| Server::new(folder, read_only));
    let mut server = match server {
        Ok(server) => server,
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(libc::EIO);
            let report = [&[0][..], &number.to_le_bytes()].concat();
            let _ = send(&socket, &report, SendFlags::NOSIGNAL);
            end(NOT_STARTED);
        }
    };
    let walls = walls::put_up(folder.as_fd(), read_only, open_walls);
    drop(folder);
    let lines: Vec<String> = walls.iter().map(ToString::to_string).collect();
    let mut report = vec![wire::READY];
    report.extend(lines.join("\n").bytes());
    report.truncate(wire::LONGEST_REPORT);
    let _ = send(&socket, &report, SendFlags::NOSIGNAL);
    match serve(&mut server, &socket) {
        Ok(()) => end(DONE),
        Err(_) => end(BAD_REQUEST),
    }
}

/// Answers requests until the Launcher has ended.
fn serve(server: &mut Server, socket: &OwnedFd) -> io::Result<()> {
    let Some(memory) = wire::receive_memory(socket.as_fd())? else {
        return Ok(());
    };
    let region = memory.region();
    let socket = socket.as_fd();
    // The session, as it is told, and as it is taken.
    let mut told = Ok(String::new());
    let mut taken = Vec::new();
    while let Some(asked) = wire::receive_request(socket, region)? {
        match asked {
            Asked::Request(number, readable, writable) => {
                let payload = Payload {
                    memory: &memory,
                    readable: &readable,
                    writable: &writable,
                };
                let bytes = server.serve(&payload);
                wire::send_answer(socket, number, bytes)?;
            }
            Asked::Tell(from) => {
                if from == 0 {
                    told = server.tell();
                }
                let text = told.as_deref().map_err(String::as_str);
                wire::send_told(socket, text, from)?;
            }
            Asked::Take(piece, last) => {
                taken.extend(piece);
                if taken.len() > wire::MOST_SESSION {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if last {
                    let done = server.go_on(&std::mem::take(&mut taken));
                    let done = done.as_ref().map(|()| "");
                    wire::send_told(socket, done.map_err(|why| &**why), 0)?;
                }
            }
        }
    }
    Ok(())
}

/// Ends this process, and runs nothing of the Launcher's.
fn end(code: i32) -> ! {
    // SAFETY: the process ends here.
    unsafe { libc::_exit(code) }
}

/// Where the kept files are, above the standard streams.
const FIRST: RawFd = 3;

/// Keeps two files, and closes everything else of the Launcher in this process.
/// No signal but SIGKILL is handled from then on.
fn settle(keep: [OwnedFd; 2]) -> io::Result<[OwnedFd; 2]> {
    // First above all places, and then into them.
    let above = keep.map(|fd| {
        let fd = fd.into_raw_fd();
        // SAFETY: a system call on a number.
        unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST + 2) }
    });
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: a name that ends, and numbers.
    let nothing = unsafe { libc::open(c"/".as_ptr(), flags) };
    // Nothing is read from there or written there. But no file of the Guest's
    // may get these numbers.
    let mut placed = (0..FIRST).all(|to| {
        // SAFETY: a system call on numbers.
        unsafe { libc::dup2(nothing, to) == to }
    });
    for (to, from) in (FIRST..).zip(above) {
        // SAFETY: as above.
        placed &= unsafe { libc::dup2(from, to) == to };
    }
    let rest = FIRST + 2;
    // SAFETY: as above. No code of this process uses these files.
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, rest, i32::MAX, 0) };
    if !placed || closed != 0 {
        return Err(io::Error::last_os_error());
    }
    leave();
    // SAFETY: both were put there just now.
    Ok([FIRST, FIRST + 1].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// No signals, no handler of the Launcher, and all permissions as the Guest
/// asks for them. As many files as the machine allows. It stays in the session
/// of its Launcher, and so has no share of the processor of its own.
fn leave() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: there is room for a set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    let none = std::ptr::null_mut();
    // SAFETY: the set is filled, and the old set is not written.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), none) };
    // If this fails, the server goes on.
    let _ = rustix::thread::set_name(c"lguest-share");
    // SAFETY: a system call on a number.
    unsafe { libc::umask(0) };
    let files = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(files);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(files, limit);
}

#[cfg(test)]
mod tests;
