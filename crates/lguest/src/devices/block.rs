//! The disk: one page, one request at a time, and a file behind it.
//!
//! A request is carried out straight between the file and the Guest's memory.
//! What the kernel has in memory is there during the call, while the Guest
//! stands still; what has to wait for a device is done behind the Guest's back
//! by a thread of the disk's own. The Guest runs on meanwhile, and may
//! scribble over everything it sent: so the request is copied first, and only
//! pages are left to it. A write is acknowledged when the file has it.

mod ahead;
mod faults;
mod format;

use super::{Description, Device, Place, Requests, Violation};
use super::{sections, total};
use crate::memory::Section;
use crate::needs::Lack;
use ahead::Ahead;
use faults::Faults;
pub use format::Format;
use lg_abi::device::{
    BLOCK_DONE, BLOCK_ERROR, BLOCK_READ, BLOCK_WRITE, BlockPage,
    LGUEST_DEVICE_F_RANDOMNESS, LGUEST_DEVICE_T_BLOCK, SECTOR_SIZE,
};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a request may hold the Guest up before we no longer believe that
/// the file is quick. Files of most kinds cannot be asked beforehand whether
/// they would take a write at once; for a read, most can.
const PATIENCE: Duration = Duration::from_millis(1);

/// How many requests of the kind then go to the thread before one is tried
/// again. A read that finds nothing in memory is no reason: it has the kernel
/// begin to read, and read ahead, and the thread has to wait the less.
const BACK_OFF: u32 = 1000;

/// Whether an attempt that went so is a reason to make no more for a while.
fn is_odd(
    operation: Operation,
    moved: &io::Result<u32>,
    wanted: u32,
    took: Duration,
) -> bool {
    let slow = took > PATIENCE;
    match moved {
        // What is in memory comes at once; but in the course of it the kernel
        // may have read ahead, and that takes its time.
        Ok(moved) => *moved != wanted || slow && operation == Operation::Write,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock || slow,
    }
}

/// A file that can be a disk, open and locked.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u32,
    /// Bytes behind the last whole sector.
    rest: u64,
    read_only: bool,
    faults: Option<Faults>,
    /// The same file once more, to read ahead by.
    again: Option<File>,
}

/// A file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It is not there, or not for us.
    #[error("it cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// We may read it, but not write.
    #[error(
        "it cannot be written ({0}): to use it read-only, give it by 'lguest \
         run --disk FILE,ro'"
    )]
    ReadOnly(#[source] io::Error),
    /// A directory, a pipe, a terminal.
    #[error("it is neither a file nor a block device")]
    NotADisk,
    /// Another Launcher writes to it, or we would and another one reads it. Or
    /// another process has locked it, for which it need not be able to write.
    #[error(
        "another guest uses it, or a program has locked it that may only read \
         it: end that one first (`lslocks` names it), or give it to both \
         guests by 'lguest run --disk FILE,ro'; `chmod go-r FILE` keeps other \
         users from locking it"
    )]
    InUse,
    /// It cannot be locked at all.
    #[error("{0}")]
    Lock(Lack),
    /// It stands on the command line twice.
    #[error(
        "it is given twice: leave one out, or give it as '--disk FILE,ro' \
         both times"
    )]
    Twice,
    /// An image of another kind.
    #[error("{0}; if it is one all the same, give it as '--disk FILE,raw'")]
    NotRaw(Format),
    /// Less than a sector.
    #[error("it has {0} bytes: a disk has one sector of 512 at least")]
    TooSmall(u64),
    /// More sectors than their number can count.
    #[error("it has {0} bytes: a disk ends before 2 TiB")]
    TooBig(u64),
}

impl Disk {
    /// What the file seems to be, if it is not a raw image.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        format::of(&self.file)
    }

    /// How many bytes behind its last whole sector are out of reach.
    #[must_use]
    pub fn beyond_last_sector(&self) -> u64 {
        self.rest
    }

    /// Opens and locks the file at `path`. Nothing in it is touched. What
    /// lies beyond its last whole sector is out of reach.
    ///
    /// # Errors
    ///
    /// [`DiskError`] tells what is wrong with it.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let mode = if read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        // A pipe or a terminal should be refused, not waited for.
        let flags = mode | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(error) => return Err(refused(path, error.into())),
        };
        let stat = rustix::fs::fstat(&file)
            .map_err(|error| DiskError::Open(error.into()))?;
        let bytes = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            FileType::BlockDevice => rustix::fs::seek(&file, SeekFrom::End(0))
                .map_err(|error| DiskError::Open(error.into()))?,
            _ => return Err(DiskError::NotADisk),
        };
        let sectors = match u32::try_from(bytes / u64::from(SECTOR_SIZE)) {
            Ok(0) => return Err(DiskError::TooSmall(bytes)),
            Ok(sectors) => sectors,
            Err(_) => return Err(DiskError::TooBig(bytes)),
        };
        let lock = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        match rustix::fs::flock(&file, lock) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DiskError::InUse),
            Err(error) => return Err(DiskError::Lock(Lack::of_lock(error))),
        }
        let flags = flags.difference(OFlags::RWMODE) | OFlags::RDONLY;
        let again = rustix::fs::open(path, flags, Mode::empty());
        Ok(Self {
            file,
            sectors,
            rest: bytes % u64::from(SECTOR_SIZE),
            read_only,
            faults: None,
            // Where it cannot be had again, it is only slower.
            again: again.ok().map(File::from),
        })
    }

    /// Has one request in `one_in` fail from now on.
    #[must_use]
    pub fn failing(mut self, one_in: u32) -> Self {
        self.faults = Some(Faults::new(one_in));
        self
    }

    /// How many sectors it has.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        self.sectors
    }
}

/// Why `path` could not be opened: for writing only, or at all?
fn refused(path: &Path, error: io::Error) -> DiskError {
    use io::ErrorKind::{IsADirectory, PermissionDenied, ReadOnlyFilesystem};
    match error.kind() {
        IsADirectory => DiskError::NotADisk,
        PermissionDenied | ReadOnlyFilesystem if File::open(path).is_ok() => {
            DiskError::ReadOnly(error)
        }
        _ => DiskError::Open(error),
    }
}

/// A disk on the bus.
pub struct Block {
    disk: Arc<Disk>,
    at: Option<(Arc<dyn Requests>, Place)>,
    /// There is a request that the Guest has not got an answer to.
    busy: Arc<AtomicBool>,
    worker: Option<Worker>,
    /// `None` where nothing is read ahead.
    ahead: Option<Ahead>,
    /// Whether requests may be answered during the call.
    at_once: bool,
    /// How many writes not to try at once: see [`BACK_OFF`].
    back_off: AtomicU32,
    /// The same for reads.
    back_off_reading: AtomicU32,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    at_once: AtomicU64,
    ahead: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    errors: AtomicU64,
}

impl Block {
    /// `disk` as a device.
    #[must_use]
    pub fn new(mut disk: Disk) -> Self {
        let again = disk.again.take();
        Self {
            disk: Arc::new(disk),
            at: None,
            busy: Arc::default(),
            worker: None,
            ahead: again.map(Ahead::new),
            at_once: true,
            back_off: AtomicU32::new(0),
            back_off_reading: AtomicU32::new(0),
            counters: Arc::default(),
        }
    }

    /// Leaves every request to the thread: the slow way, for comparison.
    pub fn never_at_once(&mut self) {
        self.at_once = false;
    }

    /// Reads nothing that the Guest has not asked for, for comparison, too.
    pub fn never_ahead(&mut self) {
        self.ahead = None;
    }

    /// Carries `job` out now, if that takes no time. Answers whether it did;
    /// where not, nothing is lost if it is done all over again.
    fn try_at_once(&self, job: &Job) -> bool {
        if !self.at_once || self.disk.faults.is_some() {
            return false;
        }
        let back_off = match job.operation {
            Operation::Refuse => return false,
            Operation::Read => &self.back_off_reading,
            Operation::Write => &self.back_off,
        };
        let rest = back_off.load(Ordering::Relaxed);
        if rest > 0 {
            back_off.store(rest - 1, Ordering::Relaxed);
            return false;
        }
        let memory = job.guest.memory();
        let (file, sections) = (&self.disk.file, job.sections.as_slice());
        let start = Instant::now();
        let moved = match job.operation {
            Operation::Write => memory.write_file(file, job.offset, sections),
            _ => memory.read_file_now(file, job.offset, sections),
        };
        if is_odd(job.operation, &moved, total(sections), start.elapsed()) {
            back_off.store(BACK_OFF, Ordering::Relaxed);
        }
        // Anything but all of it is for the thread to find out about.
        let all = moved.ok().filter(|&moved| moved == total(sections));
        let Some(all) = all else { return false };
        self.counters.at_once.fetch_add(1, Ordering::Relaxed);
        job.finish(Some(all));
        true
    }

    fn attach(&mut self, guest: Arc<dyn Requests>, place: Place) {
        let page = BlockPage {
            num_sectors: self.disk.sectors,
            ..BlockPage::default()
        };
        let written = guest.memory().write_object(place.page, &page);
        written.expect("a device's page exists");
        self.at = Some((guest, place));
    }

    /// Hands a request to the thread, which comes to life with the first one.
    fn start(&mut self, job: Job) -> io::Result<()> {
        if self.worker.is_none() {
            self.worker = Some(Worker::new()?);
        }
        if let Some(worker) = &self.worker {
            worker.send(job);
        }
        Ok(())
    }
}

impl Device for Block {
    fn description(&self) -> Description {
        Description {
            kind: LGUEST_DEVICE_T_BLOCK,
            features: LGUEST_DEVICE_F_RANDOMNESS,
            num_pages: 1,
        }
    }

    fn place(
        &mut self,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> io::Result<()> {
        self.attach(guest, place);
        Ok(())
    }

    fn handle_output(&mut self, dma: u32, key: u32) -> Result<u32, Violation> {
        let Some((guest, place)) = self.at.clone() else {
            return Ok(0);
        };
        if key != place.page {
            return Err(Violation(format!(
                "a disk's key is its page {:#x}, not {key:#x}",
                place.page
            )));
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(Violation(
                "a second request to a disk that is busy with one".into(),
            ));
        }
        let memory = guest.memory();
        let page: BlockPage = memory
            .read_object(place.page)
            .map_err(|bad| Violation(bad.to_string()))?;
        let bound = guest.get_dma(place.page).ok().flatten();
        let sections = match (page.kind, bound) {
            (BLOCK_WRITE, _) => sections(memory, dma)?,
            (BLOCK_READ, Some(bound)) => sections(memory, bound.addr)?,
            // There is nothing that data could go into or come from.
            _ => Vec::new(),
        };
        let operation = self.disk.check(&page, &sections);
        let job = Job {
            disk: self.disk.clone(),
            guest,
            page: place.page,
            used_len: bound.map(|bound| bound.addr),
            irq: bound.map_or(place.irq, |bound| bound.irq),
            operation: operation.unwrap_or(Operation::Refuse),
            offset: u64::from(page.sector) * u64::from(SECTOR_SIZE),
            sections,
            busy: self.busy.clone(),
            counters: self.counters.clone(),
        };
        match job.operation {
            Operation::Refuse => job.finish(None),
            Operation::Read | Operation::Write => {
                let done = self.try_at_once(&job);
                if let (Operation::Read, Some(ahead)) =
                    (job.operation, &mut self.ahead)
                    && ahead.note(job.offset, page.bytes.into(), done)
                {
                    self.counters.ahead.fetch_add(1, Ordering::Relaxed);
                }
                if done {
                    return Ok(0);
                }
                let spare = job.refusal();
                if self.start(job).is_err() {
                    spare.finish(None);
                }
            }
        }
        Ok(0)
    }

    fn finish(&mut self) {
        self.worker = None;
        self.ahead = None;
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        vec![
            ("reads", get(&c.reads)),
            ("writes", get(&c.writes)),
            ("bytes_read", get(&c.bytes_read)),
            ("bytes_written", get(&c.bytes_written)),
            ("at_once", get(&c.at_once)),
            ("ahead", get(&c.ahead)),
            ("errors", get(&c.errors)),
        ]
    }
}

/// What is to be done for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
    Refuse,
}

impl Disk {
    /// What `page` asks for, if it makes sense for this disk.
    fn check(
        &self,
        page: &BlockPage,
        sections: &[Section],
    ) -> Option<Operation> {
        let sector_size = u64::from(SECTOR_SIZE);
        let end = u64::from(page.sector) * sector_size + u64::from(page.bytes);
        if end > u64::from(self.sectors) * sector_size
            || total(sections) != page.bytes
        {
            return None;
        }
        match page.kind {
            BLOCK_READ => Some(Operation::Read),
            BLOCK_WRITE if !self.read_only => Some(Operation::Write),
            _ => None,
        }
    }
}

/// A request on its way: everything in it is a copy.
struct Job {
    disk: Arc<Disk>,
    guest: Arc<dyn Requests>,
    /// Physical address of the disk's page.
    page: u32,
    /// Physical address of the bound buffer.
    used_len: Option<u32>,
    irq: u8,
    operation: Operation,
    offset: u64,
    sections: Vec<Section>,
    busy: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

impl Job {
    /// Moves the bytes. Blocks as long as the file does.
    fn carry_out(self) {
        let memory = self.guest.memory();
        let spoilt = self.disk.faults.as_ref();
        let spoilt = spoilt.map(|f| f.spoil(memory, &self.sections));
        let sections = spoilt.as_deref().unwrap_or(&self.sections);
        let file = &self.disk.file;
        let moved = match self.operation {
            Operation::Read => {
                memory.read_file(file, self.offset, sections).ok()
            }
            Operation::Write => {
                memory.write_file(file, self.offset, sections).ok()
            }
            Operation::Refuse => None,
        };
        self.finish(moved);
    }

    /// Tells the Guest how it went: first the result, then the bound buffer,
    /// then the interrupt, so that each finds the ones before it in place.
    fn finish(&self, moved: Option<u32>) {
        let done = moved == Some(total(&self.sections));
        self.count(done, moved.unwrap_or(0));
        let result = if done { BLOCK_DONE } else { BLOCK_ERROR };
        // Once the Guest sees the result it may send the next request.
        self.busy.store(false, Ordering::SeqCst);
        let memory = self.guest.memory();
        let at = self.page + BlockPage::RESULT_OFFSET;
        let written = memory.write_last(at, result);
        written.expect("a device's page exists");
        if let Some(at) = self.used_len {
            let read = match self.operation {
                Operation::Read => moved.unwrap_or(0),
                Operation::Write | Operation::Refuse => 0,
            };
            // A buffer that does not exist has nobody who waits for it.
            let _ = memory.write_last(at, read);
        }
        // A dead Guest has nobody left to tell.
        let _ = self.guest.irq(self.irq);
    }

    /// This request again, to be refused.
    fn refusal(&self) -> Self {
        Self {
            disk: self.disk.clone(),
            guest: self.guest.clone(),
            operation: Operation::Refuse,
            sections: Vec::new(),
            busy: self.busy.clone(),
            counters: self.counters.clone(),
            ..*self
        }
    }

    fn count(&self, done: bool, bytes: u32) {
        let c = &self.counters;
        let (requests, moved) = match self.operation {
            Operation::Read => (&c.reads, &c.bytes_read),
            Operation::Write => (&c.writes, &c.bytes_written),
            Operation::Refuse => (&c.errors, &c.bytes_read),
        };
        requests.fetch_add(1, Ordering::Relaxed);
        moved.fetch_add(u64::from(bytes), Ordering::Relaxed);
        if !done && self.operation != Operation::Refuse {
            c.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread of a disk. Dropping it waits until it has finished.
struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn new() -> io::Result<Self> {
        let (sender, jobs): (_, Receiver<Job>) = channel();
        let work = move || jobs.into_iter().for_each(Job::carry_out);
        let thread = std::thread::Builder::new()
            .name("disk".into())
            .stack_size(64 << 10)
            .spawn(work)?;
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread),
        })
    }

    fn send(&self, job: Job) {
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
            // If it panicked, that has been reported.
            let _ = thread.join();
        }
    }
}

#[cfg(fuzzing)]
impl Block {
    /// `disk` as a device with somebody else for a Host.
    #[must_use]
    pub fn attached(
        disk: Disk,
        guest: Arc<dyn Requests>,
        place: Place,
    ) -> Self {
        let mut block = Self::new(disk);
        block.attach(guest, place);
        block
    }
}

#[cfg(test)]
mod tests;
