//! A copy of the ring, as far as it can be believed.
//!
//! The writers do not wait for a reader. Whatever they may have overwritten
//! while the ring was copied is dropped, and counted as lost.

use lg_wire::state::STATE_SIZE;
use lg_wire::trace::{
    Event, FEWEST, HEAD_SIZE, Kind, MOST, RECORD_SIZE, WORDS, decode,
};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Where the ring begins in the file.
const RING: u64 = STATE_SIZE as u64;

/// Where its records begin.
const RECORDS: u64 = RING + HEAD_SIZE as u64;

/// Something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    /// How long after the Guest was made.
    pub at: Duration,
    /// How long it took. Zero if it is not over, or took no time.
    pub took: Duration,
    /// What.
    pub event: Event,
}

/// What was in the ring, in the order of its times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// What has happened.
    pub events: Vec<Happened>,
    /// How many records are lost, because others were written over them.
    pub lost: u64,
    /// How many were being written, or make no sense.
    pub unreadable: u64,
    /// The number of the next record.
    pub next: u64,
}

/// What the head says.
struct Head {
    next: u64,
    start: u64,
    khz: u32,
}

impl Head {
    fn read(file: impl AsFd) -> io::Result<Self> {
        let mut bytes = [0; 20];
        read_exactly(file, RING, &mut bytes)?;
        let word = |at: usize| {
            let bytes = bytes[at..at + 8].try_into();
            u64::from_le_bytes(bytes.expect("eight bytes"))
        };
        let [.., a, b, c, d] = bytes;
        Ok(Self {
            next: word(0),
            start: word(8),
            khz: u32::from_le_bytes([a, b, c, d]),
        })
    }

    /// The time of `ticks`. If the frequency is not known, a tick counts as a
    /// nanosecond.
    fn time(&self, ticks: u64) -> Duration {
        let khz = if self.khz == 0 { 1_000_000 } else { self.khz };
        let nanoseconds = u128::from(ticks) * 1_000_000 / u128::from(khz);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn happened(&self, ticks: u64, event: Event) -> Happened {
        let took = match event.kind.has_duration() {
            true => u64::from(event.words[2]) << lg_wire::trace::DURATION_SHIFT,
            false => 0,
        };
        Happened {
            // Counters of two processors may differ a little.
            at: self.time(ticks.saturating_sub(self.start)),
            took: self.time(took),
            event,
        }
    }
}

/// Copies what is in the ring of `file` ([`Engine::trace_file`]), from record
/// `from` on.
///
/// [`Engine::trace_file`]: crate::engine::Engine::trace_file
///
/// # Errors
///
/// The file cannot be read, or has no ring.
pub fn copy(file: impl AsFd, from: u64) -> io::Result<Copied> {
    let records = records(&file)?;
    let head = Head::read(&file)?;
    let oldest = head.next.saturating_sub(records);
    let first = from.max(oldest).min(head.next);
    let count = head.next - first;
    let mut bytes = vec![0; bytes_of(count)];
    // The ring may end in the middle.
    let place = first % records;
    let (low, high) = bytes.split_at_mut(bytes_of(count.min(records - place)));
    read_exactly(&file, RECORDS + place * RECORD_SIZE as u64, low)?;
    read_exactly(&file, RECORDS, high)?;
    let next = Head::read(&file)?.next;
    let overwritten = next.saturating_sub(records).clamp(first, head.next);
    let mut copied = Copied {
        lost: overwritten - from.min(overwritten),
        next: head.next,
        ..Copied::default()
    };
    let (all, _) = bytes.as_chunks::<RECORD_SIZE>();
    for (number, bytes) in (first..head.next).zip(all) {
        if number < overwritten {
            continue;
        }
        match decode(&words(bytes), number) {
            Some((ticks, event)) => {
                copied.events.push(head.happened(ticks, event));
            }
            None => copied.unreadable += 1,
        }
    }
    copied.events.sort_by_key(|happened| happened.at);
    Ok(copied)
}

/// How many records the ring of `file` has, by the size of the file: the Guest
/// cannot change that.
fn records(file: impl AsFd) -> io::Result<u64> {
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let records = size.saturating_sub(RECORDS) / RECORD_SIZE as u64;
    let bounds = u64::from(FEWEST)..=u64::from(MOST);
    if !records.is_power_of_two() || !bounds.contains(&records) {
        let why = "this file has no ring of a trace";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(records)
}

/// The bytes of so many records, which are [`MOST`] at the most.
fn bytes_of(records: u64) -> usize {
    usize::try_from(records).unwrap_or(0) * RECORD_SIZE
}

fn words(bytes: &[u8; RECORD_SIZE]) -> [u32; WORDS] {
    let (words, _) = bytes.as_chunks::<4>();
    let mut all = [0; WORDS];
    for (to, from) in all.iter_mut().zip(words) {
        *to = u32::from_le_bytes(*from);
    }
    all
}

fn read_exactly(
    file: impl AsFd,
    mut at: u64,
    mut bytes: &mut [u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pread(&file, &mut *bytes, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes = &mut bytes[n..];
                at += n as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Copied {
    /// Keeps the events of these groups only.
    pub fn keep(&mut self, groups: u32) {
        let is = |kind: Kind| kind.group() & groups != 0;
        self.events.retain(|happened| is(happened.event.kind));
    }

    /// The events of these kinds.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Happened> {
        let is = move |happened: &&Happened| happened.event.kind == kind;
        self.events.iter().filter(is)
    }
}

#[cfg(test)]
mod tests;
