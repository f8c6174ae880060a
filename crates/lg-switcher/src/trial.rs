//! The calls that a view needs, tried before a Guest runs.
//!
//! A machine may refuse any system call; the filters of containers and services
//! do. A view to which a call is refused while the Guest runs looks like a
//! Guest that has crashed. So the view spawner tries every call once, with
//! arguments that make no sense. If the error is another than "these arguments
//! make no sense", the view spawner reports it to the Launcher.

#![expect(unsafe_code, reason = "system calls, also of 32 bits")]

use crate::syscall::{call, errno, nr};
use core::arch::asm;
use lg_wire::spawn::CALLS;

/// A call that is tried.
struct Trial {
    nr: usize,
    arguments: [usize; 3],
    /// Only user processes need it.
    of_user_processes: bool,
}

const fn trial(nr: usize, arguments: [usize; 3]) -> Trial {
    Trial {
        nr,
        arguments,
        of_user_processes: false,
    }
}

const fn of_user_processes(nr: usize, arguments: [usize; 3]) -> Trial {
    Trial {
        of_user_processes: true,
        ..trial(nr, arguments)
    }
}

/// No descriptor, no clock, no process.
const NONE: usize = usize::MAX;
/// No address where a page begins.
const NO_PAGE: usize = 1;
/// A thread without shared signal handlers cannot be.
const CLONE_THREAD: usize = 0x1_0000;
const FUTEX_WAKE: usize = 1;

/// What a view and its user process call while the Guest runs, in the order of
/// [`CALLS`], with arguments by which nothing happens. The exceptions are steps
/// of their own.
const TRIALS: [Trial; CALLS.len()] = [
    trial(nr::MUNMAP, [NO_PAGE, 1, 0]),
    trial(nr::MPROTECT, [NO_PAGE, 1, 0]),
    trial(nr::FUTEX, [0, FUTEX_WAKE, 0]),
    trial(nr::CLOCK_GETTIME, [NONE, 0, 0]),
    trial(nr::TIMER_CREATE, [NONE, 0, 0]),
    trial(nr::TIMER_SETTIME, [NONE, 0, 0]),
    trial(nr::CLONE, [CLONE_THREAD, 0, 0]),
    trial(nr::SECCOMP, [1, 0, 0]),
    of_user_processes(nr::IOCTL, [NONE, 0, 0]),
    of_user_processes(nr::TGKILL, [NONE, NONE, 0]),
    of_user_processes(nr::MREMAP, [NO_PAGE, 0, 0]),
    of_user_processes(nr::CLOSE_RANGE, [1, 0, 0]),
    of_user_processes(nr::SCHED_YIELD, [0; 3]),
    of_user_processes(nr::RT_SIGPROCMASK, [NONE, 0, 0]),
];

impl Trial {
    /// Makes the call.
    fn run(&self) -> Result<(), i32> {
        let [a, b, c] = self.arguments;
        // SAFETY: with these arguments the call changes nothing.
        match unsafe { call(self.nr, [a, b, c, 0, 0, 0]) } {
            Ok(_)
            // A limit on timers is reported when a timer is made.
            | Err(errno::EAGAIN)
            | Err(errno::EBADF | errno::EFAULT | errno::EINVAL) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Tries all of [`CALLS`], those of user processes only if `user_processes`.
/// Calls `about` with the index of each before it is made.
pub(crate) fn calls(
    user_processes: bool,
    about: impl Fn(u32),
) -> Result<(), i32> {
    for (index, trial) in (0..).zip(&TRIALS) {
        if user_processes || !trial.of_user_processes {
            about(index);
            trial.run()?;
        }
    }
    Ok(())
}

/// Makes a system call as a 32-bit program does. It may fail. A filter that
/// kills for it would also kill at the first system call of a Guest's program.
#[expect(clippy::unnecessary_wraps, reason = "a step like others")]
pub(crate) fn call_of_32_bits() -> Result<(), i32> {
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
    fn calls_that_make_no_sense_do_nothing_here() {
        assert_eq!(calls(true, |_| ()), Ok(()));
    }
}
