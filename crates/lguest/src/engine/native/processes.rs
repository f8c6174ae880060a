//! The processes that run a Guest: one for each view, and the view spawner.
//!
//! The view spawner is started once ([`super::spawn`]) and forks a view when it
//! is asked. All of them are our children, all of them end with us, and the
//! thread in [`Processes::wait_for_death`] reports one that ends before. A view
//! is replaced by a new process when its table of segments is out of date.

use super::child::{Child, START, WATCH, bury, has_ended, lack};
use super::describe::{NOT_KNOWN, end_of, end_of_view, lack_of, no_process};
use super::placement::Placement;
use super::slots::Slots;
use super::spawn::{check_processor, start_spawner};
use super::state::Shared;
use super::watch::{Mark, Watch};
use crate::engine::clock;
use crate::engine::interface::SharedPage;
use crate::memory::GuestMemory;
use crate::needs::{Cause, Lack};
use lg_wire::spawn::Answer;
use lg_wire::spawn::CLOSE_DISK;
use lg_wire::spawn::KICK_SIGNAL;
use lg_wire::spawn::Step;
use lg_wire::state::{MAX_VIEWS, max_views};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LockResult, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// How long the view spawner may take to answer when all processes are to be
/// killed. A view that it forks and does not report lives as long as the
/// Launcher.
const SPAWNER_PATIENCE: Duration = Duration::from_millis(100);

/// How long a view may take to get ready: far longer than it needs, also where
/// others keep all processors busy.
const READY_PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// Why a view was not made anew.
pub(super) enum NotRenewed {
    /// It was done too often for this Guest.
    TooOften,
    /// There is no such view.
    NoSuchView,
    /// The machine lacks this.
    Lacks(Lack),
}

/// How often a Guest may have views made anew. Linux does so about three times
/// at boot for each view that there is. Without a limit, a Guest could keep the
/// view spawner and the Launcher busy.
const MAX_RENEWALS: usize = 8 * MAX_VIEWS;

/// All processes of a Guest.
pub(super) struct Processes {
    /// Slots from here on get no process: the Guest uses fewer views.
    max_views: usize,
    /// Its number belongs to it until we reap it, as with all the others.
    spawner: Child,
    command: Mutex<UnixStream>,
    slots: Slots,
    /// Views have user processes.
    user_processes: bool,
    /// How often a view was made anew.
    renewals: AtomicUsize,
    placement: Placement,
    watch: Watch,
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
        copies: BorrowedFd<'_>,
        pages: &[SharedPage],
        disks: &[OwnedFd],
        user_processes: bool,
    ) -> Result<Self, Lack> {
        check_processor()?;
        let watch = Watch::new()?;
        let files = (copies, pages, disks);
        let (command, spawner) = start_spawner(memory, shared, files)?;
        let processes = Self {
            max_views: max_views(memory.limit()),
            spawner,
            command: Mutex::new(command),
            slots: Slots::new(),
            user_processes,
            renewals: AtomicUsize::new(0),
            placement: Placement::new(),
            watch,
        };
        let spawner = &processes.spawner.descriptor;
        let watched = processes.watch.add(spawner, Mark::Spawner);
        if let Err(lack) = watched {
            processes.kill_all();
            return Err(lack);
        }
        Ok(processes)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        1 + self.slots.pids().len()
    }

    /// Starts the process of view `slot`. Blocks until it is ready.
    ///
    /// # Errors
    ///
    /// No such slot, one that has a process already, or what is lacking.
    pub(super) fn start_view(&self, slot: u32) -> Result<(), Lack> {
        let wrong = || lack(START)(io::ErrorKind::InvalidInput);
        let has_room = (slot as usize) < self.max_views;
        if !has_room || !self.slots.is_empty(slot) {
            return Err(wrong());
        }
        let mut command = self.command.lock().map_err(|_| wrong())?;
        // Without a descriptor, a process could be neither watched nor ended.
        // So one is set aside for each process that is to come.
        let coming = if self.user_processes { 3 } else { 1 };
        let room = || pidfd_open(self.spawner.pid, PidfdFlags::empty());
        let room = (0..coming).map(|_| room()).collect::<Result<Vec<_>, _>>();
        let mut room = room.map_err(lack(WATCH))?;
        // If the view spawner has ended, `until_ready` gets the reason.
        let _ = command.write_all(&slot.to_ne_bytes());
        let mut view = None;
        let ready = self.until_ready(&mut command, &mut room, &mut view);
        let [user_process, mapper] = match ready {
            Ok(user_process) => user_process,
            Err(lack) => {
                // The Guest goes on without this view.
                if let Some(view) = view {
                    view.end();
                }
                return Err(lack);
            }
        };
        let view = view.ok_or_else(wrong)?;
        self.adopt(slot, view, Mark::View(slot))?;
        if !self.user_processes {
            return Ok(());
        }
        room.clear();
        let mark = Mark::UserProcess(slot);
        let of_ours = |pid| Child::of_ours(pid);
        let (user_process, mapper) = (of_ours(user_process), of_ours(mapper));
        let adopted = user_process.and_then(|p| self.adopt(slot, p, mark));
        adopted.and(mapper.and_then(|mapper| self.adopt(slot, mapper, mark)))
    }

    /// Has the view spawner close the file of a disk. Blocks while a view is
    /// started.
    pub(super) fn close_disk(&self, index: usize) {
        let number = u32::try_from(index).unwrap_or(0);
        if let Ok(mut command) = self.command.lock() {
            // A view spawner that has ended has no file open.
            let _ = command.write_all(&(CLOSE_DISK | number).to_ne_bytes());
        }
    }

    /// Ends the process of view `slot`, which stands still, and starts another.
    /// Blocks until it is ready.
    ///
    /// # Errors
    ///
    /// No such view, or what is lacking. Then the slot has no process.
    pub(super) fn renew_view(&self, slot: u32) -> Result<(), NotRenewed> {
        let renewals = self.renewals.fetch_add(1, Ordering::Relaxed);
        if renewals >= MAX_RENEWALS {
            return Err(NotRenewed::TooOften);
        }
        let exists = (slot as usize) < self.max_views;
        if !exists || self.slots.is_empty(slot) {
            return Err(NotRenewed::NoSuchView);
        }
        let old = self.slots.take(slot);
        for process in &old {
            // This end is not the Guest's.
            self.watch.remove(&process.descriptor);
        }
        for process in old {
            process.end();
        }
        self.start_view(slot).map_err(NotRenewed::Lacks)
    }

    /// Blocks until a view is ready. The view is put into `view` as soon as it
    /// exists. Returns the numbers of its user process and of that process's
    /// mapper.
    fn until_ready(
        &self,
        command: &mut UnixStream,
        room: &mut Vec<OwnedFd>,
        view: &mut Option<Child>,
    ) -> Result<[i32; 2], Lack> {
        let mut user_process = None;
        loop {
            // The view spawner and the view may answer in any order.
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
                    return Err(Lack::of_step(Step::UserProcess, -error, 0));
                }
                Some(user_process) if view.is_some() => {
                    return Ok(user_process);
                }
                _ => {}
            }
        }
    }

    /// The call for which the view spawner was killed, if it was killed;
    /// `progress` is what it has noted.
    pub(super) fn killed_for(&self, progress: [i32; 2]) -> Option<Lack> {
        let spawner = &self.spawner.descriptor;
        let ended = has_ended(&spawner);
        let lack = ended.then(|| lack_of(spawner, progress));
        lack.filter(|lack| matches!(lack.cause, Cause::Killed { .. }))
    }

    /// Blocks until the view spawner or a view has answered, or has ended.
    fn answer(
        &self,
        command: &mut UnixStream,
        view: Option<&Child>,
    ) -> Result<Answer, Lack> {
        let view = view.map(|view| &view.descriptor);
        let spawner_process = &self.spawner.descriptor;
        let mut ready = vec![
            PollFd::new(&*command, PollFlags::IN),
            PollFd::new(spawner_process, PollFlags::IN),
        ];
        ready.extend(view.map(|view| PollFd::new(view, PollFlags::IN)));
        while matches!(
            poll(&mut ready, Some(&READY_PATIENCE)),
            Err(rustix::io::Errno::INTR)
        ) {}
        let [said, spawner, ..] = ready.as_slice() else {
            return Err(lack(START)(io::ErrorKind::InvalidInput));
        };
        // An answer is read first: some processes answer and then end.
        if said.revents().is_empty() {
            return Err(match view {
                _ if !spawner.revents().is_empty() => {
                    lack_of(spawner_process, NOT_KNOWN)
                }
                Some(view) if !ready[2].revents().is_empty() => {
                    lack_of(view, [Step::Timer.number(), 0])
                }
                _ => lack(START)(io::ErrorKind::TimedOut),
            });
        }
        let mut words = [[0; 4]; size_of::<Answer>() / 4];
        let read = command.read_exact(words.as_flattened_mut());
        read.map_err(|_| lack_of(spawner_process, NOT_KNOWN))?;
        Ok(words.map(i32::from_ne_bytes))
    }

    /// Watches a child of ours from now on. It belongs to view `slot`.
    fn adopt(&self, slot: u32, child: Child, mark: Mark) -> Result<(), Lack> {
        if let Err(lack) = self.watch.add(&child.descriptor, mark) {
            child.end();
            return Err(lack);
        }
        self.slots.put(slot, child);
        Ok(())
    }

    /// The numbers of all processes.
    fn pids(&self) -> Vec<Pid> {
        let mut pids = vec![self.spawner.pid];
        pids.extend(self.slots.pids());
        pids
    }

    /// Keeps all processes, and this thread, on the processor of this thread.
    /// Views that are started later inherit it from the view spawner.
    pub(super) fn settle(&self) {
        self.placement.settle(&self.pids());
    }

    /// The processor time of each process, with its number.
    pub(super) fn times(&self) -> Vec<(i32, Duration)> {
        let time = |pid: Pid| Some((pid.as_raw_pid(), clock::used_by(pid)?));
        self.pids().into_iter().filter_map(time).collect()
    }

    /// Moves all processes, and this thread, to another processor if they had
    /// to wait too long for theirs.
    pub(super) fn balance(&self) {
        self.placement.balance(&self.pids());
    }

    /// Moves this thread to the processor of the processes. `at` is where it
    /// was moved last.
    pub(super) fn join(&self, at: &mut Option<usize>) {
        self.placement.join(at);
    }

    /// Kicks view `slot`, if there is such a process.
    pub(super) fn kick(&self, slot: u32) {
        if let Some(signal) = Signal::from_named_raw(KICK_SIGNAL) {
            // A process that has just died needs no kick.
            self.slots.with_view(slot, |view| {
                let _ = pidfd_send_signal(view, signal);
            });
        }
    }

    /// Kills all processes. Blocks until they are gone.
    pub(super) fn kill_all(&self) {
        // A request to the view spawner takes the same lock, so there is none
        // meanwhile.
        let command = self.lock_command();
        self.each(|process| {
            let _ = pidfd_send_signal(process, Signal::KILL);
        });
        self.each(bury);
        drop(command);
    }

    /// The lock for requests to the view spawner. If it stays taken, the view
    /// spawner does not answer (it may have been stopped by a signal). Then
    /// only its death ends the request.
    fn lock_command(&self) -> LockResult<MutexGuard<'_, UnixStream>> {
        let deadline = Instant::now() + SPAWNER_PATIENCE;
        loop {
            match self.command.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                    let spawner = &self.spawner.descriptor;
                    let _ = pidfd_send_signal(spawner, Signal::KILL);
                    return self.command.lock();
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// Blocks until a process ends that should not. Returns how it ended, or
    /// `None` when [`Self::stop_watching`] was called.
    pub(super) fn wait_for_death(&self) -> Option<String> {
        let mark = match self.watch.wait() {
            Ok(mark) => mark,
            Err(error) => return Some(format!("cannot watch: {error}")),
        };
        let gone = || "is gone".into();
        match mark {
            Mark::Stop => None,
            Mark::Spawner => {
                let end = end_of(&self.spawner.descriptor);
                Some(format!("the guest's first process {end}"))
            }
            Mark::UserProcess(slot) => {
                let end = self.slots.with_ended_user_process(slot, end_of);
                let end = end.unwrap_or_else(gone);
                Some(format!("a process of the guest's programs {end}"))
            }
            Mark::View(slot) => {
                let end = self.slots.with_view(slot, end_of_view);
                let end = end.unwrap_or_else(gone);
                Some(format!("a process of the guest {end}"))
            }
        }
    }

    /// Makes [`Self::wait_for_death`] return.
    pub(super) fn stop_watching(&self) {
        self.watch.stop();
    }

    /// Calls `act` with each process.
    fn each(&self, mut act: impl FnMut(&OwnedFd)) {
        act(&self.spawner.descriptor);
        self.slots.each(act);
    }
}
