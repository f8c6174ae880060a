//! The process of passt: its start, its messages, its end.
//!
//! passt does not say when it is ready. But it installs its filter of system
//! calls last, after its ports are bound, and `/proc` shows that.

use super::UserError;
use crate::killer::Killer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid,
};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to become ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for a passt whose state `/proc` does not show.
const BLIND: Duration = Duration::from_millis(200);

/// How long it may take to end, until its ports are free again. It ends at
/// once, unless the machine is busy.
const END: Duration = Duration::from_secs(10);

/// Lines that passt prints where the machine has no system log.
const NOISE: &str = "Failed to send";

/// The process.
pub(super) struct Passt {
    process: OwnedFd,
    killer: Killer,
    number: u32,
    messages: OwnedFd,
}

/// Bytes of its messages that are looked at: what a pipe holds.
const MESSAGES: u64 = 64 << 10;

/// Characters of a message that are shown. A pipe that may be written to takes
/// as many without blocking.
const SHOWN: usize = 400;

/// A pipe for standard error. Neither end waits: if passt prints more than the
/// pipe holds, the rest is lost.
pub(super) fn messages() -> io::Result<(OwnedFd, Stdio)> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (read, write) = pipe_with(flags)?;
    Ok((read, write.into()))
}

impl Passt {
    pub(super) fn new(child: &Child, messages: OwnedFd) -> io::Result<Self> {
        let pid = Pid::from_child(child);
        Ok(Self {
            process: pidfd_open(pid, PidfdFlags::empty())?,
            killer: Killer::of(pid)?,
            number: child.id(),
            messages,
        })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    ///
    /// It has ended instead, or it takes too long.
    pub(super) fn wait_until_ready(&self) -> Result<(), UserError> {
        let ours = filters("self");
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.ends_within(Duration::from_millis(1)) {
                let why = self.last_message();
                let why = why.unwrap_or_else(|| "it does not say why".into());
                return Err(UserError::of_message(why));
            }
            let is_ready = match (filters(&self.number.to_string()), ours) {
                (Some(its), Some(ours)) => its > ours,
                _ => start.elapsed() >= BLIND,
            };
            if is_ready {
                return Ok(());
            }
        }
        Err(UserError::NotReady(PATIENCE))
    }

    /// Its last message, if there is one. Collects the process if it has ended.
    pub(super) fn last_message(&self) -> Option<String> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(self.process.as_fd()), options);
        let mut printed = Vec::new();
        let messages = File::from(self.messages.try_clone().ok()?);
        // A passt that was taken over may print without end. An error means
        // that a process still holds the other end.
        let _ = messages.take(MESSAGES).read_to_end(&mut printed);
        let printed = String::from_utf8_lossy(&printed);
        let lines = printed.lines().map(str::trim);
        let mut lines =
            lines.filter(|line| !line.is_empty() && !line.starts_with(NOISE));
        let last = lines.next_back()?;
        let shown = last.chars().take(SHOWN);
        Some(
            shown
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        )
    }

    /// Waits for its end, which the end of its socket brings about. One that
    /// was taken over may have other plans, and is killed.
    pub(super) fn wait_for_the_end(&self) {
        let mut ends = self.ends_within(END);
        if !ends {
            self.killer.kill();
            ends = self.ends_within(END);
        }
        if ends {
            let _ = self.last_message();
        }
    }

    fn ends_within(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).ok();
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        matches!(poll(&mut ended, time.as_ref()), Ok(1..))
    }
}

/// How many filters of system calls a process has.
fn filters(process: &str) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.ok()?;
    let line = |name| status.lines().find_map(move |l| l.strip_prefix(name));
    let count = line("Seccomp_filters:")?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The last message of a process that has printed what `script` prints.
    fn last_message_of(script: &str) -> Option<String> {
        let (messages, stderr) = messages().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).stderr(stderr);
        #[expect(
            clippy::zombie_processes,
            reason = "`last_message` collects it"
        )]
        let child = command.spawn().unwrap();
        drop(command);
        let passt = Passt::new(&child, messages).unwrap();
        assert!(passt.ends_within(Duration::from_secs(60)));
        passt.last_message()
    }

    #[test]
    fn a_message_is_short_and_has_no_control_characters() {
        let last = last_message_of("printf 'one\\ntw\\001o\\n\\n' >&2");
        assert_eq!(last.as_deref(), Some("tw o"));
        let long = "printf %05000d 0 >&2";
        assert_eq!(last_message_of(long).unwrap().chars().count(), SHOWN);
        assert_eq!(last_message_of("true"), None);
    }

    #[test]
    fn messages_without_end_are_read_up_to_a_bound() {
        let (messages, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut sleeps = Command::new("sleep").arg("0").spawn().unwrap();
        let passt = Passt::new(&sleeps, messages).unwrap();
        // The writer ends when the pipe has no reader any more.
        let writer = std::thread::spawn(move || {
            while rustix::io::write(&write, b"again and again\n").is_ok() {}
        });
        assert!(passt.last_message().is_some());
        drop(passt);
        writer.join().unwrap();
        let _ = sleeps.wait();
    }

    #[test]
    fn a_message_is_about_a_port_only_where_it_says_so() {
        let of = |message: &str| UserError::of_message(message.to_owned());
        let port = of("Failed to bind any port for '-t 80'");
        assert!(matches!(port, UserError::Port(_)), "{port}");
        let other = of("option --fd is not supported");
        assert!(matches!(other, UserError::Ended(_)), "{other}");
    }
}
