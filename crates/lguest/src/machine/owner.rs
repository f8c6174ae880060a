//! Ends a Guest that is not needed any more, or whose time is up.
//!
//! A Guest waits for input without end, so a Guest without a user would run for
//! ever. A thread watches the reader of standard output, the process that
//! started the Launcher, the end of the input, and the clock. It sleeps until
//! one of them changes. If there is nothing to watch, as on a terminal, there
//! is no thread.

use crate::cli::exit::Outcome;
use crate::devices::console::{Kind, Screen};
use crate::machine::config::{Config, Parent};
use crate::machine::ending::Ending;
use crate::machine::signals;
use crate::thread;
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
    /// It ended before the Launcher looked.
    #[error("ended because its parent has ended (--die-with-parent)")]
    Gone,
    /// It has no process number here.
    #[error(
        "--die-with-parent: the parent is outside of this container, and \
         cannot be watched from in here: leave the option out"
    )]
    Outside,
    /// The kernel refuses.
    #[error("--die-with-parent: the parent cannot be watched: {0}")]
    Refused(#[from] io::Error),
}

/// Opens the process that `parent` means, so that its end can be watched.
///
/// # Errors
///
/// [`ParentError`]. A parent that has ended already is an error, too.
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

/// A Guest that prints nothing for this time has finished with its input ...
const QUIET: Duration = Duration::from_secs(1);

/// ... and the longest time that it has.
const LONGEST: Duration = Duration::from_secs(10);

/// The interval at which its output is checked.
const LOOK: Duration = Duration::from_millis(100);

/// What is watched.
pub struct Owner {
    timeout: Option<(Instant, Duration)>,
    parent: Option<OwnedFd>,
    /// Standard output, if it can have no other reader after its reader is
    /// gone.
    output: Option<OwnedFd>,
    /// An event: the Guest has all of its input, and the input has ended.
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

    /// Whether a Guest that has printed so many bytes seems to have finished
    /// with its input.
    fn is_over(&mut self, printed: u64, now: Instant) -> bool {
        if printed != self.printed {
            (self.printed, self.quiet_since) = (printed, now);
        }
        self.until <= now || now.duration_since(self.quiet_since) >= QUIET
    }
}

impl Owner {
    /// Prepares to watch what `config` asks for. `start` is when the run began.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
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

    /// Starts the thread, which ends the Guest by `ending`. The thread ends
    /// with the process.
    ///
    /// # Errors
    ///
    /// The kernel has no thread left.
    pub fn watch(self, ending: &Ending) -> io::Result<()> {
        let idle = self.timeout.is_none() && self.parent.is_none();
        if idle && self.output.is_none() && self.input_end.is_none() {
            return Ok(());
        }
        let ending = ending.clone();
        thread::start("owner", 128 << 10, move || {
            let (outcome, reason) = self.wait();
            // If the Guest is being ended already, that continues.
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
                let reason = "because its output has no reader any more";
                return (Outcome::Signal(number), reason.into());
            }
            if input {
                let printed = self.screen.printed();
                rest = Some(Rest::from(Instant::now(), printed));
            }
        }
    }

    /// Sleeps until something may have happened. Returns whether the parent has
    /// ended, whether the output has lost its reader, and whether the input has
    /// ended.
    fn look(&self, resting: bool, now: Instant) -> (bool, bool, bool) {
        let end = self.timeout.map(|(end, _)| end.duration_since(now));
        let pause = end.into_iter().chain(resting.then_some(LOOK)).min();
        let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
        let input = self.input_end.as_ref().filter(|_| !resting);
        let watched = [
            (self.parent.as_ref(), PollFlags::IN),
            // The end of the reader is reported without a flag.
            (self.output.as_ref(), PollFlags::empty()),
            (input, PollFlags::IN),
        ];
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .filter_map(|&(fd, flags)| Some(PollFd::new(fd?, flags)))
            .collect();
        // An error is an interruption. The next round looks again.
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
