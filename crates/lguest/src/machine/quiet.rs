//! Keeps input from the devices while their states are taken.
//!
//! A Guest that stands changes nothing. But what comes in from outside is put
//! into its memory while it stands, too. So threads that bring input stop
//! between two inputs.

use crate::lock::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Whether input may come in.
#[derive(Default)]
pub struct Quiet {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Default)]
struct Now {
    /// How many have asked for quiet.
    asked: u32,
    /// How many devices are given input.
    busy: u32,
}

impl Quiet {
    /// Waits until no device is given input, and keeps it so.
    pub fn begin(self: &Arc<Self>) -> Silence {
        let mut now = lock(&self.now);
        now.asked += 1;
        while now.busy > 0 {
            let woken = self.changed.wait(now);
            now = woken.unwrap_or_else(PoisonError::into_inner);
        }
        drop(now);
        Silence(Arc::clone(self))
    }

    /// Waits until input may come in, and then does `give`, which gives it to a
    /// device.
    pub fn give<T>(&self, give: impl FnOnce() -> T) -> T {
        let mut now = lock(&self.now);
        while now.asked > 0 {
            let woken = self.changed.wait(now);
            now = woken.unwrap_or_else(PoisonError::into_inner);
        }
        now.busy += 1;
        drop(now);
        let given = give();
        let mut now = lock(&self.now);
        now.busy -= 1;
        let is_asked = now.asked > 0;
        drop(now);
        if is_asked {
            self.changed.notify_all();
        }
        given
    }
}

/// No input comes in until this is dropped.
#[must_use = "input comes in when this is dropped"]
pub struct Silence(Arc<Quiet>);

impl Drop for Silence {
    fn drop(&mut self) {
        lock(&self.0.now).asked -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;

    #[test]
    fn quiet_begins_between_two_inputs_and_keeps_the_next_out() {
        let quiet = Arc::<Quiet>::default();
        let given = AtomicBool::new(false);
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel();
        std::thread::scope(|scope| {
            let (first, noted) = (&quiet, &given);
            scope.spawn(move || {
                first.give(|| {
                    begun.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    noted.store(true, Ordering::SeqCst);
                });
            });
            has_begun.recv().unwrap();
            go_on.send(()).unwrap();
            let silence = quiet.begin();
            assert!(given.load(Ordering::SeqCst), "it waits for the input");
            given.store(false, Ordering::SeqCst);
            let next = scope.spawn(|| {
                quiet.give(|| given.store(true, Ordering::SeqCst));
            });
            for _ in 0..100 {
                std::thread::yield_now();
            }
            assert!(!given.load(Ordering::SeqCst), "it came in all the same");
            drop(silence);
            next.join().unwrap();
            assert!(given.load(Ordering::SeqCst));
        });
    }

    #[test]
    fn quiet_waits_for_every_thread_that_brings_input() {
        let quiet = Arc::<Quiet>::default();
        let inside = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (begun, has_begun) = channel();
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (go_on, may_go_on) = channel();
                    let (begun, quiet) = (begun.clone(), &quiet);
                    let inside = &inside;
                    let thread = scope.spawn(move || {
                        quiet.give(|| {
                            begun.send(()).unwrap();
                            may_go_on.recv().unwrap();
                            inside.store(false, Ordering::SeqCst);
                        });
                    });
                    (go_on, thread)
                })
                .collect();
            threads.iter().for_each(|_| has_begun.recv().unwrap());
            let mut threads = threads.into_iter();
            let (go_on, first) = threads.next().unwrap();
            go_on.send(()).unwrap();
            first.join().unwrap();
            // The other one is still there.
            inside.store(true, Ordering::SeqCst);
            let begin = scope.spawn(|| {
                let _silence = quiet.begin();
                assert!(!inside.load(Ordering::SeqCst));
            });
            for _ in 0..100 {
                std::thread::yield_now();
            }
            let (go_on, second) = threads.next().unwrap();
            go_on.send(()).unwrap();
            begin.join().unwrap();
            second.join().unwrap();
        });
    }
}
