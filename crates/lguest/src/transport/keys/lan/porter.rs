//! The porter: a process that receives the messages of foreign processes.
//!
//! A message may carry files of any kind. Some block a process that asks for
//! their kind, and some block a process that closes them: a file of a FUSE
//! server that does not answer, or a TCP socket that lingers. A process that is
//! blocked by FUSE cannot even be killed. So a Launcher receives no message of
//! a foreign process. It hands the connection to its porter, which forks a
//! helper for each message. The helper receives the message, asks whether each
//! file is sealed memory (a question that never blocks), and sends good
//! messages on to the Launcher. A file that blocks only blocks one helper.
//!
//! The last process that closes a connection also closes the files of messages
//! that were never received. So the Launcher has a helper close each
//! [`Connection`], too. The porter itself never receives one. It only sees that
//! there is a job, and the helper takes it.
//!
//! The porter is a fork of the Launcher, made before the Launcher has the
//! Guest's memory. It keeps two sockets, and may make the calls of
//! [`filter()`].

#![expect(unsafe_code, reason = "forks")]

mod passing;
#[cfg(not(fuzzing))]
use passing::send;
use passing::{Answer, GOOD, Job, NOTHING, pair, receive};

mod process;
#[cfg(fuzzing)]
use process::answer;
use process::{filter, fork, life};

use super::messages::{self, Message};
use crate::killer::Killer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
#[cfg(not(fuzzing))]
use rustix::net::SendFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use zerocopy::{FromZeros, IntoBytes};

/// How long the Launcher waits for the end of its porter. A stopped porter does
/// not end.
const PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

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
    /// `None` where the process is this one.
    killer: Option<Killer>,
    #[cfg(fuzzing)]
    their_answers: OwnedFd,
}

impl Porter {
    /// Starts the process.
    ///
    /// # Errors
    ///
    /// The error of the kernel.
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
                killer: None,
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
            killer: Some(Killer::of(pid)?),
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
            // Without a porter, a new thread closes it. If that blocks, it can
            // only delay the end of this process. Without a thread it is not
            // closed.
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
        if !matches!(poll(&mut ended, Some(&PATIENCE)), Ok(1))
            && let Some(killer) = &self.killer
        {
            killer.kill();
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(self.process.as_fd()), options);
    }
}

/// A socket to a foreign process. This process receives nothing from it, and
/// the porter closes it.
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
            .expect("it is present until drop")
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

/// The work of a helper for [`Porter::ask`], in this process.
#[cfg(any(test, fuzzing))]
pub(super) fn receive_here<T: Message>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = [0; messages::LONGEST_MESSAGE];
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
