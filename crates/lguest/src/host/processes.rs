//! The processes that run a Guest: starting them, and hearing of their end.
//!
//! The nursery is started once, from a program that we carry inside us; it
//! forks a view whenever we ask. All of them are our children, all of them die
//! with us, and a thread that otherwise sleeps hears when one dies before.

#![expect(unsafe_code, reason = "what a child does between fork and exec")]

use super::affinity::{self, Affinity};
use super::state::Shared;
use super::{SharedPage, Views, lock};
use crate::memory::{GuestMemory, sealed_file};
use lg_host::state::MAX_VIEWS;
use lg_switcher::layout::{
    COMMAND_FD, MEMORY_FD, SHARED_PAGE_FD, STATE_FD, TWINS_FD, TWINS_SIZE,
    outbox_fd,
};
use lg_switcher::signals::KICK_SIGNAL;
use lg_switcher::view::{Answer, SETUP_FAILED, STEPS, VIEW_FAILED, VIEW_STEPS};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open,
    pidfd_send_signal, waitid,
};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LockResult, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

/// The view program.
static VIEW: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lg-view"));

/// What marks the nursery among the processes that are watched.
const NURSERY: u64 = MAX_VIEWS as u64;

/// What marks the end of watching.
const STOP: u64 = NURSERY + 1;

/// What a cell and its mapper are marked with: this and the view's slot.
const OF_CELL: u64 = STOP + 1;

/// How long the nursery may take to answer when everybody is to be killed. A
/// view that it forks and does not tell us of lives as long as we do.
const NURSERY_PATIENCE: Duration = Duration::from_millis(100);

/// How long a view may take to make its cell: far longer than it takes.
const CELL_PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// No processor in particular.
const NOWHERE: usize = usize::MAX;

/// All processes of a Guest.
pub(super) struct Processes {
    nursery: OwnedFd,
    command: Mutex<UnixStream>,
    views: [OnceLock<OwnedFd>; MAX_VIEWS],
    /// Views have cells, and these are the cells' processes, by slot.
    cells: Option<[OnceLock<[OwnedFd; 2]>; MAX_VIEWS]>,
    /// Their numbers, which belong to them until we reap them.
    pids: Mutex<Vec<Pid>>,
    /// `None` where there is but one processor.
    affinity: Mutex<Option<Affinity>>,
    /// The processor that they are kept on, or [`NOWHERE`].
    processor: AtomicUsize,
    /// Opened early, for nothing is opened later; until it is needed.
    statistics: Mutex<Option<File>>,
    watch: OwnedFd,
    stop: OwnedFd,
}

impl Views for Processes {
    fn start_view(&self, slot: u32) -> io::Result<()> {
        Self::start_view(self, slot)
    }

    fn balance(&self) {
        Self::balance(self);
    }
}

/// We have used it, and shall not again: its pages need not count as ours any
/// more. Whoever reads them all the same has them from our program's file.
fn let_go_of_view() {
    const PAGE: usize = lg_abi::page::PAGE_SIZE as usize;
    let begin = VIEW.as_ptr().align_offset(PAGE).min(VIEW.len());
    let whole = (VIEW.len() - begin) / PAGE * PAGE;
    let at = VIEW[begin..].as_ptr().cast_mut();
    // SAFETY: whole pages of a constant of this program, which nobody can have
    // changed: what is read again is the same.
    let _ = unsafe { libc::madvise(at.cast(), whole, libc::MADV_DONTNEED) };
}

impl Processes {
    /// Starts the nursery.
    ///
    /// # Errors
    ///
    /// What the kernel says, or what this machine lacks.
    pub(super) fn start(
        memory: &GuestMemory,
        shared: &Shared,
        pages: &[SharedPage],
        cells: bool,
    ) -> io::Result<Self> {
        check_processor()?;
        let (command, theirs) = UnixStream::pair()?;
        let program = executable_memfd("lguest-view")?;
        File::from(program.try_clone()?).write_all(VIEW)?;
        let_go_of_view();
        let twins = sealed_file("lguest-twins", TWINS_SIZE as u64)?;
        let mut fds = vec![
            (memory.file(), MEMORY_FD),
            (shared.file.as_fd(), STATE_FD),
            (theirs.as_fd(), COMMAND_FD),
            (twins.as_fd(), TWINS_FD),
        ];
        fds.extend(pages.iter().map(|p| p.file.as_fd()).zip(SHARED_PAGE_FD..));
        for (index, page) in pages.iter().enumerate() {
            fds.push((page.outbox.as_fd(), outbox_fd(pages.len(), index)));
        }
        let child = spawn(&program, &fds)?;
        let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a child has a number");
        let nursery = pidfd_open(pid, PidfdFlags::empty())?;
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let processes = Self {
            nursery,
            command: Mutex::new(command),
            views: [const { OnceLock::new() }; MAX_VIEWS],
            cells: cells.then_some([const { OnceLock::new() }; MAX_VIEWS]),
            pids: Mutex::new(vec![pid]),
            affinity: Mutex::new(None),
            processor: AtomicUsize::new(NOWHERE),
            statistics: Mutex::new(File::open(affinity::STATISTICS).ok()),
            watch,
            stop,
        };
        processes.watch_for(&processes.nursery, NURSERY)?;
        processes.watch_for(&processes.stop, STOP)?;
        Ok(processes)
    }

    /// Starts the process of view `slot`.
    ///
    /// # Errors
    ///
    /// No such slot, one that has a process already, or what the kernel says.
    pub(super) fn start_view(&self, slot: u32) -> io::Result<()> {
        let place = self.views.get(slot as usize);
        let place = place.filter(|place| place.get().is_none());
        let place = place.ok_or(io::ErrorKind::InvalidInput)?;
        let mut command =
            self.command.lock().map_err(|_| io::ErrorKind::Other)?;
        // What we had no descriptor left for could neither be watched nor
        // ended: so some are set aside, one for each that is to come.
        let nursery = lock(&self.pids)[0];
        let coming = if self.cells.is_some() { 3 } else { 1 };
        let room = || pidfd_open(nursery, PidfdFlags::empty());
        let mut room =
            (0..coming).map(|_| room()).collect::<Result<Vec<_>, _>>()?;
        let asked = command.write_all(&slot.to_ne_bytes());
        asked.map_err(|_| self.end_of_nursery())?;
        let (mut view, mut cell) = (None, None);
        while view.is_none() || self.cells.is_some() && cell.is_none() {
            // The nursery and the view speak in any order.
            match self.answer(&mut command)? {
                [0, cell_pid, mapper] => cell = Some([cell_pid, mapper]),
                [pid, ..] if pid > 0 => view = Some(pid),
                [error, ..] => return Err(no_process(error)),
            }
        }
        let taken = |()| io::ErrorKind::InvalidInput.into();
        let pid = view.unwrap_or_default();
        if let Some([error @ ..=0, _]) = cell {
            // The view has ended, and the Guest makes do without it.
            if let Some(pid) = Pid::from_raw(pid) {
                waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)?;
            }
            return Err(no_cell(error));
        }
        room.pop();
        let view = self.adopt(pid, u64::from(slot))?;
        place.set(view).map_err(drop).map_err(taken)?;
        let Some(cells) = &self.cells else {
            return Ok(());
        };
        room.clear();
        let [cell, mapper] = cell.unwrap_or_default();
        let mark = OF_CELL + u64::from(slot);
        let both = [self.adopt(cell, mark)?, self.adopt(mapper, mark)?];
        let place = &cells[slot as usize];
        place.set(both).map_err(drop).map_err(taken)
    }

    /// Blocks until the nursery or a view has answered.
    fn answer(&self, command: &mut UnixStream) -> io::Result<Answer> {
        let mut ready = [PollFd::new(&*command, PollFlags::IN)];
        while matches!(
            poll(&mut ready, Some(&CELL_PATIENCE)),
            Err(rustix::io::Errno::INTR)
        ) {}
        if ready[0].revents().is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut words = [[0; 4]; size_of::<Answer>() / 4];
        let read = command.read_exact(words.as_flattened_mut());
        read.map_err(|_| self.end_of_nursery())?;
        Ok(words.map(i32::from_ne_bytes))
    }

    /// The nursery has ended instead of answering, and its status says why.
    fn end_of_nursery(&self) -> io::Error {
        io::Error::other(end_of(&self.nursery))
    }

    /// Takes over a child of ours that another process has made: `pid` is its
    /// number, or minus the error for which there is none.
    fn adopt(&self, pid: i32, mark: u64) -> io::Result<OwnedFd> {
        let found = Pid::from_raw(pid).filter(|_| pid > 0);
        let pid = found.ok_or_else(|| no_process(pid))?;
        // Nobody but us reaps it, so the number is still its own; if it is
        // no child of ours, somebody lies, and it is not ours to kill.
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let look = WaitIdOptions::EXITED
            | WaitIdOptions::NOHANG
            | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(process.as_fd()), look)?;
        if let Err(error) = self.watch_for(&process, mark) {
            let _ = pidfd_send_signal(&process, Signal::KILL);
            bury(&process);
            return Err(error);
        }
        lock(&self.pids).push(pid);
        Ok(process)
    }

    /// Keeps all of them, and this thread, on the processor that it is on.
    /// Views that are started later inherit it from the nursery.
    pub(super) fn settle(&self) {
        let mut affinity = lock(&self.affinity);
        *affinity = lock(&self.statistics).take().and_then(Affinity::new);
        if let Some(affinity) = affinity.as_ref() {
            self.keep_on(affinity.current());
        }
    }

    /// Moves all of them, and this thread, to another processor if they had
    /// to wait too long for theirs.
    pub(super) fn balance(&self) {
        let mut affinity = lock(&self.affinity);
        let Some(affinity) = affinity.as_mut() else {
            return;
        };
        let pids = lock(&self.pids).clone();
        if let Some(cpu) = affinity.reconsider(pids.into_iter()) {
            self.keep_on(cpu);
        }
    }

    /// Keeps this thread where they are kept. `at` is where it is, as far as
    /// it knows.
    pub(super) fn join(&self, at: &mut Option<usize>) {
        let cpu = self.processor.load(Ordering::Relaxed);
        if cpu != NOWHERE && *at != Some(cpu) {
            affinity::keep_on(None, cpu);
            *at = Some(cpu);
        }
    }

    fn keep_on(&self, cpu: usize) {
        self.processor.store(cpu, Ordering::Relaxed);
        affinity::keep_on(None, cpu);
        for &pid in lock(&self.pids).iter() {
            affinity::keep_on(Some(pid), cpu);
        }
    }

    /// Kicks view `slot`, if there is such a process.
    pub(super) fn kick(&self, slot: u32) {
        let Some(view) = self.views.get(slot as usize) else {
            return;
        };
        let signal = Signal::from_named_raw(KICK_SIGNAL);
        if let (Some(view), Some(signal)) = (view.get(), signal) {
            // A process that has just died needs no kick.
            let _ = pidfd_send_signal(view, signal);
        }
    }

    /// Kills them all. Blocks until they are gone.
    pub(super) fn kill_all(&self) {
        // It must not be asked for more meanwhile, and it is not, for whoever
        // asks has the same lock.
        let command = self.lock_command();
        for process in self.all() {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        for process in self.all() {
            bury(process);
        }
        drop(command);
    }

    /// The lock of whoever asks the nursery. If it does not come free, then
    /// because the nursery does not answer (somebody may have stopped it), and
    /// the asker hears of nothing but its death.
    fn lock_command(&self) -> LockResult<MutexGuard<'_, UnixStream>> {
        let deadline = Instant::now() + NURSERY_PATIENCE;
        loop {
            match self.command.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    let _ = pidfd_send_signal(&self.nursery, Signal::KILL);
                    return self.command.lock();
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// Blocks until a process dies that should not. Answers how, or `None`
    /// when [`Self::stop_watching`] was called.
    pub(super) fn wait_for_death(&self) -> Option<String> {
        loop {
            let mut events = [const {
                epoll::Event {
                    flags: epoll::EventFlags::empty(),
                    data: epoll::EventData::new_u64(0),
                }
            }; 1];
            match epoll::wait(&self.watch, &mut events, None) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Some(format!("cannot watch: {error}")),
            }
            return match events[0].data.u64() {
                STOP => None,
                NURSERY => {
                    let end = end_of(&self.nursery);
                    Some(format!("the guest's first process {end}"))
                }
                mark if mark >= OF_CELL => {
                    let slot = usize::try_from(mark - OF_CELL).ok();
                    let cells = self.cells.as_ref().zip(slot);
                    let cell = cells.and_then(|(all, n)| all.get(n)?.get());
                    let ended =
                        cell.and_then(|both| both.iter().find(has_ended));
                    let end = ended.map_or("is gone".into(), end_of);
                    Some(format!("a process of the guest's programs {end}"))
                }
                slot => {
                    let slot = usize::try_from(slot).ok();
                    let view = slot.and_then(|slot| self.views.get(slot));
                    let end = view.and_then(OnceLock::get).map(end_of_view);
                    let end = end.unwrap_or_else(|| "is gone".into());
                    Some(format!("a process of the guest {end}"))
                }
            };
        }
    }

    /// Makes [`Self::wait_for_death`] come back.
    pub(super) fn stop_watching(&self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }

    fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        let views = self.views.iter().filter_map(OnceLock::get);
        let cells = self.cells.iter().flatten().filter_map(OnceLock::get);
        std::iter::once(&self.nursery)
            .chain(views)
            .chain(cells.flatten())
    }

    fn watch_for(&self, fd: &OwnedFd, mark: u64) -> io::Result<()> {
        let data = epoll::EventData::new_u64(mark);
        epoll::add(&self.watch, fd, data, epoll::EventFlags::IN)?;
        Ok(())
    }
}

/// A memory file that may be executed, also where `vm.memfd_noexec` says that
/// others may not. Kernels before 6.3 do not know the flag, nor the setting.
pub(crate) fn executable_memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => {
            Ok(rustix::fs::memfd_create(name, flags)?)
        }
        other => Ok(other?),
    }
}

/// A Guest's thread-local segments have bases, and only the processor's own
/// instructions set them fast enough: FSGSBASE, which the kernel has to allow
/// (Linux 5.9, `AT_HWCAP2` bit 1).
pub(crate) fn check_processor() -> io::Result<()> {
    const FSGSBASE: usize = 1 << 1;
    if rustix::param::linux_hwcap().1 & FSGSBASE != 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this processor or kernel has no FSGSBASE: it takes an x86-64 of \
         2012 or later and Linux 5.9, without 'nofsgsbase'",
    ))
}

/// What a number says that is no process's.
fn no_process(error: i32) -> io::Error {
    too_many(io::Error::from_raw_os_error(error.wrapping_neg()))
}

/// Why there can be no process for user code.
fn no_cell(error: i32) -> io::Error {
    let why = no_process(error);
    if why.kind() != io::ErrorKind::InvalidInput {
        return why;
    }
    io::Error::new(
        io::ErrorKind::Unsupported,
        "this kernel cannot hold user code apart: it takes Linux 5.19, or \
         --isolation=guest",
    )
}

/// Whether a process has ended.
fn has_ended(process: &&OwnedFd) -> bool {
    let options =
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::PidFd(process.as_fd()), options), Ok(None))
}

/// Waits until a process of ours has gone, and takes it off the books.
fn bury(process: &OwnedFd) {
    let options = WaitIdOptions::EXITED;
    let wait = || waitid(WaitId::PidFd(process.as_fd()), options);
    while matches!(wait(), Err(rustix::io::Errno::INTR)) {}
}

/// How a process ended, for a person. Leaves it to be reaped.
fn end_of(process: &OwnedFd) -> String {
    how_it_ended(process, describe_exit)
}

/// The same for a view. Its status may be the Guest's choice, and is no word
/// about this machine.
fn end_of_view(process: &OwnedFd) -> String {
    how_it_ended(process, |status| {
        let step = status.checked_sub(VIEW_FAILED + 1);
        let step = step.and_then(|step| usize::try_from(step).ok());
        match step.and_then(|step| VIEW_STEPS.get(step)) {
            Some(step) => format!("says that it {step} (status {status})"),
            None => format!("ended with status {status}"),
        }
    })
}

fn how_it_ended(
    process: &OwnedFd,
    describe: impl FnOnce(i32) -> String,
) -> String {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::PidFd(process.as_fd()), options);
    match status.ok().flatten() {
        Some(status) => {
            if let Some(signal) = status.terminating_signal() {
                describe_signal(signal)
            } else {
                describe(status.exit_status().unwrap_or(0))
            }
        }
        None => "is gone".into(),
    }
}

fn describe_signal(signal: i32) -> String {
    match signal {
        libc::SIGSYS => {
            "tried a forbidden system call and was stopped (SIGSYS)".into()
        }
        libc::SIGKILL => "was killed from outside (SIGKILL)".into(),
        libc::SIGSEGV => "lost its stack (SIGSEGV)".into(),
        other => format!("was killed by signal {other}"),
    }
}

fn describe_exit(status: i32) -> String {
    let step = status.checked_sub(SETUP_FAILED + 1);
    let step = step.and_then(|step| usize::try_from(step).ok());
    match step.and_then(|step| STEPS.get(step)) {
        Some(step) => (*step).into(),
        None => format!("ended with status {status}"),
    }
}

/// What a failed fork means to a person.
pub(crate) fn too_many(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other(
            "this user may not have more processes (see `ulimit -u`)",
        ),
        _ => error,
    }
}

/// A copy of a descriptor, with a number from `least` up.
fn dup_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    match rustix::io::fcntl_dupfd_cloexec(fd, least) {
        // It says so when `least` is more than we may have.
        Err(rustix::io::Errno::INVAL) => Err(rustix::io::Errno::MFILE.into()),
        other => Ok(other?),
    }
}

/// Starts `program` with exactly these descriptors, and nothing else of ours:
/// no standard streams, no environment. Answers its process number.
fn spawn(
    program: &OwnedFd,
    fds: &[(BorrowedFd<'_>, RawFd)],
) -> io::Result<u32> {
    // Above every descriptor that the view is to have, and not further: a user
    // may be allowed few.
    let out_of_the_way = fds.iter().map(|&(_, to)| to + 1).max().unwrap_or(3);
    let mut sources = Vec::with_capacity(fds.len());
    for &(fd, target) in fds {
        let moved = dup_above(fd, out_of_the_way)?;
        sources.push((moved, target));
    }
    let program = dup_above(program.as_fd(), out_of_the_way)?;
    let program = program.as_raw_fd();
    let moves: Vec<(RawFd, RawFd)> = sources
        .iter()
        .map(|(fd, target)| (fd.as_raw_fd(), *target))
        .collect();
    // Standard streams are closed below; for others, `Command` would open
    // /dev/null, and a confined Launcher opens nothing.
    let mut command = Command::new("lg-view");
    // SAFETY: between fork and exec, only system calls.
    unsafe {
        command.pre_exec(move || become_view(program, &moves));
    }
    let child = command.spawn().map_err(too_many)?;
    // The child is reaped by its descriptor, not by std.
    Ok(child.id())
}

/// In the child: gives the descriptors their numbers and becomes the view.
/// Comes back only with an error.
fn become_view(program: RawFd, moves: &[(RawFd, RawFd)]) -> io::Result<()> {
    for &(from, to) in moves {
        // SAFETY: a system call on numbers. The copy survives exec.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for fd in 0..=2 {
        // SAFETY: a view has no standard streams; nobody writes to them
        // between here and exec.
        unsafe { libc::close(fd) };
    }
    // Whatever somebody has left open in us ends here, too. The program's own
    // descriptor is still needed, so they are closed by exec, not before it.
    let last = moves.iter().map(|&(_, to)| to).max().unwrap_or(2);
    let first = libc::c_uint::try_from(last + 1).unwrap_or(0);
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: a system call on numbers.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }
        < 0
    {
        return Err(io::Error::last_os_error());
    }
    let name = c"lguest-view";
    let arguments = [name.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both arrays end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the view program has this text in it.
    fn says(text: &str) -> bool {
        VIEW.windows(text.len()).any(|w| w == text.as_bytes())
    }

    #[test]
    fn panics_do_not_tell_where_the_view_was_built() {
        let here = env!("CARGO_MANIFEST_DIR");
        let root = here.strip_suffix("crates/lguest").unwrap();
        assert!(!says(root), "{root}");
        assert!(says("crates/lg-host/src/"));
    }
}
