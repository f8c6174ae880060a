//! The steps before a Guest runs, and the calls that a view lives by.
//!
//! A machine may refuse any system call: a container's filter does, and so does
//! a service's. A view that is refused one in the middle of the Guest looks
//! like a Guest that has crashed. So the view spawner tries every call once
//! with arguments that make no sense, and tells the Launcher the step and the
//! error if the answer is another than "these arguments make no sense".

#![expect(unsafe_code, reason = "system calls, and the 32-bit door")]

use crate::syscall::{call, errno, nr};
use core::arch::asm;

/// A step before the Guest runs. The number is what the Launcher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Maps the Guest's memory, the state and the records.
    Map = 1,
    /// Unmaps what the kernel has put into the process.
    Forget = 2,
    /// Looks for the 32-bit code segment.
    CodeSegment = 3,
    /// Fills the local descriptor table.
    Segments = 4,
    /// Gives its rights up.
    Rights = 5,
    /// Maps a page that is written and executed.
    WriteExecute = 6,
    /// Tries [`CALLS`].
    Calls = 7,
    /// Makes a system call as 32-bit programs do.
    Door32 = 8,
    /// Catches signals.
    Signals = 9,
    /// Looks whether the Launcher is still its parent (a view).
    Parent = 10,
    /// Makes a timer (a view).
    Timer = 11,
    /// Makes a process for user code (a view).
    Cell = 12,
    /// Installs the filter (a view, when it can tell nobody any more).
    Filter = 13,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Map,
        Self::Forget,
        Self::CodeSegment,
        Self::Segments,
        Self::Rights,
        Self::WriteExecute,
        Self::Calls,
        Self::Door32,
        Self::Signals,
        Self::Parent,
        Self::Timer,
        Self::Cell,
        Self::Filter,
    ];

    /// The step with this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.number() == number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as u8 as i32
    }
}

/// A call that is tried.
pub struct Trial {
    /// Its name.
    pub name: &'static str,
    nr: usize,
    arguments: [usize; 3],
    /// Only user processes need it.
    of_user_processes: bool,
}

const fn trial(name: &'static str, nr: usize, arguments: [usize; 3]) -> Trial {
    Trial {
        name,
        nr,
        arguments,
        of_user_processes: false,
    }
}

const fn of_user_processes(
    name: &'static str,
    nr: usize,
    arguments: [usize; 3],
) -> Trial {
    Trial {
        of_user_processes: true,
        ..trial(name, nr, arguments)
    }
}

/// No descriptor, no clock, no process.
const NONE: usize = usize::MAX;
/// No address where a page begins.
const NO_PAGE: usize = 1;
/// A thread without shared signal handlers cannot be.
const CLONE_THREAD: usize = 0x1_0000;
const FUTEX_WAKE: usize = 1;

/// What a view and its user process call while the Guest runs, with arguments
/// by which nothing happens. The exceptions are steps of their own.
pub const CALLS: [Trial; 14] = [
    trial("munmap", nr::MUNMAP, [NO_PAGE, 1, 0]),
    trial("mprotect", nr::MPROTECT, [NO_PAGE, 1, 0]),
    trial("futex", nr::FUTEX, [0, FUTEX_WAKE, 0]),
    trial("clock_gettime", nr::CLOCK_GETTIME, [NONE, 0, 0]),
    trial("timer_create", nr::TIMER_CREATE, [NONE, 0, 0]),
    trial("timer_settime", nr::TIMER_SETTIME, [NONE, 0, 0]),
    trial("clone", nr::CLONE, [CLONE_THREAD, 0, 0]),
    trial("seccomp", nr::SECCOMP, [1, 0, 0]),
    of_user_processes("ioctl", nr::IOCTL, [NONE, 0, 0]),
    of_user_processes("tgkill", nr::TGKILL, [NONE, NONE, 0]),
    of_user_processes("mremap", nr::MREMAP, [NO_PAGE, 0, 0]),
    of_user_processes("close_range", nr::CLOSE_RANGE, [1, 0, 0]),
    of_user_processes("sched_yield", nr::SCHED_YIELD, [0; 3]),
    of_user_processes("rt_sigprocmask", nr::RT_SIGPROCMASK, [NONE, 0, 0]),
];

impl Trial {
    /// Makes the call.
    fn run(&self) -> Result<(), i32> {
        let [a, b, c] = self.arguments;
        // SAFETY: with these arguments the call changes nothing.
        match unsafe { call(self.nr, [a, b, c, 0, 0, 0]) } {
            Ok(_)
            // A limit on timers, which is told of when there is to be one.
            | Err(errno::EAGAIN)
            | Err(errno::EBADF | errno::EFAULT | errno::EINVAL) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Tries all of [`CALLS`], those of user processes only if `cells`. `about`
/// hears the index of each before it is made.
pub(crate) fn calls(
    user_processes: bool,
    about: impl Fn(u32),
) -> Result<(), i32> {
    for (index, trial) in (0..).zip(&CALLS) {
        if user_processes || !trial.of_user_processes {
            about(index);
            trial.run()?;
        }
    }
    Ok(())
}

/// Makes a system call of a 32-bit program. It may fail, but a filter that
/// kills for it would kill at the first system call of a Guest's program.
#[expect(clippy::unnecessary_wraps, reason = "a step like others")]
pub(crate) fn door_32() -> Result<(), i32> {
    const GETPID_32: u64 = 20;
    // SAFETY: asks for a number, or fails. The kernel keeps the registers of
    // 64-bit code, but not the upper ones.
    unsafe {
        asm!(
            "int 0x80",
            inout("rax") GETPID_32 => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_its_number() {
        for (number, step) in (1..).zip(Step::ALL) {
            assert_eq!(step.number(), number);
            assert_eq!(Step::from_number(number), Some(step));
        }
        assert_eq!(Step::from_number(0), None);
    }

    #[test]
    fn calls_that_make_no_sense_do_nothing_here() {
        assert_eq!(calls(true, |_| ()), Ok(()));
    }
}
