//! How views are started, what they inherit, and what they answer.
//!
//! The Launcher starts one process, the *view spawner*, with the descriptors
//! below and no others. When the Launcher writes the number of a slot into the
//! socket [`COMMAND_FD`], the view spawner forks a view for that slot. Both the
//! view spawner and the new view write an [`Answer`] into the socket. A view
//! closes its end of the socket before it runs any code of the Guest.

/// The Guest's memory file.
pub const MEMORY_FD: i32 = 3;

/// The file of the state. The view spawner closes it once it is mapped.
pub const STATE_FD: i32 = 4;

/// The view spawner's end of the socket on which the Launcher asks for views.
pub const COMMAND_FD: i32 = 5;

/// The file of the patched copies.
pub const COPIES_FD: i32 = 6;

/// The files of pages that are shared with other Guests, from here on.
pub const SHARED_PAGE_FD: i32 = 7;

/// How many such pages a Guest may have: as many as devices.
pub const MAX_SHARED_PAGES: usize = lg_abi::device::LGUEST_MAX_DEVICES;

/// The files of their outboxes follow directly, in the same order. The view
/// spawner closes them once they are mapped.
///
/// # Panics
///
/// If there are more pages than a bus has devices, which is a bug.
#[must_use]
pub fn outbox_fd(shared_pages: usize, index: usize) -> i32 {
    let above = i32::try_from(shared_pages + index);
    SHARED_PAGE_FD + above.expect("a bus is small")
}

/// The files of disks follow, opened to read only.
///
/// # Panics
///
/// As [`outbox_fd`].
#[must_use]
pub fn disk_fd(shared_pages: usize, index: usize) -> i32 {
    outbox_fd(shared_pages, shared_pages + index)
}

/// In the place of the number of a slot, with the number of a disk added: the
/// view spawner closes the file of that disk, and does not answer.
pub const CLOSE_DISK: u32 = 1 << 31;

/// The Launcher's signal to a view: a word of the state has changed.
pub const KICK_SIGNAL: i32 = 10;

/// What the Launcher reads when it has asked for a view. There are two answers,
/// in any order.
///
/// - The view spawner's has the view's process number; or minus an errno, the
///   number of the [`Step`] that failed (0: the fork), and the index of a call
///   in [`CALLS`].
/// - The view's, when it is ready, has 0, and the process numbers of its user
///   process and of the user process's mapper (0 without user processes); or 0,
///   minus an errno, and the number of the step. If the user process could not
///   be made, minus the number of the unfinished process (0: there is none)
///   takes the place of the step.
pub type Answer = [i32; 3];

/// The status with which the view spawner and views end when they cannot be set
/// up is this plus the number of the [`Step`].
pub const SETUP_FAILED: i32 = 100;

/// A step before the Guest runs. Its number is reported to the Launcher.
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
    /// Gives up rights.
    Rights = 5,
    /// Maps a page that can be written and executed.
    WriteExecute = 6,
    /// Tries [`CALLS`].
    Calls = 7,
    /// Makes a system call as 32-bit programs do.
    Calls32 = 8,
    /// Installs the signal handlers.
    Signals = 9,
    /// Checks that the Launcher is still the parent (a view).
    Parent = 10,
    /// Makes a timer (a view).
    Timer = 11,
    /// Makes a process for user code (a view).
    UserProcess = 12,
    /// Installs the filter. A view does this when it has no socket any more, so
    /// that only its exit status tells of a failure.
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
        Self::Calls32,
        Self::Signals,
        Self::Parent,
        Self::Timer,
        Self::UserProcess,
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

/// The names of the system calls that the view spawner tries in
/// [`Step::Calls`], in the order in which it tries them.
pub const CALLS: [&str; 14] = [
    "munmap",
    "mprotect",
    "futex",
    "clock_gettime",
    "timer_create",
    "timer_settime",
    "clone",
    "seccomp",
    "ioctl",
    "tgkill",
    "mremap",
    "close_range",
    "sched_yield",
    "rt_sigprocmask",
];

/// Where the view spawner is, as one word: a step, and the index of a call in
/// [`CALLS`]. If a filter kills the view spawner, the Launcher reads this word
/// in [`Mailbox::reply`](crate::mailbox::Mailbox::reply), which is unused until
/// the Guest runs.
#[must_use]
pub const fn progress(step: Step, call: u32) -> u32 {
    step.number().cast_unsigned() << 8 | call
}

/// The number of the step and the index of the call in a word of [`progress`].
#[must_use]
pub fn read_progress(word: u32) -> [i32; 2] {
    [word >> 8 & 0xFF, word & 0xFF].map(u32::cast_signed)
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
    fn progress_is_read_as_it_was_written() {
        for step in Step::ALL {
            for call in (0..).take(CALLS.len()) {
                let read = read_progress(progress(step, call));
                assert_eq!(read, [step.number(), call.cast_signed()]);
            }
        }
    }
}
