//! The last output of a Guest, for lookers that come later.
//!
//! A machine with a name keeps the last [`CAPACITY`] bytes of its console. Each
//! looker reads from a position of its own, so a slow one delays neither the
//! Guest nor the others: it finds later that bytes are missing. The bytes are
//! also written to a file, which is still there when the Launcher was killed.

use crate::lock::lock;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The bytes that are kept.
pub const CAPACITY: usize = 256 << 10;

/// Output is marked with its time once in so many milliseconds ...
const MARK_TIME: u64 = 1000;

/// ... and in so many bytes, so that the marks of all bytes fit.
const MARK_BYTES: u64 = 256;

/// The most marks.
const MARKS: usize = CAPACITY / 256;
const _: () = assert!(MARKS as u64 * MARK_BYTES == CAPACITY as u64);

/// What the file begins with.
const MAGIC: &[u8; 8] = b"lgback01";

/// Where a byte for the state of the machine is in the file.
const STATE_AT: u64 = 24;

/// Where the marks are in the file: position and time, 8 bytes each.
const MARKS_AT: u64 = 64;

/// Where the bytes are in the file.
const BYTES_AT: u64 = 32 << 10;

/// The present time in milliseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// The last output.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The byte at position P is at P modulo [`CAPACITY`].
    ring: Vec<u8>,
    /// How many bytes there were in all.
    end: u64,
    /// When the last of them was printed, in milliseconds since 1970.
    last: u64,
    /// Positions, and when the byte there was printed.
    marks: VecDeque<(u64, u64)>,
}

/// Where `position` is in the ring.
fn in_ring(position: u64) -> usize {
    usize::try_from(position % CAPACITY as u64).unwrap_or(0)
}

impl Output {
    /// The position of the first byte that is kept, and the one after the last.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        (self.end.saturating_sub(CAPACITY as u64), self.end)
    }

    /// At most `most` bytes from position `from` on, and the position at which
    /// they begin: a later one if some are no longer there.
    #[must_use]
    pub fn read(&self, from: u64, most: usize) -> (u64, Vec<u8>) {
        let (first, end) = self.range();
        let from = from.clamp(first, end);
        let left = usize::try_from(end - from).unwrap_or(usize::MAX);
        let (at, wanted) = (in_ring(from), left.min(most));
        let until_wrap = self.ring.get(at..).unwrap_or_default();
        let mut bytes = until_wrap[..wanted.min(until_wrap.len())].to_vec();
        let rest = wanted - bytes.len();
        bytes.extend(self.ring.get(..rest).unwrap_or_default());
        (from, bytes)
    }

    /// Where output begins that was printed at `time` or later. It may begin
    /// up to [`MARK_BYTES`] or [`MARK_TIME`] earlier.
    #[must_use]
    pub fn since(&self, time: u64) -> u64 {
        let (first, end) = self.range();
        if self.last < time {
            return end;
        }
        let before = self.marks.iter().rev().find(|(_, then)| *then <= time);
        before.map_or(first, |&(at, _)| at.max(first))
    }

    /// Adds `bytes`, printed at `time`. Returns whether there is a new mark.
    fn append(&mut self, bytes: &[u8], time: u64) -> bool {
        let due = self.marks.back().is_none_or(|&(at, then)| {
            time.saturating_sub(then) >= MARK_TIME
                && self.end - at >= MARK_BYTES
        });
        if due {
            if self.marks.len() == MARKS {
                self.marks.pop_front();
            }
            self.marks.push_back((self.end, time));
        }
        // Of more bytes than the ring has, only the last ones stay.
        let skipped = bytes.len().saturating_sub(CAPACITY);
        self.end += skipped as u64;
        let mut rest = &bytes[skipped..];
        while !rest.is_empty() {
            let at = in_ring(self.end);
            let n = rest.len().min(CAPACITY - at);
            if self.ring.len() < at + n {
                self.ring.resize(at + n, 0);
            }
            self.ring[at..at + n].copy_from_slice(&rest[..n]);
            self.end += n as u64;
            rest = &rest[n..];
        }
        self.last = time;
        due
    }

    /// Writes what has changed since there were `before` bytes to `file`. The
    /// number of bytes is last. So a Launcher that is killed meanwhile leaves
    /// the older output, where new bytes may already be in the place of its
    /// oldest ones.
    fn write_to(
        &self,
        file: &File,
        before: u64,
        new_mark: bool,
    ) -> io::Result<()> {
        if let Some(&(at, time)) = self.marks.back().filter(|_| new_mark) {
            let slot = (at / MARK_BYTES) % MARKS as u64;
            let mark = [at.to_le_bytes(), time.to_le_bytes()].concat();
            file.write_all_at(&mark, MARKS_AT + slot * 16)?;
        }
        let mut from = before.max(self.range().0);
        while from < self.end {
            let at = in_ring(from);
            let left = usize::try_from(self.end - from).unwrap_or(usize::MAX);
            let n = left.min(CAPACITY - at);
            let bytes = &self.ring[at..at + n];
            file.write_all_at(bytes, BYTES_AT + at as u64)?;
            from += n as u64;
        }
        let end = self.end.to_le_bytes();
        let head = [*MAGIC, end, self.last.to_le_bytes()].concat();
        file.write_all_at(&head, 0)
    }

    /// The output in the file of a Launcher that has ended. Whatever is in the
    /// file, this is some output.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read_from(file: &File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let most = BYTES_AT + CAPACITY as u64;
        file.take(most).read_to_end(&mut bytes)?;
        let word = |at: usize| -> Option<u64> {
            let word = bytes.get(at..at + 8)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*word))
        };
        let (true, Some(end), Some(last)) =
            (bytes.starts_with(MAGIC), word(8), word(16))
        else {
            return Ok(Self::default());
        };
        let ring_at = usize::try_from(BYTES_AT).unwrap_or(usize::MAX);
        let mut ring = bytes.get(ring_at..).unwrap_or_default().to_vec();
        ring.resize(usize::try_from(end).unwrap_or(CAPACITY).min(CAPACITY), 0);
        let marks_at = usize::try_from(MARKS_AT).unwrap_or(usize::MAX);
        let marks = (0..MARKS).filter_map(|n| {
            let at = marks_at + n * 16;
            Some((word(at)?, word(at + 8)?))
        });
        let kept = |&(at, time): &(u64, u64)| at < end && time != 0;
        let mut marks: Vec<_> = marks.filter(kept).collect();
        marks.sort_unstable();
        Ok(Self {
            ring,
            end,
            last,
            marks: marks.into(),
        })
    }
}

/// The state that [`Backlog::note_state`] has written into `file`, if it has.
#[must_use]
pub fn state_in(file: &File) -> Option<u8> {
    let mut state = [0];
    file.read_exact_at(&mut state, STATE_AT).ok()?;
    Some(state[0])
}

/// The last output of a Guest that runs, with its file.
#[derive(Debug)]
pub struct Backlog {
    kept: Mutex<Kept>,
    /// A counter to add to when there is new output.
    news: OwnedFd,
    wanted: AtomicBool,
}

#[derive(Debug)]
struct Kept {
    output: Output,
    file: File,
    until: Option<Until>,
}

/// A text that the Guest will print.
#[derive(Debug)]
struct Until {
    text: Vec<u8>,
    /// The last bytes, one less than the text has.
    tail: Vec<u8>,
    printed: bool,
}

impl Until {
    fn look(&mut self, bytes: &[u8]) {
        if self.printed {
            return;
        }
        self.tail.extend_from_slice(bytes);
        let mut places = self.tail.windows(self.text.len());
        self.printed = places.any(|place| place == self.text);
        let old = self.tail.len().saturating_sub(self.text.len() - 1);
        self.tail.drain(..old);
    }
}

impl Backlog {
    /// An empty one, which is copied to `file`. New output adds to the event
    /// counter `news`. `until` is a text to look for.
    #[must_use]
    pub fn new(file: File, news: OwnedFd, until: Option<&str>) -> Self {
        let until = until.filter(|text| !text.is_empty());
        Self {
            kept: Mutex::new(Kept {
                output: Output::default(),
                file,
                until: until.map(|text| Until {
                    text: text.into(),
                    tail: Vec::new(),
                    printed: false,
                }),
            }),
            news,
            wanted: AtomicBool::new(false),
        }
    }

    /// Adds `bytes`.
    pub fn append(&self, bytes: &[u8]) {
        let mut kept = lock(&self.kept);
        let before = kept.output.end;
        let new_mark = kept.output.append(bytes, now());
        // If the file system is full, the output is here all the same, and
        // only lookers after the end of the Launcher miss it.
        let _ = kept.output.write_to(&kept.file, before, new_mark);
        if let Some(until) = &mut kept.until {
            until.look(bytes);
        }
        drop(kept);
        if self.wanted.swap(false, Ordering::SeqCst) {
            // If the counter is full, its reader is woken anyway.
            let _ = rustix::io::write(&self.news, &1_u64.to_ne_bytes());
        }
    }

    /// The next output adds to the counter.
    pub fn want_news(&self) {
        self.wanted.store(true, Ordering::SeqCst);
    }

    /// Writes the state of the machine into the file, where it is read without
    /// a call.
    pub fn note_state(&self, state: u8) {
        // If the file system is full, they see the state before.
        let _ = lock(&self.kept).file.write_all_at(&[state], STATE_AT);
    }

    /// Whether the Guest has printed the text to look for. True if there is
    /// none.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let kept = lock(&self.kept);
        kept.until.as_ref().is_none_or(|until| until.printed)
    }

    /// Calls `ask` with the output. New output waits meanwhile.
    pub fn with<T>(&self, ask: impl FnOnce(&Output) -> T) -> T {
        ask(&lock(&self.kept).output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, memfd_create};

    fn file() -> File {
        memfd_create("backlog", MemfdFlags::CLOEXEC).unwrap().into()
    }

    fn backlog(until: Option<&str>) -> (Backlog, File, OwnedFd) {
        let (file, news) =
            (file(), eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let ours = (file.try_clone().unwrap(), news.try_clone().unwrap());
        (Backlog::new(file, news, until), ours.0, ours.1)
    }

    proptest! {
        #[test]
        fn the_last_bytes_are_kept_here_and_in_the_file(
            parts in prop::collection::vec((any::<u8>(), 0..100_000_usize), 0..9),
            from in 0..900_000_u64,
            most in 0..300_000_usize,
        ) {
            let file = file();
            let (mut output, mut all) = (Output::default(), Vec::new());
            for (n, (byte, len)) in parts.into_iter().enumerate() {
                let part = vec![byte; len];
                let before = output.end;
                let mark = output.append(&part, 1000 + 700 * n as u64);
                output.write_to(&file, before, mark).unwrap();
                all.extend(part);
            }
            let end = all.len() as u64;
            let first = all.len().saturating_sub(CAPACITY);
            prop_assert_eq!(output.range(), (first as u64, end));
            let (at, bytes) = output.read(from, most);
            prop_assert_eq!(at, from.clamp(first as u64, end));
            let at = usize::try_from(at).unwrap();
            let expected = &all[at..all.len().min(at + most)];
            prop_assert_eq!(&bytes, expected);
            let mut again = rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))
                .map(|_| Output::read_from(&file).unwrap())
                .unwrap();
            again.marks = output.marks.clone();
            prop_assert_eq!(again, output);
        }

        #[test]
        fn any_file_is_some_output(bytes in prop::collection::vec(any::<u8>(), 0..999)) {
            let file = file();
            file.write_all_at(&bytes, 8).unwrap();
            file.write_all_at(MAGIC, 0).unwrap();
            let output = Output::read_from(&file).unwrap();
            let (first, end) = output.range();
            let (_, read) = output.read(first, usize::MAX);
            prop_assert_eq!(read.len() as u64, end - first);
        }
    }

    #[test]
    fn output_since_a_time_leaves_nothing_out() {
        let mut output = Output::default();
        output.append(&[b'a'; 300], 10_000);
        output.append(&[b'b'; 300], 20_000);
        output.append(b"c", 30_000);
        assert_eq!(output.since(5_000), 0);
        assert_eq!(output.since(15_000), 0);
        assert_eq!(output.since(20_000), 300);
        assert_eq!(output.since(30_000), 600);
        assert_eq!(output.since(30_001), 601, "nothing was printed since");
    }

    #[test]
    fn a_text_is_found_in_pieces_and_news_come_once() {
        let (backlog, _, news) = backlog(Some("login:"));
        backlog.append(b"lo");
        assert!(rustix::io::read(&news, &mut [0; 8]).is_err());
        backlog.want_news();
        backlog.append(b"gilogi");
        assert!(!backlog.is_ready());
        backlog.append(b"n: ");
        assert!(backlog.is_ready());
        let mut count = [0; 8];
        rustix::io::read(&news, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
}
