//! A network interface of the Guest, whatever it is connected to.
//!
//! It copies frames between the Guest's buffers and a [`Backend`], counts and
//! records them, and does what one end leaves to do and the other does not
//! take over. A frame for which the other end has no room is lost: an interface
//! never waits.

use super::ethernet;
use super::limit::Limit;
use super::offload::{HEADER, Offload, Takes};
use super::{Backend, Capture, FRAME_MOST, FrameBuffers, Waiting};
use crate::devices::{AT_ONCE, Counter, Filled, NamedCounts, Readiness};
use crate::devices::{RestoreError, Saved, Versioned, Violation};
use crate::memory::{SectionsIn, gather_behind};
use serde::{Deserialize, Serialize};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;

/// A network interface with a Guest on it.
pub struct Nic {
    backend: Box<dyn Backend>,
    /// The Ethernet address of the other end.
    far: [u8; 6],
    /// The Guest's own, if it was given one.
    mac: Option<[u8; 6]>,
    /// The most bytes of a packet, if that was said.
    mtu: Option<u16>,
    capture: Option<Capture>,
    limit: Option<Limit>,
    /// The frame that is sent: the Guest may change its own meanwhile.
    copy: Vec<u8>,
    waiting: Waiting,
    counters: NicCounters,
}

/// What an interface has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NicCounters {
    frames_sent: Counter,
    bytes_sent: Counter,
    /// Frames from the Guest that were lost.
    refused: Counter,
    frames_received: Counter,
    bytes_received: Counter,
    /// Frames that were dropped, because the Guest had no buffer bound.
    forgotten: Counter,
    /// Frames that were dropped, because their length does not fit.
    misfits: Counter,
}

/// The state of an interface. Frames that wait in the old backend are lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicState {
    counters: NicCounters,
}

impl Saved for NicState {
    const DEVICE: &'static str = "network interface";
    const VERSION: u32 = 2;
}

impl Nic {
    /// An interface at the end of `backend`. The other end has the Ethernet
    /// address `far`.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>, far: [u8; 6]) -> Self {
        Self {
            backend,
            far,
            mac: None,
            mtu: None,
            capture: None,
            limit: None,
            copy: Vec::new(),
            waiting: Waiting::default(),
            counters: NicCounters::default(),
        }
    }

    /// Gives the Guest this Ethernet address.
    #[must_use]
    pub fn with_mac(self, mac: [u8; 6]) -> Self {
        let mac = Some(mac);
        Self { mac, ..self }
    }

    /// Lets packets have up to `mtu` bytes, which the other end takes.
    #[must_use]
    pub fn with_mtu(self, mtu: u16) -> Self {
        let mtu = Some(mtu);
        Self { mtu, ..self }
    }

    /// The most bytes of a packet, if that was said.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Lets no more than `rate` bytes a second pass in each direction.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left.
    pub fn with_limit(self, rate: NonZeroU64) -> io::Result<Self> {
        let (input, room) = (self.backend.input(), self.backend.room());
        let limit = Some(Limit::new(rate, input, room)?);
        Ok(Self { limit, ..self })
    }

    /// Writes all frames to `capture`.
    pub fn set_capture(&mut self, capture: Capture) {
        self.capture = Some(capture);
    }

    /// Whether it is connected to anything.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.backend.is_connected()
    }

    /// The Ethernet address of the other end.
    #[must_use]
    pub fn far(&self) -> [u8; 6] {
        self.far
    }

    /// An Ethernet address for the Guest: the given one, or the neighbour of
    /// the other end's, which was chosen at random.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let mut neighbour = self.far;
        neighbour[5] ^= 1;
        self.mac.unwrap_or(neighbour)
    }

    /// The Guest sends `frame`, with nothing left to do. Returns the number of
    /// bytes that were taken: 0 if the frame is lost. [`Self::flush`] has to
    /// follow.
    pub fn send(&mut self, frame: SectionsIn<'_>) -> u32 {
        if !self.may_send() {
            self.counters.refused.add(1);
            return 0;
        }
        self.send_with([0; HEADER], frame)
    }

    /// Whether the limit lets a frame pass now. If not, its file becomes
    /// readable when it does.
    pub fn may_send(&mut self) -> bool {
        self.limit.as_mut().is_none_or(Limit::may_send)
    }

    /// Sends a frame with this header, whatever the limit says.
    pub fn send_with(
        &mut self,
        header: [u8; HEADER],
        frame: SectionsIn<'_>,
    ) -> u32 {
        let mut copy = std::mem::take(&mut self.copy);
        copy.clear();
        let sent = match copied(&mut copy, header, frame) {
            Some(left) => self.send_copy(&mut copy, left),
            None => false,
        };
        if let Some(limit) = &mut self.limit {
            limit.sent(copy.len());
        }
        self.copy = copy;
        if sent { frame.total() } else { 0 }
    }

    /// Sends `frame`, in as many parts as the other end needs. Returns whether
    /// one was taken.
    fn send_copy(&mut self, frame: &mut [u8], left: Offload) -> bool {
        let mut sent = false;
        left.fit(frame, self.backend.takes(), &mut |frame, left| {
            if self.backend.send(frame, left).is_err() {
                self.counters.refused.add(1);
                return;
            }
            sent = true;
            self.counters.frames_sent.add(1);
            self.counters.bytes_sent.add(frame.len() as u64);
            record(&mut self.capture, frame);
        });
        sent
    }

    /// Passes the frames on that were sent.
    pub fn flush(&mut self) {
        self.backend.flush();
    }

    /// The file to watch for frames.
    #[must_use]
    pub fn input(&self) -> BorrowedFd<'_> {
        match &self.limit {
            Some(limit) => limit.watch(),
            None => self.backend.input(),
        }
    }

    /// The Guest has ended.
    pub fn finish(&mut self) {
        self.backend.finish();
    }

    /// Ends the connection to the other end, and connects the interface to
    /// `backend`, without a limit and a record. May block for a moment.
    pub fn connect_to(&mut self, backend: Box<dyn Backend>) {
        self.backend.finish();
        self.backend = backend;
        self.limit = None;
        self.capture = None;
        self.waiting.clear();
    }

    /// The file of [`Self::input`] was readable. To be called before the rest.
    pub fn begin(&mut self) {
        if let Some(limit) = &mut self.limit {
            limit.begin(self.backend.input());
        }
    }

    /// There may be frames for the Guest. Returns when it would have to wait,
    /// and after [`AT_ONCE`] frames.
    ///
    /// # Errors
    ///
    /// A [`Violation`] kills the Guest.
    pub fn handle_input(
        &mut self,
        buffers: &mut dyn FrameBuffers,
    ) -> Result<Readiness, Violation> {
        self.backend.flush();
        if self.limit.is_none() {
            self.backend.read_ahead();
        }
        for filled in 0..AT_ONCE {
            if let Some(limit) = &mut self.limit
                && !limit.may_receive(self.backend.input())
            {
                return Ok(Readiness::Wait);
            }
            if self.waiting.is_empty()
                && let Err(error) = self.receive(buffers.takes())
            {
                return Ok(self.without_a_frame(&error));
            }
            match self.waiting.put_first(buffers)? {
                None | Some(Filled::Bytes(0) | Filled::Failed(_)) => {
                    self.counters.misfits.add(1);
                }
                Some(Filled::Bytes(bytes)) => {
                    if let Some(limit) = &mut self.limit {
                        limit.received(bytes as usize);
                    }
                    self.counters.frames_received.add(1);
                    self.counters.bytes_received.add(bytes.into());
                }
                Some(Filled::Ended) => return Ok(Readiness::Closed),
                Some(Filled::NoneFree) if buffers.are_any() => {
                    if let Some(limit) = &mut self.limit {
                        limit.starve(self.backend.input());
                    }
                    return Ok(Readiness::NoBuffer {
                        took: filled > 0,
                        // The timer runs out for frames of the Guest.
                        watch: self.limit.is_some()
                            || self.backend.reads_more(),
                    });
                }
                // The Guest's interface is down and waits for no frames.
                Some(Filled::NoneFree) => self.counters.forgotten.add(1),
            }
            self.waiting.drop_first();
        }
        // A backend may have frames that its file does not show.
        Ok(Readiness::More)
    }

    /// What an error in receiving means.
    fn without_a_frame(&mut self, error: &io::Error) -> Readiness {
        match (error.kind(), &mut self.limit) {
            (io::ErrorKind::WouldBlock, _) => Readiness::Wait,
            (io::ErrorKind::ResourceBusy, _) => Readiness::Taken,
            (_, None) => Readiness::Closed,
            // Frames of the Guest may wait in its queue, where the limit keeps
            // them. They are lost, but the Guest has to get its buffers back.
            (_, Some(limit)) => {
                limit.end(self.backend.input());
                Readiness::Wait
            }
        }
    }

    /// Drops the frames that wait: the Guest has begun anew, and may take over
    /// other things.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Takes the next frame from the other end. What waits afterwards is that
    /// frame, in as many parts as a Guest of `takes` needs, or nothing if the
    /// frame was dropped.
    fn receive(&mut self, takes: Takes) -> io::Result<()> {
        let mut frame = Vec::new();
        let left = self.backend.receive(&mut frame)?;
        if frame.is_empty() {
            return Ok(());
        }
        record(&mut self.capture, &frame);
        self.waiting.add(frame, left, takes);
        Ok(())
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> Versioned<NicState> {
        NicState {
            counters: self.counters.clone(),
        }
        .versioned()
    }

    /// Goes on with `state`.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; then nothing has changed.
    pub fn restore(
        &mut self,
        state: &Versioned<NicState>,
    ) -> Result<(), RestoreError> {
        self.counters = state.known()?.counters.clone();
        Ok(())
    }

    /// What the interface has done so far, for the statistics.
    #[must_use]
    pub fn counters(&self) -> NamedCounts {
        let c = &self.counters;
        vec![
            ("frames_sent", c.frames_sent.get()),
            ("bytes_sent", c.bytes_sent.get()),
            ("refused", c.refused.get()),
            ("frames_received", c.frames_received.get()),
            ("bytes_received", c.bytes_received.get()),
            ("forgotten", c.forgotten.get()),
            ("misfits", c.misfits.get()),
        ]
    }
}

/// Copies `frame` to `copy`. Returns what is left to do with it, by `header`;
/// `None` if it is no frame, or the header does not fit.
fn copied(
    copy: &mut Vec<u8>,
    header: [u8; HEADER],
    frame: SectionsIn<'_>,
) -> Option<Offload> {
    let bytes = frame.total() as usize;
    if !(ethernet::HEADER..=FRAME_MOST).contains(&bytes) {
        return None;
    }
    gather_behind(copy, frame.region, frame.list).ok()?;
    Offload::read(header, copy).ok()
}

/// Writes a frame to `capture`, if there is one.
fn record(capture: &mut Option<Capture>, frame: &[u8]) {
    if let Some(capture) = capture {
        capture.record(frame);
    }
}
