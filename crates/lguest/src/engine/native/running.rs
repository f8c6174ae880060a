//! What there is once a Guest has been initialised.
//!
//! That is the state that the Launcher shares with the views, the processes,
//! and the huge pages that its memory gets while it works.

use super::footprint;
use super::huge_pages::HugePages;
use super::kernel::Kernel;
use super::processes::{NotRenewed, Processes};
use super::state::{Shared, write_pieces};
use crate::engine::interface::{EngineCounters, Isolation, Setup};
use crate::memory::{GuestMemory, allocated, sealed_file};
use crate::needs::Lack;
use lg_wire::fast_path;
use lg_wire::spawn::read_progress;
use lg_wire::state::{COPIES_SIZE, MAX_VIEWS, VERSION, page_bits};
use lg_wire::turns::{self, Futex};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A Guest that has been initialised.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) processes: Processes,
    /// The processes may run on any processor.
    spread: bool,
    /// The Host waits for an answer, and the Guest stands still: interrupts
    /// need no kick. Never true with [`fast_path::NO_KICK`].
    pub(super) stands: AtomicBool,
    pub(super) kick_always: bool,
    /// Of how many disks views have the file.
    pub(super) disks: usize,
    memory: GuestMemory,
    /// The Guest has run before, and knows the frequency of the counter.
    resumed: bool,
    copies: OwnedFd,
    huge_pages: Arc<HugePages>,
    /// Pieces of memory may become huge pages.
    makes_huge_pages: bool,
}

impl Running {
    /// Starts the processes of a Guest. Blocks until the first view waits for
    /// the run token.
    pub(super) fn start(
        memory: &GuestMemory,
        setup: &Setup,
    ) -> Result<Self, Lack> {
        Self::start_version(memory, setup, VERSION)
    }

    /// The same with views of this [`VERSION`]. Other views are refused.
    pub(super) fn start_version(
        memory: &GuestMemory,
        setup: &Setup,
        version: u32,
    ) -> Result<Self, Lack> {
        let huge_pages = Arc::new(HugePages::new(memory));
        let shared =
            Shared::new(setup.trace, setup.moved).map_err(no_memory)?;
        shared.set_up(setup, memory.limit());
        let copies = copies(setup).map_err(no_memory)?;
        if let Some(resumed) = &setup.resumed {
            shared.resume(resumed).map_err(no_memory)?;
        }
        let user_processes = setup.isolation == Isolation::User;
        let pages = &setup.shared_pages;
        let processes = Processes::start(
            memory,
            &shared,
            copies.as_fd(),
            pages,
            &setup.disks,
            user_processes,
        )?;
        let without = |path| setup.slow_paths & path != 0;
        let running = Self {
            shared: Arc::new(shared),
            processes,
            spread: without(fast_path::ONE_PROCESSOR),
            stands: AtomicBool::new(false),
            kick_always: without(fast_path::NO_KICK),
            disks: setup.disks.len(),
            memory: memory.clone(),
            resumed: setup.resumed.is_some(),
            copies,
            huge_pages,
            makes_huge_pages: !without(fast_path::HUGE_PAGES),
        };
        if let Err(lack) = running.processes.start_view(0) {
            let noted = running.shared.mailbox().reply.load(Ordering::SeqCst);
            let progress = read_progress(noted);
            let killed = running.processes.killed_for(progress);
            running.processes.kill_all();
            return Err(killed.unwrap_or(lack));
        }
        if running.shared.version() != version {
            running.processes.kill_all();
            return Err(Lack::of_another_version());
        }
        let shared = Arc::clone(&running.shared);
        memory.note_writes(move |piece| {
            let pages = page_bits(piece.addr(), piece.len());
            shared.written_pages().fetch_or(pages, Ordering::SeqCst);
        });
        Ok(running)
    }

    /// Gives the run token to the first view. May sleep, until the clock has
    /// been measured.
    pub(super) fn begin(&self) {
        if !self.resumed {
            self.shared.set_tsc_khz();
        }
        if !self.spread {
            self.processes.settle();
        }
        turns::pass::<Kernel>(self.shared.first_run_token());
    }

    /// Something has come from outside for the Guest. If the Guest sleeps, or
    /// says so, it is woken. Otherwise the view that runs, as the Guest names
    /// it, gets a signal. A Guest that lies about it misses what has come.
    pub(super) fn kick(&self) {
        let shared = &self.shared;
        turns::kick::<Kernel>(shared.kick(), shared.asleep(), || {
            let current = shared.current().load(Ordering::SeqCst);
            self.processes.kick(current);
        });
    }

    /// The same, without asking the Guest which view runs.
    pub(super) fn kick_every_view(&self) {
        let kick = self.shared.kick();
        kick.fetch_add(1, Ordering::SeqCst);
        Kernel::wake(kick);
        for slot in (0..).take(MAX_VIEWS) {
            self.processes.kick(slot);
        }
    }

    /// Disk number `index` was removed: the view spawner closes its file, and
    /// each view does at the kick.
    pub(super) fn remove_disk(&self, index: usize) {
        if let Some(disk) = self.shared.disks().get(index) {
            disk.remove();
            self.processes.close_disk(index);
            self.kick_every_view();
        }
    }

    /// Asks the Host to stop at the next clean point.
    pub(super) fn ask_to_stop(&self) {
        self.shared.break_wanted().store(1, Ordering::SeqCst);
        self.kick();
    }

    /// Chooses what is traced. The Host notices it at the next kick.
    pub(super) fn set_traced(&self, groups: u32, sample_every: Duration) {
        let every = u32::try_from(sample_every.as_nanos()).unwrap_or(u32::MAX);
        self.shared.sample_every().store(every, Ordering::SeqCst);
        self.shared.traced().store(groups, Ordering::SeqCst);
        self.kick();
    }

    /// The file with the ring of the trace, whose head says how to read times.
    pub(super) fn trace_file(&self) -> Result<OwnedFd, Lack> {
        self.shared.note_speed();
        let file = rustix::io::fcntl_dupfd_cloexec(&self.shared.file, 3);
        file.map_err(|error| Lack::when("hand the trace over", error))
    }

    /// The files of the Guest: its memory, the state, the patched copies.
    pub(super) fn files(&self) -> Result<[OwnedFd; 3], Lack> {
        let dup = |file: BorrowedFd<'_>| {
            let file = rustix::io::fcntl_dupfd_cloexec(file, 3);
            file.map_err(|error| Lack::when("take a snapshot", error))
        };
        Ok([
            dup(self.memory.file())?,
            dup(self.shared.file.as_fd())?,
            dup(self.copies.as_fd())?,
        ])
    }

    /// Bytes that all of it takes from the machine.
    pub(super) fn taken_bytes(&self) -> u64 {
        let shared = [self.shared.file.as_fd(), self.copies.as_fd()];
        let shared: u64 = shared.into_iter().map(allocated).sum();
        let memory = self.memory.used_bytes();
        let processes = self.processes.count() as u64;
        memory + shared + processes * footprint::of_process(memory)
    }

    /// The Guest has worked for a while: moves it to a better processor, and
    /// makes huge pages, where that helps. It works meanwhile.
    pub(super) fn balance(&self) {
        self.processes.balance();
        if self.makes_huge_pages {
            HugePages::consider(&self.huge_pages, &self.memory);
        }
    }

    /// The counts for the statistics.
    pub(super) fn counters(&self) -> EngineCounters {
        EngineCounters {
            host: self.shared.counters(),
            huge_pages: self.huge_pages.made(),
        }
    }
}

/// The file of the patched copies.
fn copies(setup: &Setup) -> io::Result<OwnedFd> {
    let file = sealed_file("lguest-copies", COPIES_SIZE as u64)?;
    if let Some(resumed) = &setup.resumed {
        write_pieces(&file, 0, &resumed.copies)?;
    }
    Ok(file)
}

fn no_memory(error: impl Into<io::Error>) -> Lack {
    Lack::when("have memory for the guest", error.into())
}

/// The processes, for requests that need them. A fuzz target of the mailbox has
/// none.
pub(super) trait Views {
    /// Starts the process of view `slot`.
    fn start_view(&self, slot: u32) -> Result<(), Lack>;

    /// Puts a new process into the place of view `slot`'s, and passes the run
    /// token to it.
    fn renew_view(&self, slot: u32) -> Result<(), NotRenewed>;
}

impl Views for Running {
    fn start_view(&self, slot: u32) -> Result<(), Lack> {
        self.processes.start_view(slot)
    }

    fn renew_view(&self, slot: u32) -> Result<(), NotRenewed> {
        self.processes.renew_view(slot)?;
        if let Some(run_token) = self.shared.run_token(slot) {
            turns::pass::<Kernel>(run_token);
        }
        Ok(())
    }
}
