//! The disk: requests to a file, raw or in the format qcow2.
//!
//! A request is carried out directly between the file and the Guest's memory.
//! Bytes that the kernel has in memory are moved during the call, while the
//! Guest stands still. A thread of the disk carries out what has to wait for a
//! device, while the Guest runs on. One thing is waited for during the call: a
//! table of an image that is not in our memory yet.
//!
//! A write is acknowledged when the file has it, and a flush when the disk
//! under the file has all that was written before. For a driver that could send
//! flushes and does not, a write is acknowledged when the disk under the file
//! has it (virtio 1.0, section 5.2.6.2).

mod ahead;
mod backing;
mod counters;
mod disk;
mod error;
mod faults;
mod format;
mod image;
mod layers;
mod limit;
mod request;
mod worker;

pub use disk::Disk;
pub use error::{DiskError, LayerError};
pub use format::Format;
pub use image::BadImage;
pub use limit::{DiskRate, Limit};
pub use request::{Completion, DiskOperation, DiskOutcome, DiskRequest};

use super::{NamedCounts, RestoreError, Saved, Versioned};
use crate::memory::{Section, total};
use ahead::{Ahead, Source};
use backing::Backing;
use counters::DiskCounters;
use lg_abi::device::SECTOR_SIZE;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use worker::{Job, Worker};

/// How long a request may stop the Guest before the file no longer counts as
/// quick. Most kinds of files do not tell beforehand whether a write would
/// block; for a read, most do.
const PATIENCE: Duration = Duration::from_millis(1);

/// How many requests of the kind then go to the thread before one is tried at
/// once again. A read that finds nothing in memory does not count: it makes the
/// kernel begin to read, and to read ahead, so the thread waits less.
const BACK_OFF: u32 = 1000;

/// Whether the result of an attempt is a reason to make no more for a while.
fn is_odd(
    operation: DiskOperation,
    moved: &io::Result<u32>,
    wanted: u32,
    took: Duration,
) -> bool {
    let slow = took > PATIENCE;
    match moved {
        // Bytes in memory are moved at once. But the kernel may have read ahead
        // meanwhile, which takes time.
        Ok(moved) => {
            *moved != wanted || slow && operation == DiskOperation::Write
        }
        Err(error) => error.kind() != io::ErrorKind::WouldBlock || slow,
    }
}

/// A disk that a Guest uses.
pub struct Block {
    /// `None` after [`Self::detach`].
    disk: Option<Arc<Disk>>,
    sectors: u32,
    read_only: bool,
    files: Vec<OwnedFd>,
    /// The file to read only, until it is taken by [`Self::lend_as`].
    for_host: Option<OwnedFd>,
    /// Its number among those that the Host may read.
    number: Option<usize>,
    worker: Option<Worker>,
    /// `None` where nothing is read ahead.
    ahead: Option<Ahead>,
    /// Whether requests may be answered during the call.
    at_once: bool,
    /// What all disks of the Guest may do in a second.
    limit: Option<Arc<Limit>>,
    /// How many writes not to try at once: see [`BACK_OFF`].
    back_off: AtomicU32,
    /// The same for reads.
    back_off_reading: AtomicU32,
    counters: Arc<DiskCounters>,
}

/// The state of a disk. Its bytes are in the file, and requests are ended
/// before it is taken: see [`Block::state`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskState {
    /// How many sectors it has. A Guest reads that only once.
    sectors: u32,
    read_only: bool,
    /// The position in the random numbers of a disk that fails.
    faults: Option<u64>,
    counters: DiskCounters,
}

impl Saved for DiskState {
    const DEVICE: &'static str = "disk";
    const VERSION: u32 = 3;
}

impl Block {
    /// `disk` as a device.
    #[must_use]
    pub fn new(mut disk: Disk) -> Self {
        let again = disk.again.take();
        let files = std::mem::take(&mut disk.files);
        let for_host = disk.for_host.take();
        let disk = Arc::new(disk);
        let source = match &disk.backing {
            Backing::Raw(_) => again.map(Source::File),
            Backing::Image(_) => Some(Source::Image(Arc::downgrade(&disk))),
        };
        Self {
            sectors: disk.sectors,
            read_only: disk.read_only,
            disk: Some(disk),
            files,
            for_host,
            number: None,
            worker: None,
            ahead: source.map(Ahead::new),
            at_once: true,
            limit: None,
            back_off: AtomicU32::new(0),
            back_off_reading: AtomicU32::new(0),
            counters: Arc::default(),
        }
    }

    /// Leaves every request to the thread: the slow way, for comparison.
    pub fn never_at_once(&mut self) {
        self.at_once = false;
    }

    /// Turns reading ahead off: the slow way, for comparison.
    pub fn never_ahead(&mut self) {
        self.ahead = None;
    }

    /// Keeps its file from the Host: the slow way, for comparison.
    pub fn never_by_host(&mut self) {
        self.for_host = None;
    }

    /// Its file for the Guest's views, opened to read only, if it can be read
    /// there: not an image, and nothing that a request has to pass before. The
    /// disk is number `number` of those.
    pub fn lend_as(&mut self, number: usize) -> Option<OwnedFd> {
        let faults = self.disk.as_ref().is_some_and(|d| d.faults.is_some());
        let is_plain = self.at_once && self.limit.is_none() && !faults;
        let file = self.for_host.take().filter(|_| is_plain)?;
        self.number = Some(number);
        Some(file)
    }

    /// Its number, if the Guest's views have its file.
    #[must_use]
    pub fn number(&self) -> Option<usize> {
        self.number
    }

    /// Whether the next reads may be answered without us: probably their bytes
    /// are in memory.
    #[must_use]
    pub fn may_be_lent(&self) -> bool {
        self.disk.is_some()
            && self.back_off_reading.load(Ordering::Relaxed) == 0
            && self.ahead.as_ref().is_none_or(Ahead::rests)
    }

    /// So many reads of so many bytes were answered without us.
    pub fn note_reads(&self, reads: u64, bytes: u64) {
        self.counters.reads.add(reads);
        self.counters.at_once.add(reads);
        self.counters.bytes_read.add(bytes);
    }

    /// Its files for a snapshot, the lowest layer first. The second time there
    /// are none.
    pub fn take_files(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.files)
    }

    /// Bounds the disk by `limit`.
    pub fn set_limit(&mut self, limit: Arc<Limit>) {
        self.limit = Some(limit);
    }

    /// How many sectors it has.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        self.sectors
    }

    /// Whether its Guest may only read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Carries out `request`, now or by the thread. Blocks only for a table of
    /// an image, which is read from the file once.
    pub fn submit(&mut self, request: DiskRequest) {
        let bytes = total(&request.sections);
        let (Some(offset), Some(disk)) =
            (self.offset(&request, bytes), self.disk.clone())
        else {
            return self.refuse(request.done);
        };
        let DiskRequest {
            operation,
            memory,
            sections,
            stable,
            done,
            ..
        } = request;
        let may = self.limit.as_ref().is_none_or(|l| l.may_pass(bytes));
        let job = Job {
            limit: self.limit.clone().filter(|_| !may),
            disk,
            memory,
            operation,
            offset,
            sections,
            stable,
            done,
            counters: self.counters.clone(),
        };
        let moved = self.try_at_once(&job);
        if let (DiskOperation::Read, Some(ahead)) = (operation, &mut self.ahead)
            && ahead.note(offset, bytes.into(), moved.is_some())
        {
            self.counters.ahead.add(1);
        }
        if moved.is_some() {
            self.counters.at_once.add(1);
            return job.finish(moved);
        }
        match self.worker() {
            Ok(worker) => worker.send(job),
            Err(_) => self.refuse(job.done),
        }
    }

    /// Answers a bad request.
    pub fn refuse(&self, done: Box<dyn Completion>) {
        self.counters.errors.add(1);
        done.complete(DiskOutcome::REFUSED);
    }

    /// The offset in the file at which `request` begins, if it is valid for
    /// this disk.
    fn offset(&self, request: &DiskRequest, bytes: u32) -> Option<u64> {
        let sector_size = u64::from(SECTOR_SIZE);
        let offset = request.sector.checked_mul(sector_size)?;
        let end = offset.checked_add(bytes.into())?;
        let writes = request.operation == DiskOperation::Write;
        let fits = end <= u64::from(self.sectors) * sector_size
            && !(writes && self.read_only);
        fits.then_some(offset)
    }

    /// Carries `job` out now, if its bytes are in memory. Returns the bytes if
    /// all of them were moved; otherwise the job can be done again from the
    /// start.
    fn try_at_once(&self, job: &Job) -> Option<u32> {
        if !self.at_once || job.limit.is_some() || job.disk.faults.is_some() {
            return None;
        }
        let reads = match job.operation {
            DiskOperation::Read => true,
            DiskOperation::Write if !job.stable => false,
            // They wait for the disk under the file.
            DiskOperation::Write | DiskOperation::Flush => return None,
        };
        let back_off = if reads {
            &self.back_off_reading
        } else {
            &self.back_off
        };
        let rest = back_off.load(Ordering::Relaxed);
        if rest > 0 {
            back_off.store(rest - 1, Ordering::Relaxed);
            return None;
        }
        let (backing, memory) = (&job.disk.backing, &job.memory);
        let (offset, sections): (_, &[Section]) = (job.offset, &job.sections);
        let start = Instant::now();
        let moved = if reads {
            backing.read_now(memory, offset, sections)
        } else {
            backing.write_now(memory, offset, sections)
        };
        let wanted = total(sections);
        if is_odd(job.operation, &moved, wanted, start.elapsed()) {
            back_off.store(BACK_OFF, Ordering::Relaxed);
        }
        // Without full success, the thread does the job again and finds the
        // error.
        moved.ok().filter(|&moved| moved == wanted)
    }

    /// The thread, which starts with the first request for it.
    fn worker(&mut self) -> io::Result<&Worker> {
        match &mut self.worker {
            Some(worker) => Ok(worker),
            none => Ok(none.insert(Worker::new()?)),
        }
    }

    /// The Guest is dead: ends every request. May block.
    pub fn finish(&mut self) {
        self.end_requests();
        self.ahead = None;
        self.settle();
    }

    /// The driver has reset the disk: waits for the request that is being
    /// carried out, and drops those behind it, which are not answered. May
    /// block as long as the file does.
    pub fn cancel(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.cancel(self.limit.as_deref());
        }
    }

    /// Closes the file, and so ends its lock. From now on every request fails.
    /// First finishes every request in progress. May block as long as the file
    /// does.
    pub fn detach(&mut self) {
        self.finish();
        self.files.clear();
        self.for_host = None;
        self.disk = None;
    }

    /// Waits until every request in progress is carried out.
    fn end_requests(&mut self) {
        let _lifted = self.limit.as_ref().map(Limit::lift);
        // Dropping the thread waits for it. The next request starts another.
        self.worker = None;
    }

    /// Moves tables to the file. An error was reported to the Guest already,
    /// with the request that has changed them.
    fn settle(&self) {
        let disk = self.disk.as_ref();
        if let Some(disk) = disk.filter(|disk| disk.backing.is_kept()) {
            let _ = disk.backing.settle();
        }
    }

    /// The state. First finishes every request in progress, so that the Guest's
    /// memory holds the answers. May block as long as the file does.
    pub fn state(&mut self) -> Versioned<DiskState> {
        self.end_requests();
        self.settle();
        let faults = self.disk.as_ref().and_then(|d| d.faults.as_ref());
        DiskState {
            sectors: self.sectors,
            read_only: self.read_only,
            faults: faults.map(faults::Faults::position),
            counters: DiskCounters::clone(&self.counters),
        }
        .versioned()
    }

    /// Goes on with `state`, which was taken of a disk with this file or with a
    /// copy of it. To be called before the first request.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    pub fn restore(
        &mut self,
        state: &Versioned<DiskState>,
    ) -> Result<(), RestoreError> {
        let state = state.known()?;
        let is = |sectors: u32, read_only: bool| {
            let access = if read_only { "read-only" } else { "writable" };
            format!("a {access} disk of {sectors} sectors")
        };
        let ours = is(self.sectors, self.read_only);
        let theirs = is(state.sectors, state.read_only);
        if ours != theirs {
            let text = format!("it is of {theirs}, and this is {ours}");
            return Err(RestoreError::Other(text));
        }
        let faults = self.disk.as_ref().and_then(|d| d.faults.as_ref());
        if let (Some(faults), Some(position)) = (faults, state.faults) {
            faults.go_on_at(position);
        }
        self.counters = Arc::new(state.counters.clone());
        Ok(())
    }

    /// What the disk has done so far, for the statistics.
    #[must_use]
    pub fn counters(&self) -> NamedCounts {
        self.counters.list()
    }
}

#[cfg(test)]
mod tests;
