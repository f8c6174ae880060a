//! The porter: a process that receives the messages of foreign processes.
//!
//! A message may carry files of any kind. Some block the process that asks
//! what they are, and some block the process that closes them: a file of a
//! FUSE server that does not answer, or a TCP socket that lingers. A process
//! that is blocked by FUSE cannot even be killed. So a Launcher receives no
//! message of a foreign process. It hands the connection to its porter, which
//! forks a helper for each message. The helper receives the message, asks
//! whether each file is sealed memory (a question that never blocks), and sends
//! good messages on to the Launcher. A file that blocks, blocks one helper.
//!
//! The last process that closes a connection also closes the files of messages
//! that were never received. So the Launcher has a helper close each
//! [`Connection`], too. The porter itself never has one: it only sees that
//! there is a job, and the helper takes it.
//!
//! The porter begins as a fork of the Launcher, before the Launcher has
//! anything of the Guest. It keeps two sockets and the calls of [`filter()`].

#![expect(unsafe_code, reason = "forks")]

use super::messages::{self, LONGEST_MESSAGE, Message};
use libc::c_long;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
    ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid,
    pidfd_open, pidfd_send_signal, waitid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// How long the Launcher waits for the end of its porter. A stopped porter does
/// not end.
const PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// How long the porter waits when it cannot start another process.
const NO_ROOM_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What a helper has to do with the connection that comes with this.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Job {
    /// The Launcher's name for the connection.
    id: u64,
    /// 1 = receive a message and answer; 0 = close it.
    answer: u64,
}

/// The result. The files of a good message come with this.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Answer {
    id: u64,
    outcome: u32,
    /// Bytes of the message.
    len: u32,
    message: [u8; LONGEST_MESSAGE],
}

/// The message is whole, and its files are sealed memory.
const GOOD: u32 = 1;
/// There is no message yet.
const NOTHING: u32 = 2;
/// The message is bad, or the connection has ended.
const BAD: u32 = 3;

/// What a foreign process has sent.
pub(super) enum Received {
    /// These bytes, with these files, which are sealed memory.
    Message(Vec<u8>, Vec<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// Bytes that are no message; or the connection has ended.
    Bad,
}

impl Received {
    /// The message, if it is one of this kind.
    pub(super) fn parse<T: Message>(self) -> Option<(T, Vec<OwnedFd>)> {
        match self {
            Self::Message(bytes, files) => {
                Some((messages::parse(&bytes)?, files))
            }
            Self::Nothing | Self::Bad => None,
        }
    }
}

/// A Launcher's porter.
#[derive(Debug)]
pub(super) struct Porter {
    jobs: Option<OwnedFd>,
    answers: OwnedFd,
    process: OwnedFd,
    #[cfg(fuzzing)]
    their_answers: OwnedFd,
}

impl Porter {
    /// Starts the process.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, their_jobs) = pair()?;
        let (answers, their_answers) = pair()?;
        let filter = filter().map_err(io::Error::other)?;
        if cfg!(fuzzing) {
            let process = pidfd_open(getpid(), PidfdFlags::empty())?;
            return Ok(Self {
                jobs: Some(jobs),
                answers,
                process,
                #[cfg(fuzzing)]
                their_answers,
            });
        }
        // SAFETY: the child makes system calls only, on what it has inherited.
        let pid = unsafe { fork() }?;
        if pid == 0 {
            life(their_jobs.as_fd(), their_answers.as_fd(), &filter);
        }
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a child has a number");
        Ok(Self {
            jobs: Some(jobs),
            answers,
            process: pidfd_open(pid, PidfdFlags::empty())?,
            #[cfg(fuzzing)]
            their_answers,
        })
    }

    /// Has a helper receive the next message of connection `id`, which waits
    /// there. Does not wait. The answer comes by [`Self::answer`].
    ///
    /// # Errors
    ///
    /// What the kernel says; there will be no answer then.
    pub(super) fn ask(
        &self,
        id: u64,
        connection: &Connection,
    ) -> io::Result<()> {
        self.send(Job { id, answer: 1 }, &[connection.as_fd()])
    }

    /// Readable when there is an answer.
    pub(super) fn answers(&self) -> BorrowedFd<'_> {
        self.answers.as_fd()
    }

    /// The next answer, with its connection; `None` when there is none yet.
    ///
    /// # Errors
    ///
    /// The porter and all of its helpers have ended.
    pub(super) fn answer(&self) -> io::Result<Option<(u64, Received)>> {
        let mut answer = Answer::new_zeroed();
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let bytes = answer.as_mut_bytes();
        let received = receive(self.answers.as_fd(), bytes, flags);
        let (len, files, whole) = match received {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            other => other?,
        };
        if len != size_of::<Answer>() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = answer.message.get(..answer.len as usize);
        let received = match (answer.outcome, message) {
            // If it is not whole, there was no room for its files.
            (GOOD, Some(message)) if whole => {
                let files = files.into_iter().flatten().collect();
                Received::Message(message.to_vec(), files)
            }
            (NOTHING, _) => Received::Nothing,
            _ => Received::Bad,
        };
        Ok(Some((answer.id, received)))
    }

    /// Closes `socket`, but never as the last process: a helper keeps it until
    /// our end of a pipe is closed.
    fn close(&self, socket: OwnedFd) {
        let job = Job { id: 0, answer: 0 };
        let sent = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
        let sent = sent.and_then(|(until, ours)| {
            self.send(job, &[socket.as_fd(), until.as_fd()])?;
            Ok(ours)
        });
        if let Ok(ours) = sent {
            drop(socket);
            drop(ours);
        } else {
            // Without a porter, a thread of its own closes it, which can block
            // only the end of this process; and without a thread it is not
            // closed at all.
            let kept = Arc::new(socket);
            let closed = Arc::clone(&kept);
            let closer = std::thread::Builder::new().name("close".into());
            if closer.spawn(move || drop(closed)).is_err() {
                std::mem::forget(kept);
            }
        }
    }

    #[cfg(not(fuzzing))]
    fn send(&self, job: Job, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(jobs.as_fd(), job.as_bytes(), files, flags)?;
        Ok(())
    }

    /// A fuzzer does not fork: this does the work of a helper.
    #[cfg(fuzzing)]
    fn send(&self, job: Job, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        if job.answer == 1 {
            drop(answer(files[0], job.id, self.their_answers.as_fd()));
        }
        Ok(())
    }
}

impl Drop for Porter {
    /// Waits for the end of the porter, for [`PATIENCE`] at most.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if cfg!(fuzzing) {
            return;
        }
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        if !matches!(poll(&mut ended, Some(&PATIENCE)), Ok(1)) {
            let _ = pidfd_send_signal(&self.process, Signal::KILL);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(self.process.as_fd()), options);
    }
}

/// A socket to a foreign process. This process receives nothing from it, and the
/// porter closes it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Option<OwnedFd>,
    porter: Arc<Porter>,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, porter: &Arc<Porter>) -> Self {
        Self {
            socket: Some(socket),
            porter: Arc::clone(porter),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket
            .as_ref()
            .expect("it is there until drop")
            .as_fd()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.porter.close(socket);
        }
    }
}

/// Two sockets that keep the bounds of messages.
fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    socketpair(family, kind, SocketFlags::CLOEXEC, None)
}

/// The calls that a porter and its helpers make. Any other kills them.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let only = |argument, value: c_long| {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        let (len, op) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
        let is = SeccompCondition::new(argument, len, op, value)?;
        SeccompRule::new(vec![is]).map(|rule| vec![rule])
    };
    let mut rules = BTreeMap::from([
        (libc::SYS_clone, only(0, libc::SIGCHLD.into())?),
        (libc::SYS_fcntl, only(1, libc::F_GET_SEALS.into())?),
    ]);
    for call in [
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_close,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
    ] {
        rules.insert(call, Vec::new());
    }
    let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(rules, kill, allow, TargetArch::x86_64)?.try_into()
}

/// A new process, with a copy of this thread. The C library is not told. Answers
/// its number, and 0 in the new one.
///
/// # Safety
///
/// The new process must make system calls only, and end by [`end`].
unsafe fn fork() -> rustix::io::Result<c_long> {
    let flags = c_long::from(libc::SIGCHLD);
    // SAFETY: without CLONE_VM, what the child does is its own affair.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    let error = || Errno::from_io_error(&io::Error::last_os_error());
    match pid {
        0.. => Ok(pid),
        _ => Err(error().unwrap_or(Errno::AGAIN)),
    }
}

/// Ends this process.
fn end(code: c_long) -> ! {
    loop {
        // SAFETY: nothing of this process is used any more.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// The work of the porter, until its Launcher has closed `jobs`. Makes system
/// calls only: another thread may have held a lock during the fork.
fn life(
    jobs: BorrowedFd<'_>,
    answers: BorrowedFd<'_>,
    filter: &BpfProgram,
) -> ! {
    let mut pipe = [0; 2];
    // SAFETY: there is room for two numbers.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        end(1);
    }
    let keep = [jobs.as_raw_fd(), answers.as_raw_fd(), pipe[0], pipe[1]];
    if !settle(keep) || seccompiler::apply_filter(filter).is_err() {
        end(1);
    }
    // SAFETY: `settle` has put these four files there, and they stay open.
    let [jobs, answers, taken, take] =
        unsafe { [0, 1, 2, 3].map(|fd| BorrowedFd::borrow_raw(fd)) };
    loop {
        let mut fds = [PollFd::new(&jobs, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => end(1),
            Ok(_) if fds[0].revents().contains(PollFlags::HUP) => end(0),
            Ok(_) => {}
        }
        // SAFETY: the helper makes system calls only, and ends.
        match unsafe { fork() } {
            Ok(0) => help(jobs, answers, take),
            // The helper takes the job; this waits until it has.
            Ok(_) => {
                while rustix::io::read(taken, &mut [0]) == Err(Errno::INTR) {}
            }
            Err(_) => {
                let _ = poll(&mut [], Some(&NO_ROOM_PAUSE));
            }
        }
    }
}

/// Gives the four files `keep` the first numbers, and closes all other files of
/// the Launcher in this process. Answers whether that worked.
fn settle(mut keep: [i32; 4]) -> bool {
    let close = |first: i32, last: i32| {
        // SAFETY: a system call on numbers; nobody uses these files here.
        first > last
            || unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }
                == 0
    };
    let numbers = keep;
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep {
        if !close(first, fd - 1) {
            return false;
        }
        first = fd + 1;
    }
    if !close(first, i32::MAX) {
        return false;
    }
    // Above all four places, and then into them.
    let above = numbers.map(|fd| {
        // SAFETY: a system call on numbers.
        unsafe { libc::fcntl(fd, libc::F_DUPFD, 4) }
    });
    let placed = (0..).zip(above).all(|(to, fd)| {
        // SAFETY: as above.
        unsafe { libc::dup2(fd, to) == to }
    });
    ignore_signals();
    // If one of these fails, the others are done all the same.
    // SAFETY: a system call without arguments.
    unsafe { libc::setsid() };
    let _ = rustix::thread::set_name(c"lguest-porter");
    let not = DumpableBehavior::NotDumpable;
    let _ = rustix::process::set_dumpable_behavior(not);
    placed && close(4, i32::MAX)
}

/// Blocks every signal but SIGKILL, and has the kernel reap children.
fn ignore_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: there is room for a set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    let none = std::ptr::null_mut();
    // SAFETY: the set is filled, and the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), none) };
    // SAFETY: this takes no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// The work of a helper: one job. Its end closes the files that it has received.
fn help(
    jobs: BorrowedFd<'_>,
    answers: BorrowedFd<'_>,
    take: BorrowedFd<'_>,
) -> ! {
    let mut job = Job::new_zeroed();
    let received = receive(jobs, job.as_mut_bytes(), RecvFlags::DONTWAIT);
    let _ = rustix::io::write(take, &[1]);
    match &received {
        Ok((_, [Some(socket), None], true)) if job.answer == 1 => {
            std::mem::forget(answer(socket.as_fd(), job.id, answers));
        }
        Ok((_, [Some(_), Some(until)], true)) => {
            while rustix::io::read(until, &mut [0]) == Err(Errno::INTR) {}
        }
        _ => {}
    }
    end(0);
}

/// Receives a message from `socket`, and sends it on if it is good. Answers the
/// files: a helper must not close them before its end.
fn answer(socket: BorrowedFd<'_>, id: u64, answers: BorrowedFd<'_>) -> Files {
    let mut answer = Answer::new_zeroed();
    (answer.id, answer.outcome) = (id, BAD);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let files = match receive(socket, &mut answer.message, flags) {
        Ok((len @ 1.., files, true)) => {
            let is_good = |file: &OwnedFd| is_sealed(file.as_fd());
            if files.iter().flatten().all(is_good) {
                answer.outcome = GOOD;
                answer.len = u32::try_from(len).unwrap_or(0);
            }
            files
        }
        Ok((_, files, _)) => files,
        Err(Errno::AGAIN) => {
            answer.outcome = NOTHING;
            Files::default()
        }
        Err(_) => Files::default(),
    };
    let bytes = answer.as_bytes();
    let flags = SendFlags::NOSIGNAL;
    let _ = match &files {
        [Some(one), Some(two)] if answer.outcome == GOOD => {
            send(answers, bytes, &[one.as_fd(), two.as_fd()], flags)
        }
        [Some(one), None] if answer.outcome == GOOD => {
            send(answers, bytes, &[one.as_fd()], flags)
        }
        _ => send(answers, bytes, &[], flags),
    };
    files
}

/// Whether a file is memory that cannot become shorter. Never blocks: the
/// kernel answers for memory, and refuses to answer for anything else.
fn is_sealed(file: BorrowedFd<'_>) -> bool {
    let seals = rustix::fs::fcntl_get_seals(file);
    seals.is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
}

/// Sends bytes and at most two files.
fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// Receives a message and at most two files. Answers its length, the files,
/// and whether that is all of it.
fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    flags: RecvFlags,
) -> rustix::io::Result<(usize, Files, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(into)];
    let got = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    let mut files = [None, None];
    let rights = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    for (place, file) in files.iter_mut().zip(rights.flatten()) {
        *place = Some(file);
    }
    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    Ok((got.bytes, files, !got.flags.intersects(cut)))
}

/// What comes with a message.
type Files = [Option<OwnedFd>; 2];

/// The work of a helper for [`Porter::ask`], in this process.
#[cfg(any(test, fuzzing))]
pub(super) fn receive_here<T: Message>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; LONGEST_MESSAGE];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    match receive(socket, &mut bytes, flags) {
        Err(Errno::AGAIN) => Ok(None),
        Ok((len @ 1.., files, true)) => {
            let message = messages::parse(&bytes[..len]);
            let message = message.ok_or(io::ErrorKind::InvalidData)?;
            Ok(Some((message, files.into_iter().flatten().collect())))
        }
        Ok((0, ..)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
