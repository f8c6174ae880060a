//! What the thread of the debugger is told by the others.
//!
//! The thread that runs the Guest says that the Guest has stopped, and at last
//! that it has ended. An event wakes the thread, which also waits for bytes.

use crate::engine::Hold;
use crate::engine::debug::Stopped;
use crate::lock::lock;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the end of the Launcher waits until GDB was told. GDB may not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the top of the file.
pub(super) struct Inbox {
    event: OwnedFd,
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Default)]
struct Told {
    /// There is a session. Without one, the Guest does not stop.
    attached: bool,
    /// The Guest has stopped, and is held.
    stopped: Option<(Stopped, Hold)>,
    /// It has ended, with this exit code.
    ended: Option<u8>,
}

/// What has happened.
pub(super) enum News {
    /// The Guest has stopped, and is held.
    Stopped(Stopped, Hold),
    /// It has ended, with this exit code.
    Ended(u8),
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            event: eventfd(0, flags)?,
            told: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The event that says that there is news.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// A session begins or ends. One that ends forgets what it was not told.
    pub(super) fn set_attached(&self, attached: bool) {
        let mut told = lock(&self.told);
        told.attached = attached;
        told.stopped = None;
        self.changed.notify_all();
    }

    pub(super) fn is_attached(&self) -> bool {
        lock(&self.told).attached
    }

    /// The Guest has stopped.
    pub(super) fn stopped(&self, stopped: Stopped, hold: Hold) {
        let mut told = lock(&self.told);
        if told.attached {
            told.stopped = Some((stopped, hold));
            self.wake();
        }
    }

    /// The Guest has ended. Waits until the session was told, but not for long.
    pub(super) fn ended(&self, code: u8) {
        let mut told = lock(&self.told);
        told.ended = Some(code);
        self.wake();
        let waited = self
            .changed
            .wait_timeout_while(told, PATIENCE, |told| told.attached);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes the news. The end stays news.
    pub(super) fn news(&self) -> Option<News> {
        let mut told = lock(&self.told);
        if let Some(code) = told.ended {
            return Some(News::Ended(code));
        }
        // Nothing is lost: whoever adds something wakes the thread again.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        let (stopped, hold) = told.stopped.take()?;
        Some(News::Stopped(stopped, hold))
    }

    fn wake(&self) {
        // If the counter is full, the thread is woken anyway.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}
