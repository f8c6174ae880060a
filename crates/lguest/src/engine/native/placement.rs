//! Keeping all processes of a Guest, and threads beside it, on one processor.
//!
//! [`super::affinity`] decides on which.

use super::affinity::{self, Affinity};
use crate::lock::lock;
use rustix::process::Pid;
use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// No processor in particular.
const NOWHERE: usize = usize::MAX;

/// Where the processes of a Guest are kept.
pub(super) struct Placement {
    /// `None` before [`Self::settle`], and on a machine with one processor.
    affinity: Mutex<Option<Affinity>>,
    /// The processor that they are kept on, or [`NOWHERE`].
    processor: AtomicUsize,
    /// Opened early, because a confined Launcher opens nothing. `None` once it
    /// is in use.
    statistics: Mutex<Option<File>>,
}

impl Placement {
    /// The processes may run on any processor.
    pub(super) fn new() -> Self {
        Self {
            affinity: Mutex::new(None),
            processor: AtomicUsize::new(NOWHERE),
            statistics: Mutex::new(File::open(affinity::STATISTICS).ok()),
        }
    }

    /// Keeps `processes`, and this thread, on the processor of this thread.
    /// Processes that they fork later inherit it.
    pub(super) fn settle(&self, processes: &[Pid]) {
        let mut affinity = lock(&self.affinity);
        *affinity = lock(&self.statistics).take().and_then(Affinity::new);
        if let Some(affinity) = affinity.as_ref() {
            self.keep_on(affinity.current(), processes);
        }
    }

    /// Moves `processes`, and this thread, to another processor if they had
    /// to wait too long for theirs.
    pub(super) fn balance(&self, processes: &[Pid]) {
        let mut affinity = lock(&self.affinity);
        let Some(affinity) = affinity.as_mut() else {
            return;
        };
        let better = affinity.reconsider(processes.iter().copied());
        if let Some(cpu) = better {
            self.keep_on(cpu, processes);
        }
    }

    /// Moves this thread to the processor of the processes. `at` is where it
    /// was moved last.
    pub(super) fn join(&self, at: &mut Option<usize>) {
        let cpu = self.processor.load(Ordering::Relaxed);
        if cpu != NOWHERE && *at != Some(cpu) {
            affinity::keep_on(None, cpu);
            *at = Some(cpu);
        }
    }

    fn keep_on(&self, cpu: usize, processes: &[Pid]) {
        self.processor.store(cpu, Ordering::Relaxed);
        affinity::keep_on(None, cpu);
        for &pid in processes {
            affinity::keep_on(Some(pid), cpu);
        }
    }
}
