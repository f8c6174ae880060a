//! When a disk tries a request at once.

use super::*;
use crate::memory::GuestMemory;

#[test]
fn a_read_that_finds_nothing_in_memory_is_no_reason_not_to_try_again() {
    let fast = Duration::from_micros(20);
    let slow = PATIENCE + fast;
    let odd = |operation, moved, took| is_odd(operation, &moved, 512, took);
    let error = |kind: io::ErrorKind| Err(kind.into());
    let not_there = || error(io::ErrorKind::WouldBlock);
    assert!(!odd(DiskOperation::Read, Ok(512), fast));
    assert!(!odd(DiskOperation::Read, Ok(512), slow));
    assert!(!odd(DiskOperation::Read, not_there(), fast));
    assert!(odd(DiskOperation::Read, not_there(), slow));
    assert!(odd(DiskOperation::Read, Ok(511), fast));
    assert!(odd(
        DiskOperation::Read,
        error(io::ErrorKind::Unsupported),
        fast
    ));
    assert!(!odd(DiskOperation::Write, Ok(512), fast));
    assert!(odd(DiskOperation::Write, Ok(512), slow));
    assert!(odd(
        DiskOperation::Write,
        error(io::ErrorKind::StorageFull),
        fast
    ));
}

/// Counts answers.
struct Answers(Arc<AtomicU32>);

impl Completion for Answers {
    fn complete(self: Box<Self>, outcome: DiskOutcome) {
        assert!(outcome.is_done);
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn after_a_slow_write_the_thread_has_its_turn() {
    let name = format!("lguest-back-off-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, vec![0; 8 * 512]).unwrap();
    let mut block = Block::new(Disk::open(&path, false).unwrap());
    std::fs::remove_file(&path).unwrap();
    let memory = GuestMemory::new(0x1_0000, 1).unwrap();
    let answers = Arc::new(AtomicU32::new(0));
    block.back_off.store(2, Ordering::Relaxed);
    for at_once in [0, 0, 1] {
        block.submit(DiskRequest {
            operation: DiskOperation::Write,
            sector: 7,
            memory: memory.clone(),
            sections: vec![memory.section(0x6000, 512).unwrap()],
            stable: false,
            done: Box::new(Answers(answers.clone())),
        });
        // This waits for the thread.
        let _ = block.state();
        assert_eq!(block.counters.at_once.get(), at_once);
    }
    assert_eq!(answers.load(Ordering::SeqCst), 3);
}

/// Remembers how often the file was synced when its request was answered.
struct SyncsThen(Arc<DiskCounters>, std::sync::mpsc::Sender<u64>);

impl Completion for SyncsThen {
    fn complete(self: Box<Self>, outcome: DiskOutcome) {
        assert!(outcome.is_done);
        self.1.send(self.0.syncs.get()).unwrap();
    }
}

#[test]
fn a_stable_write_and_a_flush_are_answered_after_the_sync() {
    let name = format!("lguest-stable-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, vec![0; 8 * 512]).unwrap();
    let mut block = Block::new(Disk::open(&path, false).unwrap());
    std::fs::remove_file(&path).unwrap();
    let memory = GuestMemory::new(0x1_0000, 1).unwrap();
    let (sender, answers) = std::sync::mpsc::channel();
    let mut ask = |operation, stable| {
        let sections = match operation {
            DiskOperation::Flush => Vec::new(),
            _ => vec![memory.section(0x6000, 512).unwrap()],
        };
        block.submit(DiskRequest {
            operation,
            sector: 0,
            memory: memory.clone(),
            sections,
            stable,
            done: Box::new(SyncsThen(block.counters.clone(), sender.clone())),
        });
        answers.recv().unwrap()
    };
    assert_eq!(ask(DiskOperation::Write, false), 0);
    assert_eq!(ask(DiskOperation::Write, true), 1);
    assert_eq!(ask(DiskOperation::Read, true), 1);
    assert_eq!(ask(DiskOperation::Flush, false), 2);
}
