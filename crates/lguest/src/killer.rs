//! What kills a process that was started before the walls.
//!
//! Landlock (since Linux 6.12) lets a confined Launcher send signals only to
//! processes that it has started since then, and a descriptor of a process
//! makes no difference. But the kernel sends signals, too: to the owner of a
//! pipe, when something happens there. Whether it may is decided by who was
//! made the owner before the walls, and by whom. So the process is made the
//! owner of a pipe, and SIGKILL the signal.
//!
//! The kernel also sends it when one end of the pipe is closed. So the process
//! ends with the Launcher, whichever way that ends.

#![expect(unsafe_code, reason = "fcntl with arguments that rustix lacks")]

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// What kills one process. It also does when it is dropped.
#[derive(Debug)]
pub(crate) struct Killer {
    _read: OwnedFd,
    write: OwnedFd,
}

impl Killer {
    /// What kills the process `pid`, which has to be a child that was not
    /// waited for.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (read, write) = pipe_with(flags)?;
        let pid = pid.as_raw_nonzero().get();
        for end in [&read, &write] {
            for (what, value) in [
                (libc::F_SETOWN, pid),
                (F_SETSIG, libc::SIGKILL),
                (libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC),
            ] {
                // SAFETY: all three take a number.
                let done = unsafe { libc::fcntl(end.as_raw_fd(), what, value) };
                if done < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(Self { _read: read, write })
    }

    /// Kills the process, if it has not ended. Does not wait for its end.
    pub(crate) fn kill(&self) {
        // If the pipe is full, it was killed before.
        let _ = rustix::io::write(&self.write, &[0]);
    }
}

/// Chooses the signal: `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// How long a busy machine may take to kill a process.
    const PATIENCE: Timespec = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };

    #[test]
    fn a_process_is_killed_by_a_word_and_by_the_end_of_its_killer() {
        let ways: [fn(Killer); 2] = [
            |killer| {
                killer.kill();
                std::mem::forget(killer);
            },
            drop,
        ];
        for kill in ways {
            let mut child = Command::new("sleep").arg("3600").spawn().unwrap();
            let pid = Pid::from_child(&child);
            let killer = Killer::of(pid).unwrap();
            assert_eq!(child.try_wait().unwrap(), None);
            kill(killer);
            let end = pidfd_open(pid, PidfdFlags::empty()).unwrap();
            let mut ended = [PollFd::new(&end, PollFlags::IN)];
            if poll(&mut ended, Some(&PATIENCE)).unwrap() == 0 {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it is not killed");
            }
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
    }
}
