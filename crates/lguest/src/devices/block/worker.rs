//! The thread of a disk, which carries out requests that may block.
//!
//! It receives requests in order and does one at a time. The Guest runs on
//! meanwhile and may change the memory that a request is about; the request
//! itself is a copy.

use super::counters::DiskCounters;
use super::disk::Disk;
use super::request::{Completion, DiskOperation, DiskOutcome};
use crate::memory::{GuestMemory, Section, total};
use crate::thread;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// A request that is valid for its disk.
pub(super) struct Job {
    pub(super) disk: Arc<Disk>,
    pub(super) memory: GuestMemory,
    pub(super) operation: DiskOperation,
    /// Where in the file it begins.
    pub(super) offset: u64,
    pub(super) sections: Vec<Section>,
    pub(super) done: Box<dyn Completion>,
    pub(super) counters: Arc<DiskCounters>,
}

impl Job {
    /// Moves the bytes. Blocks as long as the file does.
    fn carry_out(self) {
        let memory = &self.memory;
        let faults = self.disk.faults.as_ref();
        let spoilt = faults.map(|faults| faults.spoil(&self.sections));
        let sections = spoilt.as_deref().unwrap_or(&self.sections);
        let (file, offset) = (&self.disk.file, self.offset);
        let moved = match self.operation {
            DiskOperation::Read => memory.read_file(file, offset, sections),
            DiskOperation::Write => memory.write_file(file, offset, sections),
            DiskOperation::Flush => file.sync_data().map(|()| 0),
        };
        self.finish(moved.ok());
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

/// The thread. Dropping it waits until it has carried out everything.
pub(super) struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn new() -> io::Result<Self> {
        let (sender, jobs): (_, Receiver<Job>) = channel();
        let work = move || jobs.into_iter().for_each(Job::carry_out);
        let thread = thread::start("disk", 64 << 10, work)?;
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread),
        })
    }

    pub(super) fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let sent = jobs.send(job);
            sent.expect("the thread receives as long as there is a sender");
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
