//! What is between the device of a port and the multiplexer.
//!
//! Both directions are bounded. The device takes no more from the Guest while
//! much waits for the multiplexer, and the multiplexer takes no more from its
//! clients while much waits for the Guest. Each wakes the other by an event.
//! A frame stays here until it is complete, so that a snapshot has all of it.

use crate::devices::{RestoreError, Saved, Versioned};
use crate::lock::lock;
use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

/// Bytes in front of a payload.
pub const HEADER: usize = lg_exec::frame::HEAD;

/// The most bytes of a payload.
pub const FRAME_MOST: usize = lg_exec::frame::PAYLOAD_MOST;

/// The most streams at a time.
pub const STREAMS_MOST: usize = 64;

/// While so many bytes wait for the Guest, no client is read.
const TO_GUEST_MOST: usize = 2 * FRAME_MOST;

/// While so many bytes wait for the multiplexer, nothing is taken from the
/// Guest. A whole frame has room.
const FROM_GUEST_MOST: usize = 2 * FRAME_MOST;

/// The most bytes that one chain of the Guest may have. Linux writes 32 KiB at
/// a time, and splices 128 KiB.
pub const CHAIN_MOST: usize = 1 << 20;

/// A frame without its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its stream.
    pub stream: u32,
    /// Its kind.
    pub kind: u8,
    /// What it says.
    pub payload: Vec<u8>,
}

/// A frame as bytes; none if the payload is too long.
#[must_use]
pub fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    // A frame that was taken is not too long.
    let _ = lg_exec::frame::put(&mut bytes, stream, kind, payload);
    bytes
}

/// What comes from the Guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromGuest {
    /// A frame.
    Frame(Frame),
    /// The agent has closed the port, and what was before it has come.
    Closed,
    /// A frame is longer than a frame may be. Nothing that follows can be
    /// understood.
    TooLong(u32),
}

/// Why there is no new stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStream {
    /// There are too many.
    #[error("{STREAMS_MOST} commands run there already: wait until one ends")]
    TooMany,
    /// The channel cannot be used any more.
    #[error("{0}")]
    Broken(String),
}

/// The bytes of both directions.
pub struct Channel {
    inner: Mutex<Inner>,
    /// Wakes the device.
    device: OwnedFd,
    /// Wakes the multiplexer.
    news: OwnedFd,
}

#[derive(Default)]
struct Inner {
    to_guest: VecDeque<u8>,
    from_guest: VecDeque<u8>,
    /// The agent has the port open.
    open: bool,
    /// It has closed the port after `from_guest`.
    closed: bool,
    /// The device has left something in the Guest's ring.
    starved: bool,
    /// Streams that the agent may know.
    live: BTreeSet<u32>,
    /// The last number that was given to a stream.
    last: u32,
    /// Why the channel cannot be used any more.
    broken: Option<String>,
}

/// The state of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    to_guest: Vec<u8>,
    from_guest: Vec<u8>,
    open: bool,
    live: Vec<u32>,
    last: u32,
    broken: Option<String>,
}

impl Saved for ChannelState {
    const DEVICE: &'static str = "channel to an agent";
    const VERSION: u32 = 1;
}

impl Channel {
    /// A channel with nothing in it.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event =
            || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self {
            inner: Mutex::default(),
            device: event()?,
            news: event()?,
        })
    }

    // What the device uses.

    /// The event that wakes the device.
    #[must_use]
    pub fn device_event(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// The agent has opened or closed the port. What waits for an agent that
    /// has closed it is dropped.
    pub fn set_open(&self, open: bool) {
        let mut inner = lock(&self.inner);
        if inner.open && !open {
            inner.to_guest.clear();
            inner.closed = true;
        }
        inner.open = open;
        drop(inner);
        wake(&self.news);
    }

    /// Whether the device may take a chain from the Guest. If not, the device
    /// is woken when it may.
    #[must_use]
    pub fn has_room_from_guest(&self) -> bool {
        let mut inner = lock(&self.inner);
        let room = inner.from_guest.len() < FROM_GUEST_MOST && !inner.closed;
        inner.starved |= !room;
        room
    }

    /// The Guest has sent `bytes`: those of one chain.
    pub fn put_from_guest(&self, bytes: &[u8]) {
        lock(&self.inner).from_guest.extend(bytes);
        wake(&self.news);
    }

    /// Hands bytes for the Guest to `take`, which returns how many it took.
    /// There are none before the agent has opened the port.
    ///
    /// # Errors
    ///
    /// That of `take`.
    pub fn give_to_guest<E>(
        &self,
        take: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let mut inner = lock(&self.inner);
        if inner.to_guest.is_empty() || !inner.open {
            return Ok(());
        }
        let taken = take(inner.to_guest.make_contiguous());
        let had_room = inner.to_guest.len() < TO_GUEST_MOST;
        let n = *taken.as_ref().unwrap_or(&0);
        inner.to_guest.drain(..n);
        let has_room = inner.to_guest.len() < TO_GUEST_MOST;
        drop(inner);
        if has_room && !had_room {
            wake(&self.news);
        }
        taken.map(drop)
    }

    /// The device has left something for its next visit.
    pub fn wake_device(&self) {
        wake(&self.device);
    }

    // What the multiplexer uses.

    /// The event that wakes the multiplexer.
    #[must_use]
    pub fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Resets the event that wakes the multiplexer.
    pub fn hear_news(&self) {
        // If there is nothing to read, it was not woken.
        let _ = rustix::io::read(&self.news, &mut [0; 8]);
    }

    /// Wakes the multiplexer.
    pub fn wake_multiplexer(&self) {
        wake(&self.news);
    }

    /// Whether the agent has the port open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        lock(&self.inner).open
    }

    /// A new stream. Its number was never used before.
    ///
    /// # Errors
    ///
    /// [`NoStream`].
    pub fn begin_stream(&self) -> Result<u32, NoStream> {
        let mut inner = lock(&self.inner);
        if let Some(why) = &inner.broken {
            return Err(NoStream::Broken(why.clone()));
        }
        if inner.live.len() >= STREAMS_MOST {
            return Err(NoStream::TooMany);
        }
        let Some(number) = inner.last.checked_add(1) else {
            let why = "all numbers of streams were used: start it again";
            return Err(NoStream::Broken(why.into()));
        };
        inner.last = number;
        inner.live.insert(number);
        Ok(number)
    }

    /// Streams that the agent may know.
    #[must_use]
    pub fn streams(&self) -> Vec<u32> {
        lock(&self.inner).live.iter().copied().collect()
    }

    /// The agent needs no more frames about this stream.
    pub fn end_stream(&self, number: u32) {
        lock(&self.inner).live.remove(&number);
    }

    /// Whether there is room for a frame to the Guest.
    #[must_use]
    pub fn has_room_to_guest(&self) -> bool {
        lock(&self.inner).to_guest.len() < TO_GUEST_MOST
    }

    /// Puts a whole frame behind what waits for the Guest. Returns whether
    /// there was room.
    pub fn put_to_guest(&self, frame: &[u8]) -> bool {
        let mut inner = lock(&self.inner);
        if inner.to_guest.len() >= TO_GUEST_MOST {
            return false;
        }
        inner.to_guest.extend(frame);
        drop(inner);
        wake(&self.device);
        true
    }

    /// Takes the next frame from the Guest.
    #[must_use]
    pub fn take(&self) -> Option<FromGuest> {
        let mut inner = lock(&self.inner);
        let taken = next(&mut inner);
        let wakes = std::mem::take(&mut inner.starved);
        drop(inner);
        if wakes {
            wake(&self.device);
        }
        taken
    }

    /// Nothing that the Guest sends can be understood any more.
    pub fn break_off(&self, why: &str) {
        let mut inner = lock(&self.inner);
        inner.broken.get_or_insert_with(|| why.to_owned());
        inner.from_guest.clear();
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> Versioned<ChannelState> {
        let inner = lock(&self.inner);
        ChannelState {
            to_guest: inner.to_guest.iter().copied().collect(),
            from_guest: match inner.closed {
                // The multiplexer has not seen the end of an agent. Frames of
                // that agent are of streams without a client.
                true => Vec::new(),
                false => inner.from_guest.iter().copied().collect(),
            },
            open: inner.open,
            live: inner.live.iter().copied().collect(),
            last: inner.last,
            broken: inner.broken.clone(),
        }
        .versioned()
    }

    /// Goes on with `state`.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    pub fn restore(
        &self,
        state: &Versioned<ChannelState>,
    ) -> Result<(), RestoreError> {
        let state = state.known()?;
        let most = TO_GUEST_MOST + HEADER + FRAME_MOST;
        let possible = state.to_guest.len() <= most
            && state.from_guest.len() < FROM_GUEST_MOST + CHAIN_MOST
            && state.live.len() <= STREAMS_MOST
            && state.live.iter().all(|number| *number <= state.last);
        if !possible {
            let text = "its channel to an agent has more in it than there can \
                        be";
            return Err(RestoreError::Other(text.to_owned()));
        }
        *lock(&self.inner) = Inner {
            to_guest: state.to_guest.iter().copied().collect(),
            from_guest: state.from_guest.iter().copied().collect(),
            open: state.open,
            closed: false,
            starved: true,
            live: state.live.iter().copied().collect(),
            last: state.last,
            broken: state
                .broken
                .as_deref()
                .map(|why| crate::engine::printable(why.as_bytes())),
        };
        wake(&self.device);
        wake(&self.news);
        Ok(())
    }
}

/// The next frame in `inner`, or what there is instead.
fn next(inner: &mut Inner) -> Option<FromGuest> {
    if inner.broken.is_some() {
        inner.from_guest.clear();
    }
    let word = |at: usize| {
        let bytes = [0, 1, 2, 3].map(|n| inner.from_guest.get(at + n).copied());
        let [Some(a), Some(b), Some(c), Some(d)] = bytes else {
            return None;
        };
        Some(u32::from_le_bytes([a, b, c, d]))
    };
    let head = word(0).zip(word(4)).zip(inner.from_guest.get(8).copied());
    if let Some(((len, stream), kind)) = head {
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        if bytes > FRAME_MOST {
            return Some(FromGuest::TooLong(len));
        }
        if inner.from_guest.len() >= HEADER + bytes {
            inner.from_guest.drain(..HEADER);
            let payload = inner.from_guest.drain(..bytes).collect();
            return Some(FromGuest::Frame(Frame {
                stream,
                kind,
                payload,
            }));
        }
    }
    if std::mem::take(&mut inner.closed) {
        // A frame that the agent has not finished.
        inner.from_guest.clear();
        return Some(FromGuest::Closed);
    }
    None
}

fn wake(event: &OwnedFd) {
    // If the counter is full, it is woken anyway.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

#[cfg(test)]
mod tests;
