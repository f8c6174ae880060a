//! The wall around a view: the system calls that it may still make.
//!
//! Guest code can reach 64-bit mode and jump anywhere in its process, so the
//! filter does not trust the code that makes a call. It allows a handful of
//! calls, with arguments that reach only what is the Guest's own, and only from
//! the places where this program makes them. Every other call ends the process,
//! and the Launcher reports it. System calls of 32 bits are the Guest's own,
//! meant for its kernel: they come back as a signal.

#![expect(unsafe_code, reason = "a system call")]

use crate::clock;
use crate::cpuid;
use crate::layout;
use crate::notify;
use crate::segments::{self, UserDescriptor};
use crate::syscall::{FORCE_SIGNAL, NO_WAIT, call, errno, nr};
use lg_abi::page::{DIRECTORY_SPAN, PAGE_SIZE, SWITCHER_ADDR};
use lg_host::address::as_word;
use lg_seccomp::{
    ARCH, ARCH_I386, ARCH_X86_64, Filter, IP, Instruction, NR, argument,
    halves, verdict,
};
use lg_wire::disk::MAX_PIECES;
use lg_wire::outbox::OUTBOX_SIZE;
use lg_wire::spawn::{
    COPIES_FD, KICK_SIGNAL, MEMORY_FD, SHARED_PAGE_FD, disk_fd,
};
use lg_wire::state::STATE_SIZE;

/// What the filter has to know about this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Address behind the one `syscall`.
    pub call_site: u64,
    /// Address behind the `syscall` of a signal's return.
    pub return_site: u64,
    /// The number of our timer.
    pub timer: u32,
    /// How many shared pages there are.
    pub shared_pages: u32,
    /// How many disks' files there are.
    pub disks: u32,
    /// CPUID faults, and the view may switch that off for itself.
    pub cpuid_faults: bool,
    /// What it has to know about the view's user process, if there is one.
    pub user_process: Option<UserFacts>,
}

/// What the filter of a view has to know about its user process.
#[derive(Clone, Copy, Debug)]
pub struct UserFacts {
    /// The listeners of user process and mapper.
    pub listeners: [u32; 2],
    /// The user process's process number.
    pub process: u32,
    /// Address behind the call that waits for it.
    pub wait_site: u64,
}

/// The arguments of `close_range` that close all descriptors of this process.
/// It gets a table of its own first, so that the processes with which it shared
/// one keep theirs.
pub(crate) const CLOSE_ALL: [usize; 6] =
    [0, u32::MAX as usize, 1 << 1, 0, 0, 0];

/// The filter of a user process: it may wait, from the one place behind which
/// the code believes nothing that user code may have written. All other calls
/// come back as a signal, for the Guest's kernel.
#[must_use]
pub(crate) fn user_process(call_site: u64, stand_site: u64) -> Filter {
    let mut f = Filter::new();
    f.load(ARCH);
    f.otherwise(verdict::TRAP);
    f.require(ARCH_X86_64);
    let [here, high] = halves(call_site);
    let [stands, same] = halves(stand_site);
    debug_assert_eq!(high, same, "the program is small");
    f.load(IP + 4);
    f.require(high);
    f.load(IP);
    f.when(stands, |f| {
        f.load(NR);
        f.require(as_word(notify::WAIT));
        f.end(verdict::STAND);
    });
    f.require(here);
    f.load(NR);
    f.when(as_word(nr::CLOSE_RANGE), |f| {
        for (n, value) in (0..).zip(&CLOSE_ALL[..3]) {
            f.require_wide(argument(n), *value as u64);
        }
        f.end(verdict::ALLOW);
    });
    f.end(verdict::TRAP);
    f
}

/// The filter of a mapper: it maps as a view does, and waits.
#[must_use]
pub(crate) fn mapper(facts: &Facts) -> Filter {
    let mut f = Filter::new();
    f.load(ARCH);
    f.require(ARCH_X86_64);
    f.require_wide(IP, facts.call_site);
    f.load(NR);
    f.when(as_word(notify::WAIT), |f| f.end(verdict::STAND));
    f.when(as_word(nr::MMAP), |f| mmap(f, facts));
    f.when(as_word(nr::MUNMAP), munmap);
    f.when(as_word(nr::MODIFY_LDT), |f| {
        set_segment(f, layout::COMMANDS)
    });
    f.end(verdict::KILL);
    f
}

/// The filter of a view.
#[must_use]
pub fn filter(facts: &Facts) -> Filter {
    let mut f = Filter::new();
    f.load(ARCH);
    f.when(ARCH_I386, |f| f.end(verdict::TRAP));
    f.require(ARCH_X86_64);
    f.load(NR);
    if let Some(user_process) = &facts.user_process {
        f.when(as_word(nr::IOCTL), |f| keep(f, facts, user_process));
    }
    f.when(as_word(nr::RT_SIGRETURN), |f| {
        f.require_wide(IP, facts.return_site);
        f.end(verdict::ALLOW);
    });
    f.require_wide(IP, facts.call_site);
    f.load(NR);
    f.when(as_word(nr::MMAP), |f| mmap(f, facts));
    f.when(as_word(nr::MUNMAP), munmap);
    f.when(as_word(nr::MPROTECT), mprotect);
    if facts.user_process.is_none() {
        f.when(as_word(nr::MODIFY_LDT), |f| set_segment(f, layout::STACK));
    }
    f.when(as_word(nr::FUTEX), |f| futex(f, facts));
    f.when(as_word(nr::CLOCK_GETTIME), |f| clock_of(f, facts));
    f.when(as_word(nr::TIMER_SETTIME), |f| {
        f.require_wide(argument(0), u64::from(facts.timer));
        f.end(verdict::ALLOW);
    });
    if facts.disks > 0 {
        f.when(as_word(nr::PREADV2), |f| read_disk(f, facts));
        f.when(as_word(nr::CLOSE), |f| close_disk(f, facts));
    }
    if facts.cpuid_faults {
        f.when(as_word(nr::ARCH_PRCTL), cpuid_faulting);
    }
    f.when(as_word(nr::RT_SIGPROCMASK), |f| f.end(verdict::ALLOW));
    f.when(as_word(nr::EXIT_GROUP), |f| f.end(verdict::ALLOW));
    if let Some(user_process) = &facts.user_process {
        f.when(as_word(nr::TGKILL), |f| kick(f, user_process));
    }
    f.end(verdict::KILL);
    f
}

/// futex, to wait or to wake, not private, without a time-out: on words of the
/// state, or to wake sleepers on words of the outboxes.
fn futex(f: &mut Filter, facts: &Facts) {
    let state = layout::STATE as u64;
    f.load(argument(0) + 4);
    if facts.shared_pages > 0 {
        let outboxes = layout::OUTBOXES as u64;
        f.when(halves(outboxes)[1], |f| ring(f, facts.shared_pages));
    }
    f.require(halves(state)[1]);
    f.load(argument(0));
    f.require_at_most(as_word(STATE_SIZE) - 4);
    f.require_narrow(1);
    f.load(argument(1));
    f.require_at_most(1);
    f.require_wide(argument(3), 0);
    f.end(verdict::ALLOW);
}

/// clock_gettime: of the two usual clocks, and of the user process's.
fn clock_of(f: &mut Filter, facts: &Facts) {
    f.require_narrow(0);
    f.load(argument(0));
    if let Some(user_process) = &facts.user_process {
        let clock = clock::clock_of(user_process.process);
        f.when(clock, |f| f.end(verdict::ALLOW));
    }
    f.require_at_most(1);
    f.end(verdict::ALLOW);
}

/// arch_prctl: CPUID faulting, on and off.
fn cpuid_faulting(f: &mut Filter) {
    f.require_wide(argument(0), cpuid::ARCH_SET_CPUID as u64);
    f.require_narrow(1);
    f.load(argument(1));
    f.require_at_most(1);
    f.end(verdict::ALLOW);
}

/// tgkill: two signals to the user process.
fn kick(f: &mut Filter, user_process: &UserFacts) {
    let signals = [KICK_SIGNAL, FORCE_SIGNAL];
    f.require_wide(argument(0), u64::from(user_process.process));
    f.require_wide(argument(1), u64::from(user_process.process));
    f.require_narrow(2);
    f.load(argument(2));
    f.require_one_of(signals.map(i32::cast_unsigned));
    f.end(verdict::ALLOW);
}

/// futex, to wake: only sleepers on words of the outboxes.
fn ring(f: &mut Filter, outboxes: u32) {
    const FUTEX_WAKE: u64 = 1;
    f.load(argument(0));
    f.require_at_most(outboxes * OUTBOX_SIZE - 4);
    f.require_wide(argument(1), FUTEX_WAKE);
    f.end(verdict::ALLOW);
}

/// preadv2: from the files of disks, and only what the kernel has in memory.
/// Where the bytes go is not looked at: the view can write there anyway.
fn read_disk(f: &mut Filter, facts: &Facts) {
    f.require_narrow(2);
    f.load(argument(2));
    f.require_at_most(as_word(MAX_PIECES));
    f.require_wide(argument(5), NO_WAIT as u64);
    of_a_disk(f, facts);
}

/// close: of the files of disks.
fn close_disk(f: &mut Filter, facts: &Facts) {
    of_a_disk(f, facts);
}

/// The first argument is the descriptor of a disk's file.
fn of_a_disk(f: &mut Filter, facts: &Facts) {
    f.require_narrow(0);
    f.load(argument(0));
    for n in 0..facts.disks {
        let fd = disk_fd(facts.shared_pages as usize, n as usize);
        f.when(fd.cast_unsigned(), |f| f.end(verdict::ALLOW));
    }
    f.end(verdict::KILL);
}

/// ioctl: to receive from the user process and its mapper, and to answer them.
fn keep(f: &mut Filter, facts: &Facts, user_process: &UserFacts) {
    let [here, high] = halves(facts.call_site);
    let [there, same] = halves(user_process.wait_site);
    debug_assert_eq!(high, same, "the program is small");
    f.load(IP + 4);
    f.require(high);
    f.load(IP);
    f.require_one_of([here, there]);
    f.require_narrow(0);
    f.load(argument(0));
    f.require_one_of(user_process.listeners);
    f.require_narrow(1);
    f.load(argument(1));
    f.require_one_of([notify::RECEIVE, notify::SEND].map(as_word));
    f.end(verdict::ALLOW);
}

/// All but `PROT_READ | PROT_WRITE | PROT_EXEC`.
const NO_PROTECTION: u32 = !7;

/// munmap: in the low 4 GiB, below the Switcher.
fn munmap(f: &mut Filter) {
    f.require_narrow(0);
    f.require_narrow(1);
    // addr + len must not wrap, and end below the Switcher.
    f.load(argument(1));
    f.set_x();
    f.load(argument(0));
    f.add_x();
    f.require_at_least_x();
    f.require_at_most(SWITCHER_ADDR);
    f.end(verdict::ALLOW);
}

/// modify_ldt: to set one entry, which is read from the mapping of `near`. Its
/// contents do not matter: the kernel takes code and data of level 3 only.
fn set_segment(f: &mut Filter, near: usize) {
    f.require_wide(argument(0), segments::WRITE as u64);
    f.require_wide(argument(2), size_of::<UserDescriptor>() as u64);
    f.load(argument(1) + 4);
    f.require(halves(near as u64)[1]);
    f.end(verdict::ALLOW);
}

/// mprotect: where munmap may reach. It could make a patched copy writable.
/// That gives an attacker in the view nothing: the Host's mapping of it is
/// writable anyway.
fn mprotect(f: &mut Filter) {
    f.load(argument(2));
    f.require_no_bit(NO_PROTECTION);
    f.require_narrow(2);
    munmap(f);
}

/// mmap: shared and fixed, in the low 4 GiB below the Switcher, from the memory
/// file, from that of the patched copies without the right to write, or one
/// page of a shared page's file.
fn mmap(f: &mut Filter, facts: &Facts) {
    /// `MAP_SHARED | MAP_FIXED`.
    const SHARED_FIXED: u32 = 0x11;
    /// `MAP_NORESERVE`, which means nothing for a shared mapping of these
    /// files: their memory is accounted page by page, when it is used.
    const NORESERVE: u32 = 0x4000;
    const PROT_WRITE: u32 = 2;
    for n in [0, 1, 2, 3, 4] {
        f.require_narrow(n);
    }
    f.load(argument(2));
    f.require_no_bit(NO_PROTECTION);
    f.load(argument(3));
    f.require_one_of([SHARED_FIXED, SHARED_FIXED | NORESERVE]);
    // Neither can be so large that their sum wraps: that of the largest is
    // one less than 4 GiB.
    f.load(argument(0));
    f.require_at_most(SWITCHER_ADDR - 1);
    f.load(argument(1));
    f.require_at_most(DIRECTORY_SPAN);
    f.set_x();
    f.load(argument(0));
    f.add_x();
    f.require_at_most(SWITCHER_ADDR);
    f.load(argument(4));
    f.when(MEMORY_FD.cast_unsigned(), |f| f.end(verdict::ALLOW));
    f.when(COPIES_FD.cast_unsigned(), |f| {
        // The Host writes them elsewhere.
        f.load(argument(2));
        f.require_no_bit(PROT_WRITE);
        f.end(verdict::ALLOW);
    });
    for n in 0..facts.shared_pages {
        f.when(SHARED_PAGE_FD.cast_unsigned() + n, |f| {
            f.require_wide(argument(1), u64::from(PAGE_SIZE));
            f.require_wide(argument(5), 0);
            f.end(verdict::ALLOW);
        });
    }
    f.end(verdict::KILL);
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    code: *const Instruction,
}

/// For [`install`]: makes a listener for the filter, and a task that was
/// received there stands still until it is answered or killed
/// (`SECCOMP_FILTER_FLAG_NEW_LISTENER`, and Linux 5.19's
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`).
pub(crate) const WITH_LISTENER: usize = 1 << 3 | 1 << 5;

/// Installs a filter: from now on this process can make only the calls that it
/// allows.
pub(crate) fn install(filter: &Filter, flags: usize) -> Result<usize, i32> {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    let code = filter.code();
    let program = Program {
        len: u16::try_from(code.len()).map_err(|_| errno::ENOMEM)?,
        code: code.as_ptr(),
    };
    let at = &raw const program as usize;
    // SAFETY: the kernel copies the program.
    unsafe { call(nr::SECCOMP, [SECCOMP_SET_MODE_FILTER, flags, at, 0, 0, 0]) }
}

#[cfg(test)]
mod tests;
