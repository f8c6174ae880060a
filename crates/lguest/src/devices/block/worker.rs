//! The thread of a disk, which carries out requests that may block.
//!
//! It receives requests in order and does one at a time. The Guest runs on
//! meanwhile and may change the memory that a request is about; the request
//! itself is a copy.

use super::counters::DiskCounters;
use super::disk::Disk;
use super::limit::Limit;
use super::request::{Completion, DiskOperation, DiskOutcome};
use crate::memory::{GuestMemory, Section, total};
use crate::thread;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::thread::JoinHandle;

/// A request that is valid for its disk.
pub(super) struct Job {
    /// What the request has to pass first.
    pub(super) limit: Option<Arc<Limit>>,
    pub(super) disk: Arc<Disk>,
    pub(super) memory: GuestMemory,
    pub(super) operation: DiskOperation,
    /// Where in the file it begins.
    pub(super) offset: u64,
    pub(super) sections: Vec<Section>,
    pub(super) stable: bool,
    pub(super) done: Box<dyn Completion>,
    pub(super) counters: Arc<DiskCounters>,
}

impl Job {
    /// Moves the bytes and reports the end of the request, but not of a write
    /// that must be stable. Blocks as long as the file does.
    fn carry_out(self) -> Option<Unstable> {
        let memory = &self.memory;
        let faults = self.disk.faults.as_ref();
        let spoilt = faults.map(|faults| faults.spoil(&self.sections));
        let sections = spoilt.as_deref().unwrap_or(&self.sections);
        let (backing, offset) = (&self.disk.backing, self.offset);
        let moved = match self.operation {
            DiskOperation::Read => backing.read(memory, offset, sections),
            DiskOperation::Write => backing.write(memory, offset, sections),
            DiskOperation::Flush => self.sync().map(|()| 0),
        };
        let moved = moved.ok();
        let is_held =
            backing.is_kept() && (self.stable || backing.has_tables());
        if is_held && self.operation == DiskOperation::Write {
            return Some(Unstable { job: self, moved });
        }
        self.finish(moved);
        None
    }

    /// Waits until the disk under the file has all that was written to it.
    fn sync(&self) -> io::Result<()> {
        let backing = &self.disk.backing;
        if backing.is_kept() {
            backing.sync()?;
            self.counters.syncs.add(1);
        }
        Ok(())
    }

    /// Reports to the Guest that so many bytes were moved; `None` is an error.
    pub(super) fn finish(self, moved: Option<u32>) {
        let is_done = moved == Some(total(&self.sections));
        let moved = moved.unwrap_or(0);
        let c = &self.counters;
        let (requests, bytes, written) = match self.operation {
            DiskOperation::Read => (&c.reads, &c.bytes_read, moved),
            DiskOperation::Write => (&c.writes, &c.bytes_written, 0),
            DiskOperation::Flush => (&c.flushes, &c.bytes_written, 0),
        };
        requests.add(1);
        bytes.add(moved.into());
        c.errors.add(u64::from(!is_done));
        self.done.complete(DiskOutcome { is_done, written });
    }
}

/// A write that is not acknowledged before tables of an image are in the file,
/// or before the disk under the file has it.
struct Unstable {
    job: Job,
    moved: Option<u32>,
}

/// Bytes of the thread's stack: an image's tables have some calls between them.
const STACK: usize = 256 << 10;

/// The most writes that one sync makes stable. The first of them waits for the
/// last.
const MOST_UNSTABLE: usize = 64;

/// The loop of the thread. Writes that wait together cost one sync.
fn work(jobs: &Receiver<Job>, cancelled: &AtomicBool) {
    while let Ok(job) = jobs.recv() {
        let mut unstable = Vec::new();
        let mut next = Some(job);
        while let Some(job) = next {
            let mut passes = !cancelled.load(Ordering::SeqCst);
            if let Some(limit) = job.limit.as_ref().filter(|_| passes) {
                // Those before do not wait for this one.
                make_stable(std::mem::take(&mut unstable));
                passes = limit.pass(total(&job.sections), cancelled);
            }
            if passes {
                unstable.extend(job.carry_out());
            }
            let room = unstable.len() < MOST_UNSTABLE;
            next = room.then(|| jobs.try_recv().ok()).flatten();
        }
        make_stable(unstable);
    }
}

/// Does once for all of these writes what they wait for, and acknowledges them.
fn make_stable(unstable: Vec<Unstable>) {
    let Some(Unstable { job, .. }) = unstable.first() else {
        return;
    };
    let done = match unstable.iter().any(|unstable| unstable.job.stable) {
        true => job.sync(),
        false => job.disk.backing.settle(),
    };
    let is_stable = done.is_ok();
    for Unstable { job, moved } in unstable {
        job.finish(moved.filter(|_| is_stable));
    }
}

/// The thread. Dropping it waits until it has carried out everything, unless
/// that was cancelled.
pub(super) struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Requests that are not begun are dropped.
    cancelled: Arc<AtomicBool>,
}

impl Worker {
    pub(super) fn new() -> io::Result<Self> {
        let (sender, jobs): (_, Receiver<Job>) = channel();
        let cancelled = Arc::<AtomicBool>::default();
        let cancels = Arc::clone(&cancelled);
        let work = move || work(&jobs, &cancels);
        let thread = thread::start("disk", STACK, work)?;
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread),
            cancelled,
        })
    }

    /// Waits until what is being carried out is done, and drops the rest. The
    /// requests may wait for `limit`.
    pub(super) fn cancel(self, limit: Option<&Limit>) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(limit) = limit {
            limit.look_again();
        }
        drop(self); // this waits
    }

    /// Hands `job` to the thread. If a bug has ended the thread, the request
    /// fails.
    pub(super) fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs
            && let Err(SendError(job)) = jobs.send(job)
        {
            job.finish(None);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported already.
            let _ = thread.join();
        }
    }
}
