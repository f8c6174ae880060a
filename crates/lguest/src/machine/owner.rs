//! For whom a Guest runs: when they are gone, or the time is up, it ends.
//!
//! A Guest waits for input without end, so one that cannot be reached any more
//! would run for ever. A thread watches what tells: the other end of standard
//! output, the process that started us, the end of the input, and the clock.
//! It sleeps until one of them says something; where there is nothing to
//! watch, as on a terminal, there is no thread.

use crate::cli::exit::Outcome;
use crate::devices::console::{Kind, Screen};
use crate::machine::config::{Config, Parent};
use crate::machine::ending::Ending;
use crate::machine::signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};
use signal_hook::consts::{SIGPIPE, SIGTERM};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The parent cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// It ended before we looked.
    #[error("ended because its parent has ended (--die-with-parent)")]
    Gone,
    /// It has no number here.
    #[error(
        "--die-with-parent: the parent is outside of this container, and \
         cannot be watched from in here: leave the option out"
    )]
    Outside,
    /// The kernel refuses.
    #[error("--die-with-parent: the parent cannot be watched: {0}")]
    Refused(#[from] io::Error),
}

/// The process that `parent` means, so that its end can be waited for.
///
/// # Errors
///
/// [`ParentError`]; one that has ended already is an error, too.
pub fn find(parent: Parent) -> Result<OwnedFd, ParentError> {
    let Some(now) = getppid() else {
        return Err(ParentError::Outside);
    };
    let is = |number: NonZeroU32, pid: Pid| {
        u32::try_from(pid.as_raw_pid()) == Ok(number.get())
    };
    if let Parent::Number(number) = parent
        && !is(number, now)
    {
        return Err(ParentError::Gone);
    }
    let process = match pidfd_open(now, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Err(ParentError::Gone),
        Err(error) => return Err(io::Error::from(error).into()),
    };
    // The number may have been given to another process meanwhile.
    if getppid() == Some(now) {
        Ok(process)
    } else {
        Err(ParentError::Gone)
    }
}

/// How long a Guest prints nothing before it counts as done with its input ...
const QUIET: Duration = Duration::from_secs(1);

/// ... and how long it has in any case.
const LONGEST: Duration = Duration::from_secs(10);

/// How often it is looked whether it has printed anything.
const LOOK: Duration = Duration::from_millis(100);

/// What is watched.
pub struct Owner {
    timeout: Option<(Instant, Duration)>,
    parent: Option<OwnedFd>,
    /// Standard output, where nothing can read it any more once its reader is
    /// gone.
    output: Option<OwnedFd>,
    /// An event: the Guest has all of its input, and there is no more.
    input_end: Option<OwnedFd>,
    screen: Arc<Screen>,
}

/// The time after the end of the input.
struct Rest {
    until: Instant,
    quiet_since: Instant,
    printed: u64,
}

impl Rest {
    fn from(now: Instant, printed: u64) -> Self {
        Self {
            until: now + LONGEST,
            quiet_since: now,
            printed,
        }
    }

    /// Whether a Guest that has printed so many bytes is done with its input,
    /// as far as can be seen.
    fn is_over(&mut self, printed: u64, now: Instant) -> bool {
        if printed != self.printed {
            (self.printed, self.quiet_since) = (printed, now);
        }
        self.until <= now || now.duration_since(self.quiet_since) >= QUIET
    }
}

impl Owner {
    /// What `config` wants to be watched. `start` is when the run began.
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no descriptor left.
    pub fn new(
        config: &Config,
        start: Instant,
        parent: Option<OwnedFd>,
        input_end: Option<OwnedFd>,
        screen: Arc<Screen>,
    ) -> io::Result<Self> {
        let stdout = rustix::stdio::stdout();
        let output = (Kind::of(stdout) == Kind::Connection)
            .then(|| rustix::io::dup(stdout))
            .transpose()?;
        let timeout = config.timeout;
        Ok(Self {
            timeout: timeout.and_then(|t| Some((start.checked_add(t)?, t))),
            parent,
            output,
            input_end,
            screen,
        })
    }

    /// Watches from now on, and ends the Guest by `ending`. The thread ends
    /// with the process.
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no thread left.
    pub fn watch(self, ending: &Ending) -> io::Result<()> {
        let idle = self.timeout.is_none() && self.parent.is_none();
        if idle && self.output.is_none() && self.input_end.is_none() {
            return Ok(());
        }
        let ending = ending.clone();
        std::thread::Builder::new()
            .name("owner".into())
            .stack_size(128 << 10)
            .spawn(move || {
                let (outcome, reason) = self.wait();
                // If its end has begun already, that goes on.
                if !ending.has_begun() {
                    signals::end(outcome, &reason, &ending);
                }
            })?;
        Ok(())
    }

    /// Waits until there is a reason to end the Guest.
    fn wait(&self) -> (Outcome, String) {
        let mut rest: Option<Rest> = None;
        loop {
            let now = Instant::now();
            if let Some((end, time)) = self.timeout
                && end <= now
            {
                let reason = format!("by --timeout after {time:?}");
                return (Outcome::TimedOut, reason);
            }
            if let Some(rest) = &mut rest
                && rest.is_over(self.screen.printed(), now)
            {
                let reason = "by --exit-on-eof: standard input has ended";
                return (Outcome::InputEnded, reason.into());
            }
            let (parent, output, input) = self.look(rest.is_some(), now);
            if parent {
                let number = u8::try_from(SIGTERM).unwrap_or(u8::MAX);
                let reason = "because its parent has ended (--die-with-parent)";
                return (Outcome::Signal(number), reason.into());
            }
            if output {
                let number = u8::try_from(SIGPIPE).unwrap_or(u8::MAX);
                let reason = "because nobody can read its output any more";
                return (Outcome::Signal(number), reason.into());
            }
            if input {
                let printed = self.screen.printed();
                rest = Some(Rest::from(Instant::now(), printed));
            }
        }
    }

    /// Sleeps until something has happened, or may have: answers whether the
    /// parent has ended, the output has lost its reader, the input has ended.
    fn look(&self, resting: bool, now: Instant) -> (bool, bool, bool) {
        let end = self.timeout.map(|(end, _)| end.duration_since(now));
        let pause = end.into_iter().chain(resting.then_some(LOOK)).min();
        let pause = pause.map(|pause| Timespec {
            tv_sec: pause.as_secs().cast_signed(),
            tv_nsec: pause.subsec_nanos().into(),
        });
        let input = self.input_end.as_ref().filter(|_| !resting);
        let watched = [
            (self.parent.as_ref(), PollFlags::IN),
            // That the other end is gone is told without being asked for.
            (self.output.as_ref(), PollFlags::empty()),
            (input, PollFlags::IN),
        ];
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .filter_map(|&(fd, flags)| Some(PollFd::new(fd?, flags)))
            .collect();
        // An error is an interruption: the next round looks again.
        let _ = poll(&mut fds, pause.as_ref());
        let mut happened = fds.iter().map(|fd| !fd.revents().is_empty());
        let [parent, output, input] = watched
            .map(|(fd, _)| fd.is_some() && happened.next() == Some(true));
        (parent, output, input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_prints_is_given_time_but_not_for_ever() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut quiet = Rest::from(start, 5);
        assert!(!quiet.is_over(5, at(999)));
        assert!(quiet.is_over(5, at(1000)));
        let mut talks = Rest::from(start, 5);
        for n in 1..20 {
            assert!(!talks.is_over(5 + n, at(n * 500)), "{n}");
        }
        assert!(!talks.is_over(24, at(9999)));
        assert!(talks.is_over(25, at(10_000)));
    }

    #[test]
    fn a_parent_must_be_the_one_that_is_meant() {
        let parent = getppid().map_or(1, |pid| pid.as_raw_pid());
        let parent = NonZeroU32::new(parent.unsigned_abs());
        let parent = parent.map_or(Parent::Whoever, Parent::Number);
        assert!(find(parent).is_ok());
        assert!(find(Parent::Whoever).is_ok());
        let us = NonZeroU32::new(std::process::id());
        let us = us.map_or(Parent::Whoever, Parent::Number);
        assert!(matches!(find(us), Err(ParentError::Gone)));
    }
}
