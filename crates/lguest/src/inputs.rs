//! The thread that waits for input: asleep whenever there is none.
//!
//! It watches what devices want watched, and carries what comes into the
//! Guest while that runs. Input for which the Guest has no buffer is the
//! awkward case, for nobody tells when there is one: then it tries again
//! after a while, longer every time, and at once when the Guest has done
//! something that the main thread hears of.

use crate::devices::Readiness;
use crate::devices::bus::Bus;
use crate::launch::Ending;
use crate::signals;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGINT;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The thread, for those who have news for it. It ends with the process.
pub struct Inputs {
    nudged: Arc<Nudge>,
}

impl Inputs {
    /// Starts watching the inputs of all devices on `bus`.
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no descriptor or thread left.
    pub fn start(bus: &Arc<Bus>, ending: &Ending) -> io::Result<Self> {
        let nudged = Arc::new(Nudge {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            wanted: AtomicBool::new(false),
        });
        let mut watcher = Watcher {
            bus: bus.clone(),
            ending: ending.clone(),
            nudged: nudged.clone(),
            inputs: bus
                .inputs()?
                .into_iter()
                .map(|(device, file)| Input {
                    device,
                    file,
                    state: State::Watched,
                })
                .collect(),
        };
        std::thread::Builder::new()
            .name("inputs".into())
            .stack_size(128 << 10)
            .spawn(move || watcher.watch())?;
        Ok(Self { nudged })
    }

    /// The Guest has done something: it may have a free buffer now.
    pub fn nudge(&self) {
        if self.nudged.wanted.swap(false, Ordering::SeqCst) {
            // Full means that the thread has been told often enough.
            let _ = rustix::io::write(&self.nudged.event, &1_u64.to_ne_bytes());
        }
    }
}

struct Nudge {
    event: OwnedFd,
    /// Some input waits for a buffer.
    wanted: AtomicBool,
}

/// The pause after the first time without a buffer, doubled every time ...
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

struct Watcher {
    bus: Arc<Bus>,
    ending: Ending,
    nudged: Arc<Nudge>,
    inputs: Vec<Input>,
}

struct Input {
    device: usize,
    file: OwnedFd,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Until it is readable.
    Watched,
    /// Until a buffer may be free.
    Waiting { until: Instant, pause: Duration },
    /// Nothing will come any more.
    Closed,
}

impl Watcher {
    fn watch(&mut self) {
        loop {
            let (nudged, ready) = match self.wait() {
                Ok(found) => found,
                Err(error) => return self.ending.by_deafness(&error),
            };
            let now = Instant::now();
            for (i, readable) in ready.into_iter().enumerate() {
                let due = match self.inputs[i].state {
                    State::Watched => readable,
                    State::Waiting { until, .. } => nudged || until <= now,
                    State::Closed => false,
                };
                if due && !self.serve(i) {
                    return;
                }
            }
        }
    }

    /// Sleeps until there is something to do. Answers whether somebody nudged
    /// us, and which files are readable.
    fn wait(&self) -> io::Result<(bool, Vec<bool>)> {
        let waiting = self.inputs.iter().filter_map(|i| match i.state {
            State::Waiting { until, .. } => Some(until),
            State::Watched | State::Closed => None,
        });
        let timeout = waiting.min().map(|until| {
            let pause = until.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: 0, // no pause is that long
                tv_nsec: pause.subsec_nanos().into(),
            }
        });
        self.nudged
            .wanted
            .store(timeout.is_some(), Ordering::SeqCst);
        let mut fds = vec![PollFd::new(&self.nudged.event, PollFlags::IN)];
        for input in &self.inputs {
            let flags = match input.state {
                State::Watched => PollFlags::IN,
                // Not even an end is news.
                State::Waiting { .. } | State::Closed => continue,
            };
            fds.push(PollFd::new(&input.file, flags));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let nudged = ready.next().unwrap_or(false);
        let readable = self
            .inputs
            .iter()
            .map(|input| match input.state {
                State::Watched => ready.next().unwrap_or(false),
                State::Waiting { .. } | State::Closed => false,
            })
            .collect();
        if nudged {
            let _ = rustix::io::read(&self.nudged.event, &mut [0; 8]);
        }
        Ok((nudged, readable))
    }

    /// Lets a device look at its input. Answers whether to go on.
    fn serve(&mut self, i: usize) -> bool {
        let input = &mut self.inputs[i];
        input.state = match self.bus.handle_input(input.device) {
            Ok(Readiness::Wait) => State::Watched,
            Ok(Readiness::NoBuffer) => {
                let pause = match input.state {
                    State::Waiting { pause, .. } => {
                        LONGEST_PAUSE.min(pause * 2)
                    }
                    State::Watched | State::Closed => FIRST_PAUSE,
                };
                let until = Instant::now() + pause;
                State::Waiting { until, pause }
            }
            Ok(Readiness::Closed) => State::Closed,
            Ok(Readiness::Quit) => {
                signals::end(SIGINT, "by ^C^C^C", &self.ending);
                return false;
            }
            Err(violation) => {
                self.ending.by_violation(&violation);
                return false;
            }
        };
        true
    }
}
