//! Seccomp's notification: how a task waits for a view, and a view for it.
//!
//! A user process and its mapper wait in a system call that is never carried
//! out: their filter hands it to the view, and the task stands still until the
//! view answers on a *listener*, a descriptor of the view's.

#![expect(unsafe_code, reason = "system calls, and assembly")]

use crate::layout::OWN;
use crate::own::Own;
use crate::syscall::{call, errno, nr};
use core::arch::global_asm;
use core::mem::offset_of;

/// The call by which a user process or a mapper waits for its view. It has no
/// arguments and no effect, should the kernel ever carry it out.
pub(crate) const WAIT: usize = nr::GETPPID;

/// `struct seccomp_notif`.
#[derive(Default)]
#[repr(C)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    nr: u32,
    arch: u32,
    ip: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// The number of an `ioctl` of seccomp's listeners that moves a `T`.
const fn ioctl<T>(direction: usize, number: usize) -> usize {
    direction << 30 | size_of::<T>() << 16 | (b'!' as usize) << 8 | number
}

/// `SECCOMP_IOCTL_NOTIF_RECV`.
pub(crate) const RECEIVE: usize = ioctl::<Notification>(3, 0);

/// `SECCOMP_IOCTL_NOTIF_SEND`.
pub(crate) const SEND: usize = ioctl::<Response>(3, 1);

// lg_wait: rdi = descriptor, rsi = RECEIVE, rdx = where to. The result is that
// of the system call. A kick that comes before the call is made must not be
// missed: from the check of Own::kicked to the call, the handler moves on to
// lg_wait_kicked.
global_asm!(
    ".globl lg_wait, lg_wait_start, lg_wait_site, lg_wait_kicked",
    "lg_wait:",
    "    mov eax, {ioctl}",
    "    movabs r8, {kicked}",
    "lg_wait_start:",
    "    cmp dword ptr [r8], 0",
    "    jne lg_wait_kicked",
    "    syscall",
    "lg_wait_site:",
    "    ret",
    "lg_wait_kicked:",
    "    mov rax, -{eintr}",
    "    ret",
    ioctl = const nr::IOCTL,
    eintr = const errno::EINTR,
    kicked = const OWN + offset_of!(Own, kicked),
);

unsafe extern "C" {
    fn lg_wait(fd: usize, request: usize, at: usize) -> isize;
    static lg_wait_start: u8;
    static lg_wait_site: u8;
    fn lg_wait_kicked();
}

/// The address behind the call in which a view waits for its user process.
#[must_use]
pub(crate) fn wait_site() -> u64 {
    &raw const lg_wait_site as u64
}

/// Where to go on after a kick at `rip`, if that is in the wait.
pub(crate) fn kicked_at(rip: u64) -> Option<u64> {
    let start = &raw const lg_wait_start as u64;
    (start..wait_site())
        .contains(&rip)
        .then_some(lg_wait_kicked as *const () as u64)
}

/// A task that stands in a waiting call.
pub(crate) struct Standing {
    listener: usize,
    /// The number of its call.
    id: u64,
}

impl Standing {
    /// Blocks until the task behind `listener` stands for the first time.
    pub(crate) fn first(listener: usize) -> Result<Self, i32> {
        let mut standing = Self { listener, id: 0 };
        standing.receive().map(|_| standing)
    }

    /// Lets it go on with `value`.
    pub(crate) fn answer(&self, value: i64) {
        let response = Response {
            id: self.id,
            value,
            error: 0,
            flags: 0,
        };
        let at = &raw const response as usize;
        // SAFETY: the kernel reads `response`. If the task has ended, the
        // Launcher knows.
        let _ = unsafe { call(nr::IOCTL, [self.listener, SEND, at, 0, 0, 0]) };
    }

    /// Blocks until it stands again; answers the arguments of its call.
    pub(crate) fn receive(&mut self) -> Result<[u64; 6], i32> {
        loop {
            let mut received = Notification::default();
            let at = &raw mut received as usize;
            let arguments = [self.listener, RECEIVE, at, 0, 0, 0];
            // SAFETY: the kernel writes `received`.
            match unsafe { call(nr::IOCTL, arguments) } {
                Ok(_) => {
                    self.id = received.id;
                    return Ok(received.arguments);
                }
                Err(errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The same, but a kick makes it come back with `EINTR`, even if the kick
    /// came before.
    pub(crate) fn receive_or_kick(&mut self) -> Result<[u64; 6], i32> {
        let mut received = Notification::default();
        let at = &raw mut received as usize;
        // SAFETY: the kernel writes `received`.
        let result = unsafe { lg_wait(self.listener, RECEIVE, at) };
        if result < 0 {
            return Err(i32::try_from(-result).unwrap_or(i32::MAX));
        }
        self.id = received.id;
        Ok(received.arguments)
    }
}

const _: () = assert!(size_of::<Notification>() == 80);
const _: () = assert!(size_of::<Response>() == 24);
