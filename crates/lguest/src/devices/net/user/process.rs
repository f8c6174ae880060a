//! The process of passt: its start, its last words, its end.
//!
//! passt does not say when it is ready. But it installs its filter of system
//! calls last, after its ports are bound, and `/proc` shows that.

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
    number: u32,
    words: OwnedFd,
}

/// A pipe for standard error. Neither end waits: a passt that prints much
/// loses what nobody reads.
pub(super) fn words() -> io::Result<(OwnedFd, Stdio)> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (read, write) = pipe_with(flags)?;
    Ok((read, write.into()))
}

impl Passt {
    pub(super) fn new(child: &Child, words: OwnedFd) -> io::Result<Self> {
        let pid = Pid::from_child(child);
        Ok(Self {
            process: pidfd_open(pid, PidfdFlags::empty())?,
            number: child.id(),
            words,
        })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    ///
    /// It has ended instead, and these are its last words.
    pub(super) fn wait_until_ready(&self) -> Result<(), String> {
        let ours = filters("self");
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.ends_within(Duration::from_millis(1)) {
                let words = self.last_words();
                return Err(
                    words.unwrap_or_else(|| "it does not say why".into())
                );
            }
            let is_ready = match (filters(&self.number.to_string()), ours) {
                (Some(its), Some(ours)) => its > ours,
                _ => start.elapsed() >= BLIND,
            };
            if is_ready {
                return Ok(());
            }
        }
        Err("it does not become ready".into())
    }

    /// Its last words, if it had any to say. Collects the process if it has
    /// ended.
    pub(super) fn last_words(&self) -> Option<String> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(self.process.as_fd()), options);
        let mut said = Vec::new();
        let words = self.words.try_clone().ok()?;
        // This fails where a process still holds the other end.
        let _ = File::from(words).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let lines = said.lines().map(str::trim);
        let mut lines =
            lines.filter(|line| !line.is_empty() && !line.starts_with(NOISE));
        let last = lines.next_back()?;
        Some(last.replace(|c: char| c.is_control(), " "))
    }

    /// Waits for its end, which the end of its socket brings about.
    pub(super) fn wait_for_the_end(&self) {
        if self.ends_within(END) {
            let _ = self.last_words();
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
    // Before Linux 5.9 there is only the mode, which is 2 with any filter.
    let count = line("Seccomp_filters:").or_else(|| line("Seccomp:"))?;
    count.trim().parse().ok()
}
