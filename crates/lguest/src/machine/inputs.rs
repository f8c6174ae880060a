//! The thread that waits for input. It sleeps while there is none.
//!
//! It watches the descriptors of devices, and puts their input into the Guest
//! while that runs. Input for which the Guest has no buffer is the difficult
//! case. A driver frees a buffer by writing a word in its own memory, which is
//! no event. But a Guest that goes idle has freed all buffers that it will
//! free, and its Host reports that. So:
//!
//! - after a buffer was found, the thread waits for the Host's report, and
//!   looks after [`FIRST_PAUSE`] at the latest, because a Guest that is not
//!   idle frees buffers, too;
//! - after each look without success it waits longer, up to [`LONGEST_PAUSE`];
//! - while the Guest is idle it only waits for the Host, without a time limit.
//!
//! A driver of virtio notifies its device of free buffers. Then the thread
//! waits for that, and for nothing else.

use crate::cli::exit::Outcome;
use crate::devices::Readiness;
use crate::engine::Engine;
use crate::machine::ending::Ending;
use crate::machine::quiet::Quiet;
use crate::machine::signals;
use crate::thread;
use crate::transport::{TakeInput, Transport};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A handle to the thread, which ends with the process.
#[derive(Clone)]
pub struct Inputs {
    nudged: Arc<Nudge>,
}

impl Inputs {
    /// Starts watching the inputs of all devices on `bus`. `goes_on`: they come
    /// from a snapshot.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor or thread left.
    pub fn start(
        bus: &Arc<dyn Transport>,
        guest: &Arc<dyn Engine>,
        quiet: &Arc<Quiet>,
        ending: &Ending,
        goes_on: bool,
    ) -> io::Result<Self> {
        bus.let_take(&|device| take_of(device, bus, quiet, ending));
        let mut watcher = Watcher::new(bus, guest, quiet, ending, goes_on)?;
        let nudged = watcher.nudged.clone();
        thread::start("inputs", 128 << 10, move || watcher.watch())?;
        Ok(Self { nudged })
    }

    /// Wakes the thread: the Guest has done something and may have a free
    /// buffer now.
    pub fn nudge(&self) {
        self.nudged.nudge();
    }

    /// The Guest has notified the device at index `device` of buffers.
    pub fn offered(&self, device: usize) {
        self.nudged.offered(bit(device));
    }

    /// The device at index `device` has no input any more: its file is closed
    /// soon.
    pub fn gone(&self, device: usize) {
        self.nudged.gone.fetch_or(bit(device), Ordering::SeqCst);
        self.nudged.wake();
    }

    /// For the statistics.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 2] {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("input_looks", get(&self.nudged.looks)),
            ("input_pauses", get(&self.nudged.pauses)),
        ]
    }
}

/// What takes the input of a device in a thread of its own.
fn take_of(
    device: usize,
    bus: &Arc<dyn Transport>,
    quiet: &Arc<Quiet>,
    ending: &Ending,
) -> TakeInput {
    // The bus has the device, which has this.
    let bus = Arc::downgrade(bus);
    let (quiet, ending) = (Arc::clone(quiet), ending.clone());
    Arc::new(move || {
        let Some(bus) = bus.upgrade() else {
            return true;
        };
        let look = || quiet.give(|| bus.handle_input(device));
        match while_more(look) {
            Ok(found) => found == Readiness::Wait,
            Err(violation) => {
                ending.by_violation(&violation);
                true
            }
        }
    })
}

/// How often a thread of its own looks at a device that has more input. Then
/// the thread that waits for input goes on, which also looks at the other
/// devices: a flood of frames to one would keep the other thread for good.
const LOOKS: usize = 16;

/// Looks while there is more input. Returns what was found last.
fn while_more<E>(
    mut look: impl FnMut() -> Result<Readiness, E>,
) -> Result<Readiness, E> {
    for _ in 1..LOOKS {
        match look()? {
            Readiness::More => {}
            found => return Ok(found),
        }
    }
    look()
}

struct Nudge {
    event: OwnedFd,
    /// Whether some input waits for a buffer.
    wanted: AtomicBool,
    /// The devices that wait for a notification, as a set of [`bit`]s.
    starved: AtomicU64,
    /// Those that have got one.
    offered: AtomicU64,
    /// Those that are taken away.
    gone: AtomicU64,
    /// How often a device was asked for its input.
    looks: AtomicU64,
    /// How often a pause ended before a report of the Host.
    pauses: AtomicU64,
}

impl Nudge {
    fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            wanted: AtomicBool::new(false),
            starved: AtomicU64::new(0),
            offered: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
        })
    }

    fn nudge(&self) {
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn offered(&self, device: u64) {
        if self.starved.load(Ordering::SeqCst) & device == 0 {
            return;
        }
        self.starved.fetch_and(!device, Ordering::SeqCst);
        self.offered.fetch_or(device, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        // If the counter is full, the thread is woken anyway.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

/// A device in a set of devices. No bus has more than 64 of them.
fn bit(device: usize) -> u64 {
    u32::try_from(device)
        .ok()
        .and_then(|device| 1_u64.checked_shl(device))
        .unwrap_or(0)
}

/// How long the thread waits for a buffer after one was found. Each look
/// without success doubles it ...
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// ... up to this limit.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// ^C^C^C counts as this signal.
const INTERRUPT: u8 = 2;

struct Watcher {
    bus: Arc<dyn Transport>,
    guest: Arc<dyn Engine>,
    quiet: Arc<Quiet>,
    ending: Ending,
    nudged: Arc<Nudge>,
    inputs: Vec<Input>,
}

struct Input {
    device: usize,
    file: OwnedFd,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The descriptor is watched until it is readable.
    Watched,
    /// It has more input, and waits until the other devices had their turn.
    More,
    /// It waits until a buffer may be free.
    Waiting(Waiting),
    /// It waits for a notification of its device, or until it is readable if
    /// `watch` says so.
    Starved { watch: bool },
    /// It has ended.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    /// When to look even without a report.
    until: Option<Instant>,
    /// The length of the pause until then.
    pause: Duration,
    /// Whether to look also when it is readable.
    watch: bool,
    /// Whether a report is ignored before the pause ends.
    deaf: bool,
}

/// Why a device is asked for its input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Readable,
    /// A buffer may have been freed.
    Told,
    /// The pause is over.
    Time,
}

/// How long an input waits that has not found buffers for all of its data.
///
/// `took`: it found some. `sleeps`: the Guest was idle before the last look,
/// and the Host reports when it runs again. `before` is the pause before this.
fn pause_after(
    took: bool,
    sleeps: bool,
    before: Duration,
) -> (Option<Duration>, Duration) {
    if took {
        return (Some(FIRST_PAUSE), FIRST_PAUSE);
    }
    let pause = LONGEST_PAUSE.min(before * 2);
    ((!sleeps).then_some(pause), pause)
}

impl Watcher {
    fn new(
        bus: &Arc<dyn Transport>,
        guest: &Arc<dyn Engine>,
        quiet: &Arc<Quiet>,
        ending: &Ending,
        goes_on: bool,
    ) -> io::Result<Self> {
        // A device of a snapshot may have input that nothing reports.
        let state = match goes_on {
            true => State::More,
            false => State::Watched,
        };
        let input = |(device, file)| Input {
            device,
            file,
            state,
        };
        Ok(Self {
            bus: bus.clone(),
            guest: guest.clone(),
            quiet: quiet.clone(),
            ending: ending.clone(),
            nudged: Arc::new(Nudge::new()?),
            inputs: bus.inputs()?.into_iter().map(input).collect(),
        })
    }

    fn watch(&mut self) {
        loop {
            let gone = self.nudged.gone.swap(0, Ordering::SeqCst);
            self.inputs.retain(|input| bit(input.device) & gone == 0);
            let (nudged, ready) = match self.wait() {
                Ok(found) => found,
                Err(error) => return self.ending.by_lost_input(&error),
            };
            let now = Instant::now();
            let offered = self.nudged.offered.swap(0, Ordering::SeqCst);
            for (i, readable) in ready.into_iter().enumerate() {
                let input = &self.inputs[i];
                let told = match input.state {
                    State::Starved { .. } => offered & bit(input.device) != 0,
                    _ => nudged,
                };
                let cause = input.state.cause(now, readable, told);
                let Some(cause) = cause else { continue };
                let quiet = Arc::clone(&self.quiet);
                if !quiet.give(|| self.serve(i, cause)) {
                    return;
                }
            }
        }
    }

    /// Sleeps until there is something to do. Returns whether the thread was
    /// nudged, and which descriptors are readable.
    fn wait(&self) -> io::Result<(bool, Vec<bool>)> {
        let states = || self.inputs.iter().map(|input| input.state);
        let until = states().filter_map(State::until).min();
        let timeout = until.map(|until| {
            let pause = until.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: 0, // no pause is that long
                tv_nsec: pause.subsec_nanos().into(),
            }
        });
        let wanted = states().any(|s| matches!(s, State::Waiting(_)));
        self.nudged.wanted.store(wanted, Ordering::SeqCst);
        let mut fds = vec![PollFd::new(&self.nudged.event, PollFlags::IN)];
        let watched = self.inputs.iter().filter(|i| i.state.is_watched());
        // The others are not watched, not even for their end.
        fds.extend(watched.map(|i| PollFd::new(&i.file, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let nudged = ready.next().unwrap_or(false);
        let mut readable =
            |state: State| state.is_watched() && ready.next().unwrap_or(false);
        let readable = states().map(&mut readable).collect();
        if nudged {
            let _ = rustix::io::read(&self.nudged.event, &mut [0; 8]);
        }
        Ok((nudged, readable))
    }

    /// Lets a device read its input. Returns whether the thread goes on.
    fn serve(&mut self, i: usize, cause: Cause) -> bool {
        let (device, before) = (self.inputs[i].device, self.inputs[i].state);
        if cause == Cause::Time {
            self.nudged.pauses.fetch_add(1, Ordering::Relaxed);
        }
        let look = || {
            self.nudged.looks.fetch_add(1, Ordering::Relaxed);
            self.bus.handle_input(device)
        };
        let mut found = look();
        let mut sleeps = false;
        if let Ok(Readiness::NoBuffer { took, .. }) = found
            && (took || cause != Cause::Told)
        {
            // A report may come before the thread waits for it.
            self.nudged.wanted.store(true, Ordering::SeqCst);
            // The Guest may free a buffer and go idle before the Host knows
            // that it must report this. So the thread looks once more.
            sleeps = self.guest.wait_for_buffers(!took);
            found = look().map(|readiness| readiness.after(took));
        }
        if let Ok(Readiness::Starved { .. }) = found {
            // A notification before this is not noted.
            self.nudged.starved.fetch_or(bit(device), Ordering::SeqCst);
            found = look();
        }
        let state = match found {
            Ok(Readiness::Quit) => {
                let outcome = Outcome::Signal(INTERRUPT);
                signals::end(outcome, "by ^C^C^C", &self.ending);
                return false;
            }
            Ok(readiness) => before.after(readiness, cause, sleeps),
            Err(violation) => {
                self.ending.by_violation(&violation);
                return false;
            }
        };
        self.inputs[i].state = state;
        true
    }
}

impl State {
    /// The reason to look now, if there is one.
    fn cause(self, now: Instant, readable: bool, told: bool) -> Option<Cause> {
        let waiting = match self {
            Self::Watched => return readable.then_some(Cause::Readable),
            Self::More => return Some(Cause::Readable),
            Self::Closed => return None,
            Self::Starved { .. } if readable => return Some(Cause::Readable),
            Self::Starved { .. } => return told.then_some(Cause::Told),
            Self::Waiting(waiting) => waiting,
        };
        if readable {
            Some(Cause::Readable)
        } else if told && !waiting.deaf {
            Some(Cause::Told)
        } else {
            let over = waiting.until.is_some_and(|until| until <= now);
            over.then_some(Cause::Time)
        }
    }

    /// The time of the next look without any event.
    fn until(self) -> Option<Instant> {
        match self {
            Self::Waiting(waiting) => waiting.until,
            Self::More => Some(Instant::now()),
            Self::Watched | Self::Starved { .. } | Self::Closed => None,
        }
    }

    /// Whether the descriptor is watched.
    fn is_watched(self) -> bool {
        match self {
            Self::Watched => true,
            Self::Waiting(Waiting { watch, .. }) | Self::Starved { watch } => {
                watch
            }
            Self::More | Self::Closed => false,
        }
    }

    /// The state after a look.
    fn after(self, found: Readiness, cause: Cause, sleeps: bool) -> Self {
        // More input has come, which says nothing about buffers.
        if let Readiness::NoBuffer { took: false, watch } = found
            && let Self::Waiting(waiting) = self
            && cause == Cause::Readable
        {
            return Self::Waiting(waiting.still(watch, sleeps));
        }
        let before = match self {
            Self::Waiting(waiting) => waiting.pause,
            _ => FIRST_PAUSE / 2,
        };
        let wait = |pause: Option<Duration>, next, watch, deaf| {
            let until = pause.map(|pause| Instant::now() + pause);
            Self::Waiting(Waiting {
                until,
                pause: next,
                watch,
                deaf,
            })
        };
        match found {
            Readiness::Wait => Self::Watched,
            Readiness::More => Self::More,
            Readiness::NoBuffer { took, watch } => {
                let (pause, next) = pause_after(took, sleeps, before);
                // The report brought no buffer. The next report counts after
                // the pause, even if the Guest goes idle often.
                let deaf = !took && cause == Cause::Told;
                wait(pause, next, watch, deaf)
            }
            Readiness::Starved { watch } => Self::Starved { watch },
            Readiness::Taken => {
                wait(Some(LONGEST_PAUSE), LONGEST_PAUSE, false, true)
            }
            Readiness::Closed | Readiness::Quit => Self::Closed,
        }
    }
}

impl Waiting {
    /// The same after a look without a cause to hope for a buffer.
    fn still(self, watch: bool, sleeps: bool) -> Self {
        let until = self.until.unwrap_or_else(|| Instant::now() + self.pause);
        Self {
            until: (!sleeps).then_some(until),
            pause: self.pause,
            watch,
            // The next report is about another sleep.
            deaf: self.deaf && !sleeps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::run::tests::machine;

    /// The Guest sleeps, so the thread sets no time limit: if this report were
    /// lost, the input would wait for ever.
    #[test]
    fn a_report_before_the_wait_is_not_lost() {
        let (guest, bus, keyboard, _shown) = machine();
        guest.set_asleep(true);
        rustix::io::write(&keyboard, b"x").unwrap();
        let engine: Arc<dyn Engine> = guest;
        let ending = Ending::new(engine.clone());
        let quiet = Arc::default();
        let watcher = Watcher::new(&bus, &engine, &quiet, &ending, false);
        let mut watcher = watcher.unwrap();
        assert!(watcher.serve(0, Cause::Readable));
        assert_eq!(watcher.inputs[0].state.until(), None);
        watcher.nudged.nudge();
        let mut woken = [0; 8];
        assert!(rustix::io::read(&watcher.nudged.event, &mut woken).is_ok());
    }

    const NOTHING: Readiness = Readiness::NoBuffer {
        took: false,
        watch: false,
    };
    const SOME: Readiness = Readiness::NoBuffer {
        took: true,
        watch: false,
    };

    fn waiting(state: State) -> Waiting {
        let State::Waiting(waiting) = state else {
            panic!("{state:?}");
        };
        waiting
    }

    #[test]
    fn a_delivery_ends_the_doubling() {
        let mut state = State::Watched;
        let mut pauses = Vec::new();
        for found in [NOTHING, NOTHING, NOTHING, SOME, SOME, NOTHING] {
            state = state.after(found, Cause::Time, false);
            pauses.push(waiting(state).pause.as_millis());
        }
        assert_eq!(pauses, [1, 2, 4, 1, 1, 2]);
        for _ in 0..10 {
            state = state.after(NOTHING, Cause::Time, false);
        }
        assert_eq!(waiting(state).pause, LONGEST_PAUSE);
    }

    #[test]
    fn a_buffer_is_looked_for_at_once_after_a_delivery() {
        let before = Instant::now();
        let state = State::Watched.after(SOME, Cause::Readable, false);
        let told = state.cause(before, false, true);
        assert!(told == Some(Cause::Told), "it does not wait for the pause");
        // After a report without success, it waits for the end of the pause.
        let state = state.after(NOTHING, Cause::Told, false);
        assert!(state.cause(before, false, true).is_none());
        let later = Instant::now() + LONGEST_PAUSE;
        assert!(state.cause(later, false, true) == Some(Cause::Time));
    }

    #[test]
    fn a_guest_that_sleeps_is_not_polled() {
        let state = State::Watched.after(NOTHING, Cause::Readable, true);
        assert_eq!(state.until(), None);
        let never = Instant::now() + Duration::from_secs(1 << 20);
        assert!(state.cause(never, false, false).is_none());
        assert!(state.cause(never, false, true) == Some(Cause::Told));
    }

    #[test]
    fn keys_are_read_while_input_waits() {
        let keys = Readiness::NoBuffer {
            took: false,
            watch: true,
        };
        let state = State::Watched.after(keys, Cause::Readable, true);
        assert!(state.is_watched());
        let cause = state.cause(Instant::now(), true, false);
        assert!(cause == Some(Cause::Readable));
    }

    #[test]
    fn more_input_makes_no_pause_longer() {
        let full = Readiness::NoBuffer {
            took: false,
            watch: true,
        };
        let first = State::Watched.after(full, Cause::Time, false);
        let mut state = first;
        for _ in 0..10 {
            state = state.after(full, Cause::Readable, false);
        }
        assert_eq!(state, first);
        // A report that was ignored is not the one that ends the sleep.
        let deaf = first.after(full, Cause::Told, false);
        let asleep = deaf.after(full, Cause::Readable, true);
        assert_eq!(asleep.until(), None);
        let now = Instant::now();
        assert!(asleep.cause(now, false, true) == Some(Cause::Told));
        let awake = asleep.after(full, Cause::Readable, false);
        assert!(awake.until().is_some(), "the Host reports nothing then");
    }

    #[test]
    fn a_device_that_is_notified_waits_for_that_alone() {
        let starved = Readiness::Starved { watch: false };
        let state = State::Watched.after(starved, Cause::Readable, false);
        assert_eq!(state.until(), None);
        assert!(!state.is_watched());
        let never = Instant::now() + Duration::from_secs(1 << 20);
        assert!(state.cause(never, false, false).is_none());
        assert!(state.cause(never, false, true) == Some(Cause::Told));
        // A notification without a usable buffer changes nothing.
        let again = state.after(starved, Cause::Told, false);
        assert_eq!(again, state);
    }

    #[test]
    fn a_device_with_more_input_lets_the_others_go_first() {
        let state = State::Watched.after(Readiness::More, Cause::Told, false);
        assert!(state.until().is_some_and(|at| at <= Instant::now()));
        assert!(!state.is_watched());
    }

    #[test]
    fn a_flood_keeps_a_thread_for_some_looks_only() {
        let more = Readiness::More;
        let looks_at = |found: &[Readiness]| {
            let mut looks = 0;
            let last = while_more(|| {
                looks += 1;
                Ok::<_, ()>(found.get(looks - 1).copied().unwrap_or(more))
            });
            (looks, last)
        };
        assert_eq!(looks_at(&[]), (LOOKS, Ok(more)));
        for end in [Readiness::Wait, Readiness::Closed, NOTHING] {
            assert_eq!(looks_at(&[end]), (1, Ok(end)));
            assert_eq!(looks_at(&[more, more, end]), (3, Ok(end)));
        }
        let mut looks = 0;
        let failed = while_more(|| {
            looks += 1;
            Err("it breaks a rule")
        });
        assert_eq!((looks, failed), (1, Err("it breaks a rule")));
    }
}
