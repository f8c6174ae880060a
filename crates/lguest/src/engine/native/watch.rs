//! Waiting for the end of any process of the Guest.
//!
//! One thread sleeps here as long as the Guest lives ([`super::core`]). Each
//! process is watched by its descriptor and has a mark that says which it is.

use super::child::{WATCH, lack};
use crate::needs::Lack;
use lg_wire::state::MAX_VIEWS;
use rustix::event::{EventfdFlags, epoll, eventfd};
use std::io;
use std::os::fd::OwnedFd;

/// Which process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The view spawner.
    Spawner,
    /// The view in this slot.
    View(u32),
    /// The user process, or its mapper, beside the view in this slot.
    UserProcess(u32),
    /// No process: watching has ended.
    Stop,
}

/// The number of [`Mark::UserProcess`] for slot 0: after those of all views.
const OF_USER_PROCESSES: u64 = MAX_VIEWS as u64;

impl Mark {
    fn number(self) -> u64 {
        match self {
            Self::View(slot) => slot.into(),
            Self::UserProcess(slot) => OF_USER_PROCESSES + u64::from(slot),
            Self::Spawner => 2 * OF_USER_PROCESSES,
            Self::Stop => 2 * OF_USER_PROCESSES + 1,
        }
    }

    fn of_number(number: u64) -> Self {
        let slot = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        match number {
            n if n == Self::Stop.number() => Self::Stop,
            n if n == Self::Spawner.number() => Self::Spawner,
            n if n < OF_USER_PROCESSES => Self::View(slot(n)),
            n => Self::UserProcess(slot(n - OF_USER_PROCESSES)),
        }
    }
}

/// What is watched.
pub(super) struct Watch {
    events: OwnedFd,
    stop: OwnedFd,
}

impl Watch {
    /// Nothing is watched yet.
    pub(super) fn new() -> Result<Self, Lack> {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC);
        let watch = Self {
            events: events.map_err(lack(WATCH))?,
            stop: eventfd(0, EventfdFlags::CLOEXEC).map_err(lack(WATCH))?,
        };
        watch.add(&watch.stop, Mark::Stop)?;
        Ok(watch)
    }

    /// Watches this process from now on.
    pub(super) fn add(
        &self,
        process: &OwnedFd,
        mark: Mark,
    ) -> Result<(), Lack> {
        let data = epoll::EventData::new_u64(mark.number());
        epoll::add(&self.events, process, data, epoll::EventFlags::IN)
            .map_err(lack(WATCH))
    }

    /// Does not watch this process any more.
    pub(super) fn remove(&self, process: &OwnedFd) {
        // It is watched, so this cannot fail.
        let _ = epoll::delete(&self.events, process);
    }

    /// Blocks until a process has ended, or [`Self::stop`] was called.
    pub(super) fn wait(&self) -> io::Result<Mark> {
        let mut events = [const {
            epoll::Event {
                flags: epoll::EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }
        }; 1];
        loop {
            match epoll::wait(&self.events, &mut events, None) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(Mark::of_number(events[0].data.u64())),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes [`Self::wait`] return.
    pub(super) fn stop(&self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_processes_have_the_same_mark() {
        let slots = 0..u32::try_from(MAX_VIEWS).unwrap();
        let marks = slots
            .flat_map(|slot| [Mark::View(slot), Mark::UserProcess(slot)])
            .chain([Mark::Spawner, Mark::Stop]);
        for mark in marks {
            assert_eq!(Mark::of_number(mark.number()), mark);
        }
    }
}
