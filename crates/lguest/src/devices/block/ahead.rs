//! Reading ahead of a Guest that reads its disk in order.
//!
//! The kernel reads ahead of a process that reads a file in order, but during
//! that process's own read. While the kernel finds room for some megabytes and
//! asks the device for them, the Guest stands still. That was half of the time.
//! So once a Guest reads in order, and the data is not in memory, a thread
//! reads ahead of the Guest, on another processor if there is one, and the
//! kernel reads ahead of that thread. The thread has its own opening of the
//! file, because the kernel keeps a position for each opening. It begins with a
//! short distance and doubles it as long as the Guest reads in order. Nothing
//! depends on it: data that was not read ahead is read when it is asked for.

use super::backing::Backing;
use super::disk::Disk;
use crate::engine::Anywhere;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How far ahead is read at first ...
const FIRST: u64 = 256 << 10;

/// ... and at most. The kernel goes further.
const MOST: u64 = 2 << 20;

/// How much is read at a time.
const PIECE: usize = 64 << 10;

/// Streams that are followed at the same time.
const STREAMS: usize = 4;

/// So many reads after one that found nothing in memory, we still want to see
/// the next: it may go on there.
const AFTER_A_MISS: u64 = 4;

/// So many reads after the last one of a stream that is read ahead.
const AFTER_A_STREAM: u64 = 64;

/// The places where a Guest reads in order, and the thread.
pub(super) struct Ahead {
    streams: [Stream; STREAMS],
    reads: u64,
    /// The number of the last read that found nothing in memory; 0 = none.
    missed: u64,
    /// The number of the last read of a stream that is read ahead; 0 = none.
    followed: u64,
    reader: Reader,
}

/// Reads in order: each begins where the one before it ended.
#[derive(Clone, Copy, Default)]
struct Stream {
    /// Where the next one will begin.
    next: u64,
    /// Data up to here has been asked for.
    until: u64,
    /// How far ahead to read.
    distance: u64,
    /// Some of its data was not in memory.
    cold: bool,
    /// The number of its last read; 0 = there is no such stream.
    seen: u64,
}

/// What is read ahead.
pub(super) enum Source {
    /// A raw file, in an opening that is used for nothing else.
    File(File),
    /// A disk that is an image. Its files have such openings. They are closed,
    /// and their locks end, with the disk and not with the thread.
    Image(Weak<Disk>),
}

/// The thread, which starts when it is first needed.
enum Reader {
    /// It will use this source, on these processors.
    Unstarted(Source, Anywhere),
    /// Receives what to read.
    Running(SyncSender<Range<u64>>),
    /// It cannot be started.
    None,
}

impl Ahead {
    /// Reads ahead in `source`. The calling thread must not be bound to one
    /// processor yet: the thread will run on the same processors.
    pub(super) fn new(source: Source) -> Self {
        Self {
            streams: [Stream::default(); STREAMS],
            reads: 0,
            missed: 0,
            followed: 0,
            reader: Reader::Unstarted(source, Anywhere::we_may()),
        }
    }

    /// The Guest has read `bytes` at `offset`; `in_memory` says whether all of
    /// them were in memory. Returns whether that makes the thread read ahead.
    pub(super) fn note(
        &mut self,
        offset: u64,
        bytes: u64,
        in_memory: bool,
    ) -> bool {
        self.reads += 1;
        if !in_memory {
            self.missed = self.reads;
        }
        let Some(stream) = find(&mut self.streams, offset) else {
            let oldest = self.streams.iter_mut().min_by_key(|s| s.seen);
            if let Some(oldest) = oldest {
                *oldest = Stream {
                    next: offset + bytes,
                    until: 0,
                    distance: FIRST,
                    cold: !in_memory,
                    seen: self.reads,
                };
            }
            return false;
        };
        stream.seen = self.reads;
        let wanted = stream.go_on(bytes, in_memory);
        if stream.until > 0 {
            self.followed = self.reads;
        }
        let Some(wanted) = wanted else {
            return false;
        };
        let until = wanted.end;
        // If the thread is busy, the next read asks it again.
        let told = self.reader.tell(wanted);
        if told {
            stream.until = until;
            self.followed = self.reads;
            stream.distance = MOST.min(2 * stream.distance);
        }
        told
    }

    /// Whether nothing would be read ahead of the next reads, as far as the
    /// last ones tell. Then they need not be noted.
    pub(super) fn rests(&self) -> bool {
        let is_recent = |read: u64, reads: u64| {
            read > 0 && self.reads.saturating_sub(read) < reads
        };
        !is_recent(self.missed, AFTER_A_MISS)
            && !is_recent(self.followed, AFTER_A_STREAM)
    }
}

/// The stream that goes on at `offset`.
fn find(streams: &mut [Stream], offset: u64) -> Option<&mut Stream> {
    streams.iter_mut().find(|s| s.seen > 0 && s.next == offset)
}

impl Stream {
    /// The stream has gone on by `bytes`. Returns what to read ahead now.
    fn go_on(&mut self, bytes: u64, in_memory: bool) -> Option<Range<u64>> {
        self.next += bytes;
        self.cold |= !in_memory;
        let until = self.until.max(self.next);
        let wanted = until..self.next + self.distance;
        let enough = until - self.next > self.distance / 2;
        (self.cold && !enough).then_some(wanted)
    }
}

impl Reader {
    /// Asks the thread to read `wanted`. Returns false if it is busy.
    fn tell(&mut self, wanted: Range<u64>) -> bool {
        if matches!(self, Self::Unstarted(..))
            && let Self::Unstarted(source, anywhere) =
                std::mem::replace(self, Self::None)
        {
            let (sender, wanted) = sync_channel(1);
            let thread =
                anywhere.spawn("ahead", move || read(&source, &wanted));
            if thread.is_ok() {
                *self = Self::Running(sender);
            }
        }
        matches!(self, Self::Running(sender) if sender.try_send(wanted).is_ok())
    }
}

/// The loop of the thread. It ends when the sender of `wanted` is dropped.
fn read(source: &Source, wanted: &Receiver<Range<u64>>) {
    let mut ignored = vec![0; PIECE];
    for range in wanted {
        let mut at = range.start;
        while at < range.end {
            // If the Guest reads this piece itself, it gets the error.
            let Some(read) = source.read(at, &mut ignored) else {
                break;
            };
            at += read as u64;
        }
    }
}

impl Source {
    /// Reads up to a piece at `at`. Returns the bytes; `None` at the end.
    fn read(&self, at: u64, ignored: &mut [u8]) -> Option<usize> {
        match self {
            Self::File(file) => {
                file.read_at(ignored, at).ok().filter(|&read| read > 0)
            }
            Self::Image(disk) => match &disk.upgrade()?.backing {
                Backing::Image(image) => image.read_ahead(at, ignored),
                Backing::Raw(_) => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream from 0 asks for, read by read of 64 KiB.
    fn asked(in_memory: bool, reads: u64) -> Vec<Range<u64>> {
        let mut stream = Stream {
            distance: FIRST,
            ..Stream::default()
        };
        let mut all = Vec::new();
        for _ in 0..reads {
            if let Some(wanted) = stream.go_on(64 << 10, in_memory) {
                stream.until = wanted.end;
                stream.distance = MOST.min(2 * stream.distance);
                all.push(wanted);
            }
        }
        all
    }

    #[test]
    fn what_is_read_ahead_is_read_once_and_in_order() {
        let all = asked(false, 1000);
        assert!(all.len() > 10 && all.len() < 100, "{}", all.len());
        let mut next = 64 << 10;
        for range in all {
            assert_eq!(range.start, next);
            assert!(range.end - range.start <= MOST);
            next = range.end;
        }
        let end = 1000 * (64 << 10);
        assert!(next > end + MOST / 2 && next <= end + MOST, "{next}");
    }

    #[test]
    fn what_is_in_memory_is_not_read_ahead() {
        assert_eq!(asked(true, 100), []);
    }

    #[test]
    fn only_reads_in_order_count() {
        let file = tempfile();
        let mut ahead = Ahead::new(Source::File(file));
        // Two streams at the same time are followed; reads that jump are not.
        for n in 1..100_u64 {
            assert!(!ahead.note((n * 7919 % 1000) << 20, 4096, false));
        }
        assert!(!ahead.note(0, 4096, false));
        assert!(!ahead.note(1 << 30, 4096, false));
        assert!(ahead.note(4096, 4096, false));
        assert!(ahead.streams.iter().any(|s| s.next == (1 << 30) + 4096));
    }

    #[test]
    fn reads_are_noted_until_none_would_be_read_ahead() {
        let mut ahead = Ahead::new(Source::File(tempfile()));
        assert!(ahead.rests());
        ahead.note(1 << 30, 4096, true);
        assert!(ahead.rests());
        // A miss, after which nothing goes on there.
        ahead.note(2 << 30, 4096, false);
        for n in 3..6 {
            assert!(!ahead.rests());
            ahead.note(n << 30, 4096, true);
        }
        ahead.note(6 << 30, 4096, true);
        assert!(ahead.rests());
        // A miss, after which a stream begins.
        ahead.note(0, 4096, false);
        let mut at = 4096;
        while ahead.streams.iter().all(|stream| stream.until == 0) {
            assert!(!ahead.rests());
            ahead.note(at, 4096, false);
            at += 4096;
        }
        for n in 1..AFTER_A_STREAM {
            ahead.note((100 + n) << 30, 4096, true);
        }
        assert!(!ahead.rests());
        ahead.note(200 << 30, 4096, true);
        assert!(ahead.rests());
    }

    fn tempfile() -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        rustix::fs::memfd_create("ahead", flags).unwrap().into()
    }
}
