//! `--net-limit`: how many bytes an interface carries in a second.
//!
//! Each direction has a limit of its own. Frames for the Guest wait at the
//! other end, which is not watched meanwhile. Frames of the Guest wait in its
//! own queue, where its kernel sees that there is no room. A Guest of 2007 has
//! no queue; its frames are lost, as on a line that is too narrow. A timer
//! wakes the thread that serves the interface.

use crate::devices::bucket::Bucket;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
    timerfd_create, timerfd_settime,
};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The time in which as much comes in as a burst may have.
const BURST: Duration = Duration::from_millis(50);

/// The limit of an interface.
pub(super) struct Limit {
    from_guest: Bucket,
    to_guest: Bucket,
    timer: OwnedFd,
    /// When the timer runs out, if it runs.
    wakes: Option<Instant>,
    /// Watches the timer, the other end's room, and the other end.
    both: OwnedFd,
    /// The other end is watched.
    watched: bool,
    /// Nothing comes from the other end any more.
    ended: bool,
}

fn data() -> EventData {
    EventData::new_u64(0)
}

impl Limit {
    /// A limit of `rate` bytes a second in each direction. `input` is the file
    /// to watch for frames, and `room` the one for room at the other end, which
    /// is watched always.
    pub(super) fn new(
        rate: NonZeroU64,
        input: BorrowedFd<'_>,
        room: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let both = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&both, &timer, data(), EventFlags::IN)?;
        epoll::add(&both, input, data(), EventFlags::IN)?;
        if let Some(room) = room {
            epoll::add(&both, room, data(), EventFlags::IN)?;
        }
        let bucket = Bucket::new(rate, BURST, Instant::now());
        Ok(Self {
            from_guest: bucket,
            to_guest: bucket,
            timer,
            wakes: None,
            both,
            watched: true,
            ended: false,
        })
    }

    /// The file to watch.
    pub(super) fn watch(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }

    /// The thread that serves the interface has been woken.
    pub(super) fn begin(&mut self, input: BorrowedFd<'_>) {
        // It may not have run out.
        if rustix::io::read(&self.timer, &mut [0; 8]).is_ok() {
            self.wakes = None;
        }
        self.set_watched(input, !self.ended);
    }

    /// Nothing comes from the other end any more. The timer still wakes the
    /// thread for frames of the Guest.
    pub(super) fn end(&mut self, input: BorrowedFd<'_>) {
        self.ended = true;
        self.set_watched(input, false);
    }

    /// Whether the Guest may send a frame now. If not, the timer is set.
    pub(super) fn may_send(&mut self) -> bool {
        let opens = self.from_guest.opens(Instant::now());
        opens.map(|at| self.wake_at(at)).is_none()
    }

    /// The Guest has sent so many bytes.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.from_guest.take(bytes as u64, Instant::now());
    }

    /// Whether a frame may come in now. If not, the timer is set, and the other
    /// end is not watched.
    pub(super) fn may_receive(&mut self, input: BorrowedFd<'_>) -> bool {
        let Some(at) = self.to_guest.opens(Instant::now()) else {
            return true;
        };
        self.wake_at(at);
        self.set_watched(input, false);
        false
    }

    /// So many bytes have come in.
    pub(super) fn received(&mut self, bytes: usize) {
        self.to_guest.take(bytes as u64, Instant::now());
    }

    /// The other end is not watched until [`Self::begin`].
    pub(super) fn starve(&mut self, input: BorrowedFd<'_>) {
        self.set_watched(input, false);
    }

    fn set_watched(&mut self, input: BorrowedFd<'_>, wanted: bool) {
        if self.watched == wanted {
            return;
        }
        // An epoll reports the end of a file whatever it was asked for, so it
        // is taken out. The memory for it was there before.
        let done = if wanted {
            epoll::add(&self.both, input, data(), EventFlags::IN)
        } else {
            epoll::delete(&self.both, input)
        };
        if done.is_ok() {
            self.watched = wanted;
        }
    }

    fn wake_at(&mut self, at: Instant) {
        if self.wakes.is_some_and(|wakes| wakes <= at) {
            return;
        }
        let left = at.saturating_duration_since(Instant::now());
        // Zero would stop the timer.
        let left = left.max(Duration::from_micros(1));
        let value = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        let flags = TimerfdTimerFlags::empty();
        if timerfd_settime(&self.timer, flags, &time).is_ok() {
            self.wakes = Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::pipe::pipe;

    /// Waits until the limit has something to do, for `time` at most.
    fn is_woken(limit: &Limit, time: Duration) -> bool {
        let time = Timespec {
            tv_sec: time.as_secs().cast_signed(),
            tv_nsec: time.subsec_nanos().into(),
        };
        let mut fds = [PollFd::from_borrowed_fd(limit.watch(), PollFlags::IN)];
        poll(&mut fds, Some(&time)).unwrap() > 0
    }

    #[test]
    fn a_closed_direction_is_opened_by_the_timer() {
        let (input, other) = pipe().unwrap();
        let rate = NonZeroU64::new(100_000).unwrap();
        let mut limit = Limit::new(rate, input.as_fd(), None).unwrap();
        let start = Instant::now();
        assert!(limit.may_send());
        limit.sent(20_000);
        assert!(!limit.may_send());
        assert!(limit.may_receive(input.as_fd()), "that is another limit");
        assert!(is_woken(&limit, Duration::from_secs(60)));
        assert!(start.elapsed() >= Duration::from_millis(140));
        limit.begin(input.as_fd());
        assert!(limit.may_send());
        assert!(!is_woken(&limit, Duration::ZERO));

        rustix::io::write(&other, b"x").unwrap();
        assert!(is_woken(&limit, Duration::ZERO));
        limit.received(20_000);
        assert!(!limit.may_receive(input.as_fd()));
        assert!(!is_woken(&limit, Duration::ZERO), "the pipe is not watched");
        assert!(is_woken(&limit, Duration::from_secs(60)));
        limit.begin(input.as_fd());
        assert!(limit.may_receive(input.as_fd()));
        assert!(is_woken(&limit, Duration::ZERO));
    }
}
