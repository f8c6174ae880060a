//! A lack: what could not be done, why, and what to do about it.
//!
//! Each constructor starts from what was noticed (an error of the kernel, the
//! step at which a view gave up, the last words of a Host) and finds the cause.

use super::cause::Cause;
use super::limits;
use lg_wire::mailbox::reason::{OUT_OF_MAPPINGS, RETURN_REFUSED};
use lg_wire::spawn::{CALLS, Step};
use rustix::io::Errno;
use std::borrow::Cow;
use std::fmt;
use std::io;

/// The machine lacks something that a run needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What cannot be done: the words after "cannot".
    pub doing: Cow<'static, str>,
    /// The cause, which also knows the cure.
    pub cause: Cause,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (doing, cause) = (&self.doing, &self.cause);
        write!(f, "cannot {doing}: {cause}; {}", cause.cure())
    }
}

impl std::error::Error for Lack {}

/// The words for all steps in which the Guest's processes are started.
pub(super) const START: &str = "start the guest";

impl Lack {
    /// `doing` failed because of this cause.
    #[must_use]
    pub fn new(doing: impl Into<Cow<'static, str>>, cause: Cause) -> Self {
        let doing = doing.into();
        Self { doing, cause }
    }

    /// `doing` failed with `error`. Finds out which limit was the reason.
    pub(crate) fn when(
        doing: impl Into<Cow<'static, str>>,
        error: impl Into<io::Error>,
    ) -> Self {
        Self::new(doing, limits::cause_of(&error.into()))
    }

    /// The lack behind the last words of a Host that had to end.
    pub(crate) fn of_last_words(words: &str) -> Option<Self> {
        let (doing, cause) = if words == OUT_OF_MAPPINGS {
            ("map more of the guest's memory", limits::mappings())
        } else if words == RETURN_REFUSED {
            let (call, error) = ("rt_sigreturn", libc::EPERM);
            ("run the guest", Cause::Refused { call, error })
        } else {
            return None;
        };
        Some(Self::new(doing, cause))
    }

    /// A disk could not be locked.
    pub(crate) fn of_lock(error: Errno) -> Self {
        let number = error.raw_os_error();
        let cause = match error {
            Errno::PERM | Errno::ACCESS | Errno::NOSYS => Cause::Refused {
                call: "flock",
                error: number,
            },
            _ => Cause::NoLocks { error: number },
        };
        Self::new("lock it", cause)
    }

    /// A thread for `doing` could not be started. A C library returns EAGAIN
    /// also when there is no memory.
    pub(crate) fn no_thread(doing: &'static str, error: io::Error) -> Self {
        let again = error.kind() == io::ErrorKind::WouldBlock;
        let without = limits::room_for_a_thread().err().filter(|_| again);
        Self::when(doing, without.unwrap_or(error))
    }

    /// A step in the Guest's processes failed with `error`; `detail` is the
    /// index of a call in [`CALLS`].
    pub(crate) fn of_step(step: Step, error: i32, detail: i32) -> Self {
        use libc::{EACCES, EAGAIN, EINVAL, ENOSYS, EPERM};
        let refused = |call: &'static str| Cause::Refused { call, error };
        let other = || limits::cause_of(&io::Error::from_raw_os_error(error));
        let is_refusal = matches!(error, EPERM | EACCES | ENOSYS);
        let cause = match step {
            Step::CodeSegment => Cause::No32BitCode,
            Step::Segments if is_refusal => refused("modify_ldt"),
            Step::Signals if is_refusal => {
                refused("rt_sigaction or sigaltstack")
            }
            Step::Rights | Step::Parent if is_refusal => refused("prctl"),
            Step::WriteExecute if matches!(error, EPERM | EACCES) => {
                Cause::WriteExecute
            }
            Step::Calls => refused(call_of_view(detail)),
            Step::Timer if error == EAGAIN => limits::timers(),
            Step::Timer if is_refusal => refused("timer_create"),
            Step::UserProcess if error == EINVAL => Cause::NoUserProcesses,
            _ => other(),
        };
        let doing = match step {
            Step::Map => "map the guest's memory",
            Step::Timer => "have a timer",
            Step::UserProcess => "hold user code apart",
            _ => START,
        };
        Self::new(doing, cause)
    }

    /// The view program inside the Launcher is of another build.
    pub(crate) fn of_another_version() -> Self {
        Self::new(START, Cause::OtherVersion)
    }

    /// A process was killed from outside while `doing`.
    pub(crate) fn of_kill(doing: &'static str) -> Self {
        Self::new(doing, limits::killed())
    }

    /// A process was killed for a call. `step` is the step of the start, if it
    /// is known.
    pub(crate) fn of_filter(step: Option<Step>, detail: i32) -> Self {
        let Some(step) = step else {
            let call = "one of its system calls";
            return Self::new(START, Cause::Killed { call });
        };
        let call = match step {
            Step::Map | Step::WriteExecute => "mmap",
            Step::Forget => "munmap",
            Step::CodeSegment | Step::Calls32 => "int 0x80",
            Step::Segments => "modify_ldt",
            Step::Signals => "rt_sigaction",
            Step::Rights | Step::Parent => "prctl",
            Step::Calls => call_of_view(detail),
            Step::Timer => "timer_create",
            Step::UserProcess => "clone",
            Step::Filter => "seccomp",
        };
        Self::new(START, Cause::Killed { call })
    }
}

/// The name of a call that views try.
fn call_of_view(index: i32) -> &'static str {
    let index = usize::try_from(index).ok();
    let name = index.and_then(|index| CALLS.get(index));
    name.unwrap_or(&"one of its system calls")
}
