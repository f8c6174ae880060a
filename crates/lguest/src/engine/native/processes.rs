//! The processes that run a Guest: starting them, and hearing of their end.
//!
//! The view spawner is started once, from a program that we carry inside us; it
//! forks a view whenever we ask. All of them are our children, all of them die
//! with us, and a thread that otherwise sleeps hears when one dies before.

#![expect(unsafe_code, reason = "what a child does between fork and exec")]

use super::affinity::{self, Affinity};
use super::footprint;
use super::state::Shared;
use crate::engine::interface::SharedPage;
use crate::lock::lock;
use crate::memory::{GuestMemory, sealed_file};
use crate::needs::{self, Cause, Lack};
use lg_host::state::{MAX_VIEWS, max_views};
use lg_switcher::layout::{
    COMMAND_FD, COPIES_FD, COPIES_SIZE, MEMORY_FD, SHARED_PAGE_FD, STATE_FD,
    outbox_fd,
};
use lg_switcher::signals::KICK_SIGNAL;
use lg_switcher::trial::Step;
use lg_switcher::view::{Answer, SETUP_FAILED};
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

/// What marks the view spawner among the processes that are watched.
const SPAWNER: u64 = MAX_VIEWS as u64;

/// What marks the end of watching.
const STOP: u64 = SPAWNER + 1;

/// What a user process and its mapper are marked with: this and the view's
/// slot.
const OF_USER_PROCESS: u64 = STOP + 1;

/// How long the view spawner may take to answer when everybody is to be killed.
/// A view that it forks and does not tell us of lives as long as we do.
const SPAWNER_PATIENCE: Duration = Duration::from_millis(100);

/// How long a view may take to get ready: far longer than it takes.
const READY_PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// No processor in particular.
const NOWHERE: usize = usize::MAX;

/// All processes of a Guest.
pub(super) struct Processes {
    /// Slots from here on get no process: the Guest makes do with fewer.
    max_views: usize,
    spawner: OwnedFd,
    command: Mutex<UnixStream>,
    views: [OnceLock<OwnedFd>; MAX_VIEWS],
    /// Views have user processes, and these are the user processes' processes,
    /// by slot.
    user_processes: Option<[OnceLock<[OwnedFd; 2]>; MAX_VIEWS]>,
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

/// What the errors below are about.
const START: &str = "start the guest's processes";
const WATCH: &str = "watch the guest's processes";

/// For errors while something is done.
fn lack<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> Lack {
    move |error| Lack::when(doing, error)
}

impl Processes {
    /// Starts the view spawner.
    ///
    /// # Errors
    ///
    /// What this machine lacks.
    pub(super) fn start(
        memory: &GuestMemory,
        shared: &Shared,
        pages: &[SharedPage],
        user_processes: bool,
    ) -> Result<Self, Lack> {
        check_processor()?;
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC);
        let watch = watch.map_err(lack(WATCH))?;
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let stop = rustix::event::eventfd(0, flags).map_err(lack(WATCH))?;
        let (command, spawner) = start_spawner(memory, shared, pages)?;
        let processes = Self {
            max_views: max_views(memory.limit()),
            spawner: spawner.descriptor,
            command: Mutex::new(command),
            views: [const { OnceLock::new() }; MAX_VIEWS],
            user_processes: user_processes
                .then_some([const { OnceLock::new() }; MAX_VIEWS]),
            pids: Mutex::new(vec![spawner.pid]),
            affinity: Mutex::new(None),
            processor: AtomicUsize::new(NOWHERE),
            statistics: Mutex::new(File::open(affinity::STATISTICS).ok()),
            watch,
            stop,
        };
        let both = [(&processes.spawner, SPAWNER), (&processes.stop, STOP)];
        for (fd, mark) in both {
            if let Err(lack) = processes.watch_for(fd, mark) {
                processes.kill_all();
                return Err(lack);
            }
        }
        Ok(processes)
    }

    /// Starts the process of view `slot`. Blocks until it is ready.
    ///
    /// # Errors
    ///
    /// No such slot, one that has a process already, or what is lacking.
    pub(super) fn start_view(&self, slot: u32) -> Result<(), Lack> {
        let wrong = || lack(START)(io::ErrorKind::InvalidInput);
        let place = self.views[..self.max_views].get(slot as usize);
        let place = place.filter(|place| place.get().is_none());
        let place = place.ok_or_else(wrong)?;
        let mut command = self.command.lock().map_err(|_| wrong())?;
        // What we had no descriptor left for could neither be watched nor
        // ended: so some are set aside, one for each that is to come.
        let spawner = lock(&self.pids)[0];
        let coming = if self.user_processes.is_some() { 3 } else { 1 };
        let room = || pidfd_open(spawner, PidfdFlags::empty());
        let room = (0..coming).map(|_| room()).collect::<Result<Vec<_>, _>>();
        let mut room = room.map_err(lack(WATCH))?;
        // A view spawner that has ended has told why before.
        let _ = command.write_all(&slot.to_ne_bytes());
        let mut view = None;
        let ready = self.until_ready(&mut command, &mut room, &mut view);
        let [user_process, mapper] = match ready {
            Ok(user_process) => user_process,
            Err(lack) => {
                // The Guest makes do without this view.
                if let Some(view) = view {
                    view.end();
                }
                return Err(lack);
            }
        };
        let view = view.ok_or_else(wrong)?;
        let view = self.adopt(view, u64::from(slot))?;
        place.set(view).map_err(|_| wrong())?;
        let Some(user_processes) = &self.user_processes else {
            return Ok(());
        };
        room.clear();
        let mark = OF_USER_PROCESS + u64::from(slot);
        let [user_process, mapper] = [user_process, mapper]
            .map(|pid| self.adopt(Child::of_ours(pid)?, mark));
        let place = &user_processes[slot as usize];
        place.set([user_process?, mapper?]).map_err(|_| wrong())
    }

    /// Blocks until a view is ready, which is put into `view` as soon as it
    /// exists. Answers the numbers of its user process and of the user
    /// process's mapper.
    fn until_ready(
        &self,
        command: &mut UnixStream,
        room: &mut Vec<OwnedFd>,
        view: &mut Option<Child>,
    ) -> Result<[i32; 2], Lack> {
        let mut user_process = None;
        loop {
            // The view spawner and the view speak in any order.
            match self.answer(command, view.as_ref())? {
                [0, user_pid, mapper] => {
                    user_process = Some([user_pid, mapper])
                }
                [pid, ..] if pid > 0 => {
                    room.pop();
                    *view = Some(Child::of_ours(pid)?);
                }
                [error, step, detail] => {
                    return Err(no_process(-error, step, detail));
                }
            }
            match user_process {
                Some([error @ ..0, step]) if view.is_some() && step > 0 => {
                    return Err(no_process(-error, step, 0));
                }
                Some([error @ ..0, user_process]) if view.is_some() => {
                    if let Ok(user_process) = Child::of_ours(-user_process) {
                        user_process.end();
                    }
                    return Err(Lack::of_step(Step::Cell, -error, 0));
                }
                Some(user_process) if view.is_some() => {
                    return Ok(user_process);
                }
                _ => {}
            }
        }
    }

    /// For which call the view spawner was killed, if it was; `progress` is
    /// what it has noted.
    pub(super) fn killed_for(&self, progress: [i32; 2]) -> Option<Lack> {
        let ended = has_ended(&&self.spawner);
        let lack = ended.then(|| lack_of(&self.spawner, progress));
        lack.filter(|lack| matches!(lack.cause, Cause::Killed { .. }))
    }

    /// Blocks until the view spawner or a view has answered, or has ended.
    fn answer(
        &self,
        command: &mut UnixStream,
        view: Option<&Child>,
    ) -> Result<Answer, Lack> {
        let view = view.map(|view| &view.descriptor);
        let mut ready = vec![
            PollFd::new(&*command, PollFlags::IN),
            PollFd::new(&self.spawner, PollFlags::IN),
        ];
        ready.extend(view.map(|view| PollFd::new(view, PollFlags::IN)));
        while matches!(
            poll(&mut ready, Some(&READY_PATIENCE)),
            Err(rustix::io::Errno::INTR)
        ) {}
        let [said, spawner, ..] = ready.as_slice() else {
            return Err(lack(START)(io::ErrorKind::InvalidInput));
        };
        // An answer first, for some answer and end.
        if said.revents().is_empty() {
            return Err(match view {
                _ if !spawner.revents().is_empty() => {
                    lack_of(&self.spawner, NOT_KNOWN)
                }
                Some(view) if !ready[2].revents().is_empty() => {
                    lack_of(view, [Step::Timer.number(), 0])
                }
                _ => lack(START)(io::ErrorKind::TimedOut),
            });
        }
        let mut words = [[0; 4]; size_of::<Answer>() / 4];
        let read = command.read_exact(words.as_flattened_mut());
        read.map_err(|_| lack_of(&self.spawner, NOT_KNOWN))?;
        Ok(words.map(i32::from_ne_bytes))
    }

    /// Watches over a child of ours from now on.
    fn adopt(&self, child: Child, mark: u64) -> Result<OwnedFd, Lack> {
        let Child { pid, descriptor } = child;
        if let Err(lack) = self.watch_for(&descriptor, mark) {
            Child { pid, descriptor }.end();
            return Err(lack);
        }
        lock(&self.pids).push(pid);
        Ok(descriptor)
    }

    /// Keeps all of them, and this thread, on the processor that it is on.
    /// Views that are started later inherit it from the view spawner.
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

    /// The lock of whoever asks the view spawner. If it does not come free,
    /// then because the view spawner does not answer (somebody may have stopped
    /// it), and the asker hears of nothing but its death.
    fn lock_command(&self) -> LockResult<MutexGuard<'_, UnixStream>> {
        let deadline = Instant::now() + SPAWNER_PATIENCE;
        loop {
            match self.command.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    let _ = pidfd_send_signal(&self.spawner, Signal::KILL);
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
                SPAWNER => {
                    let end = end_of(&self.spawner);
                    Some(format!("the guest's first process {end}"))
                }
                mark if mark >= OF_USER_PROCESS => {
                    let slot = usize::try_from(mark - OF_USER_PROCESS).ok();
                    let user_processes = self.user_processes.as_ref().zip(slot);
                    let user_process =
                        user_processes.and_then(|(all, n)| all.get(n)?.get());
                    let ended = user_process
                        .and_then(|both| both.iter().find(has_ended));
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
        let user_processes = self
            .user_processes
            .iter()
            .flatten()
            .filter_map(OnceLock::get);
        std::iter::once(&self.spawner)
            .chain(views)
            .chain(user_processes.flatten())
    }

    fn watch_for(&self, fd: &OwnedFd, mark: u64) -> Result<(), Lack> {
        let data = epoll::EventData::new_u64(mark);
        epoll::add(&self.watch, fd, data, epoll::EventFlags::IN)
            .map_err(lack(WATCH))
    }
}

/// A child of ours, which nobody but us reaps: so its number is its own.
struct Child {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Child {
    /// The child with number `pid`, which somebody else may have made. One
    /// that is not ours is not ours to watch or kill.
    fn of_ours(pid: i32) -> Result<Self, Lack> {
        let pid = (pid > 0).then(|| Pid::from_raw(pid)).flatten();
        let pid = pid
            .ok_or(io::ErrorKind::InvalidInput)
            .map_err(lack(START))?;
        let descriptor =
            pidfd_open(pid, PidfdFlags::empty()).map_err(lack(WATCH))?;
        let look = WaitIdOptions::EXITED
            | WaitIdOptions::NOHANG
            | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(descriptor.as_fd()), look).map_err(lack(WATCH))?;
        Ok(Self { pid, descriptor })
    }

    /// Kills it. Blocks until it is gone.
    fn end(self) {
        let _ = pidfd_send_signal(&self.descriptor, Signal::KILL);
        bury(&self.descriptor);
    }
}

/// Starts the view spawner, with everything that it inherits. Answers our end
/// of the socket, too.
fn start_spawner(
    memory: &GuestMemory,
    shared: &Shared,
    pages: &[SharedPage],
) -> Result<(UnixStream, Child), Lack> {
    const TALK: &str = "talk to the guest's processes";
    let (command, theirs) = UnixStream::pair().map_err(lack(TALK))?;
    let program = executable_memfd("lguest-view").map_err(no_program)?;
    let copy = program.try_clone().map_err(lack(START))?;
    File::from(copy).write_all(VIEW).map_err(lack(START))?;
    let_go_of_view();
    let copies = sealed_file("lguest-copies", COPIES_SIZE as u64)
        .map_err(lack("have memory for the guest"))?;
    let mut fds = vec![
        (memory.file(), MEMORY_FD),
        (shared.file.as_fd(), STATE_FD),
        (theirs.as_fd(), COMMAND_FD),
        (copies.as_fd(), COPIES_FD),
    ];
    fds.extend(pages.iter().map(|p| p.file.as_fd()).zip(SHARED_PAGE_FD..));
    for (index, page) in pages.iter().enumerate() {
        fds.push((page.outbox.as_fd(), outbox_fd(pages.len(), index)));
    }
    shared.mailbox().reply.store(0, Ordering::SeqCst);
    // A child without a descriptor could not be watched.
    let room = rustix::io::dup(&theirs).map_err(lack(WATCH))?;
    let space = footprint::address_space(memory.limit(), pages.len());
    let child = spawn(&program, &fds, space).map_err(lack(START))?;
    drop(room);
    let pid = i32::try_from(child).unwrap_or(0);
    Ok((command, Child::of_ours(pid)?))
}

/// A memory file that may be executed, also where `vm.memfd_noexec` says that
/// others may not. Kernels before 6.3 do not know the flag, nor the setting.
pub(crate) fn executable_memfd(name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }
}

/// Why there is no file for a program.
pub(crate) fn no_program(error: rustix::io::Errno) -> Lack {
    if error == rustix::io::Errno::ACCESS {
        Lack::new(START, Cause::NoExecutableFiles)
    } else {
        Lack::when(START, error)
    }
}

/// The processor that we are on, unless that is refused.
pub(super) fn this_processor() -> Option<usize> {
    // SAFETY: asks for a number, or fails.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// A Guest's thread-local segments have bases, and only the processor's own
/// instructions set them fast enough: FSGSBASE, which the kernel has to allow
/// (Linux 5.9, `AT_HWCAP2` bit 1).
pub(crate) fn check_processor() -> Result<(), Lack> {
    const FSGSBASE: libc::c_ulong = 1 << 1;
    // SAFETY: reads what the kernel has told at the start.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & FSGSBASE != 0 {
        return Ok(());
    }
    Err(Lack::new(START, Cause::NoFsgsbase))
}

/// What it means that the view spawner, or a view, has failed with `error` at a
/// step, or in its fork (0).
fn no_process(error: i32, step: i32, detail: i32) -> Lack {
    match Step::from_number(step) {
        Some(step) => Lack::of_step(step, error, detail),
        None => Lack::when(START, io::Error::from_raw_os_error(error)),
    }
}

/// A step that is not known.
const NOT_KNOWN: [i32; 2] = [0, 0];

/// Why a process has ended before it was ready. It was at this step and call,
/// if it was killed. Blocks until it has ended.
fn lack_of(process: &OwnedFd, [step, detail]: [i32; 2]) -> Lack {
    let other = |why| Lack::new(START, Cause::Other(why));
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let Ok(Some(status)) = waitid(WaitId::PidFd(process.as_fd()), options)
    else {
        return other("a process of the guest is gone".into());
    };
    match (status.terminating_signal(), status.exit_status()) {
        (Some(libc::SIGSYS), _) => {
            Lack::of_filter(Step::from_number(step), detail)
        }
        (Some(libc::SIGKILL), _) => Lack::of_kill(START),
        (Some(signal), _) => {
            let end = describe_signal(signal);
            other(format!("a process of the guest {end}"))
        }
        (None, status) => {
            let status = status.unwrap_or(0);
            other(format!("a process of the guest ended with {status}"))
        }
    }
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
    how_it_ended(process, |status| format!("ended with status {status}"))
}

/// The same for a view. Its status may be the Guest's choice, and is no word
/// about this machine.
fn end_of_view(process: &OwnedFd) -> String {
    const FILTER: i32 = SETUP_FAILED + Step::Filter.number();
    how_it_ended(process, |status| match status {
        FILTER => format!("says that it cannot confine itself ({status})"),
        status => format!("ended with status {status}"),
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
        libc::SIGKILL | libc::SIGXCPU => match needs::killed() {
            Cause::KilledFromOutside => {
                "was killed from outside (SIGKILL)".into()
            }
            cause => {
                format!("was killed (SIGKILL): {cause}; {}", cause.cure())
            }
        },
        libc::SIGSEGV => "lost its stack (SIGSEGV)".into(),
        other => format!("was killed by signal {other}"),
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
    address_space: u64,
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
        command.pre_exec(move || {
            footprint::bound(address_space);
            become_view(program, &moves)
        });
    }
    let child = command.spawn()?;
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
