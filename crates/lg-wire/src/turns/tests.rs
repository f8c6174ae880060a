//! Every order in which the steps can happen, by a model checker.
//!
//! The code of [`super`] runs here, on words that the checker watches. The
//! kernel is a mutex and a condition variable for each word: checking the word
//! and falling asleep are one step, as in the real kernel. Loom then tries all
//! orders (where the comment says so, all with a limited number of involuntary
//! switches). It fails if one of them ends in a panic, in two owners of one
//! thing, or with all threads asleep. Each model is also run with a mistake
//! that was or could be made, and the checker must find it.
//!
//! The callers' work around the steps is here, too, in the same order:
//! `leave_for_other_view` and `halt` of the Host, `ask` of the Switcher's
//! world, `wait_for_request`, `die` and `kick` of the Launcher.

use super::*;
use loom::model::Builder;
use loom::sync::atomic::{AtomicU32 as LoomU32, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::format;
use std::process::Command;
use std::string::String;

/// A word, and the threads that sleep on it.
struct Watched {
    word: LoomU32,
    queue: Mutex<()>,
    doorbell: Condvar,
}

impl Watched {
    fn new(value: u32) -> Self {
        Self {
            word: LoomU32::new(value),
            queue: Mutex::new(()),
            doorbell: Condvar::new(),
        }
    }
}

/// Loom knows the one order of all accesses from fences only.
fn ordered<T>(access: impl FnOnce() -> T) -> T {
    fence(Ordering::SeqCst);
    let value = access();
    fence(Ordering::SeqCst);
    value
}

impl Word for Watched {
    fn load(&self) -> u32 {
        ordered(|| self.word.load(Ordering::SeqCst))
    }

    fn store(&self, value: u32) {
        // A store is an exchange on this machine.
        self.swap(value);
    }

    fn swap(&self, value: u32) -> u32 {
        ordered(|| self.word.swap(value, Ordering::SeqCst))
    }

    fn count(&self) {
        ordered(|| self.word.fetch_add(1, Ordering::SeqCst));
    }

    fn set(&self, bits: u32) {
        ordered(|| self.word.fetch_or(bits, Ordering::SeqCst));
    }

    fn clear(&self, bits: u32) {
        ordered(|| self.word.fetch_and(!bits, Ordering::SeqCst));
    }
}

/// The part of the kernel that the steps need.
struct Kernel;

impl Futex for Kernel {
    type Word = Watched;

    fn wait(word: &Watched, value: u32) {
        let queue = word.queue.lock().unwrap();
        if word.load() == value {
            drop(word.doorbell.wait(queue).unwrap());
        }
    }

    fn wake(word: &Watched) {
        let _queue = word.queue.lock().unwrap();
        word.doorbell.notify_one();
    }
}

/// Tries all orders with at most so many involuntary switches.
fn all_orders(switches: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(model);
}

/// Whether the checker finds a mistake in the model, and says `how`. The check
/// has a process of its own, which runs only the test `name` (below this
/// module), because loom cannot go on after a mistake.
fn is_found(
    name: &str,
    how: &str,
    model: impl Fn() + Sync + Send + 'static,
) -> bool {
    const ASKED: &str = "LG_WIRE_TURNS_BROKEN";
    if std::env::var(ASKED).is_ok_and(|asked| asked == name) {
        all_orders(2, model);
        return false;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", &format!("turns::tests::{name}"), "--nocapture"]);
    let ended = again.env(ASKED, name).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains(how), "{name}: {said}");
    !ended.status.success()
}

/// The lowest interrupt that is raised.
fn lowest(irqs: &Watched) -> Option<u32> {
    let pending = irqs.load();
    (pending != 0).then(|| pending.trailing_zeros())
}

/// A thing that only one thread may use at a time. A mistake lets two threads
/// use it.
struct Owned(LoomU32);

impl Owned {
    fn new() -> Self {
        Self(LoomU32::new(0))
    }

    fn touch(&self) {
        let others = self.0.swap(1, Ordering::Relaxed);
        assert_eq!(others, 0, "two at a time");
        self.0.store(0, Ordering::Relaxed);
    }
}

mod run_token {
    use super::*;

    struct Views {
        run_tokens: [Watched; 3],
        state: Owned,
    }

    type Take = fn(&Watched);
    type Pass = fn(&Watched);

    /// Three views, and each gets the run token twice.
    fn model(take: Take, pass: Pass) {
        let views = Arc::new(Views {
            run_tokens: [1, 0, 0].map(Watched::new),
            state: Owned::new(),
        });
        let life = move |views: &Views, me: usize| {
            for _ in 0..2 {
                take(&views.run_tokens[me]);
                views.state.touch();
                pass(&views.run_tokens[(me + 1) % 3]);
            }
        };
        let others = [1, 2].map(|me| {
            let views = views.clone();
            thread::spawn(move || life(&views, me))
        });
        life(&views, 0);
        for other in others {
            other.join().unwrap();
        }
    }

    #[test]
    fn there_is_one_run_token_and_it_is_never_lost() {
        all_orders(3, || model(take::<Kernel>, pass::<Kernel>));
    }

    #[test]
    fn a_view_that_waits_without_taking_keeps_a_run_token() {
        fn look(run_token: &Watched) {
            while run_token.load() == 0 {
                Kernel::wait(run_token, 0);
            }
        }
        assert!(is_found(
            "run_token::a_view_that_waits_without_taking_keeps_a_run_token",
            "two at a time",
            || model(look, pass::<Kernel>)
        ));
    }

    #[test]
    fn a_wake_up_before_the_run_token_is_lost() {
        fn too_late(run_token: &Watched) {
            Kernel::wake(run_token);
            run_token.store(1);
        }
        assert!(is_found(
            "run_token::a_wake_up_before_the_run_token_is_lost",
            "deadlock",
            || model(take::<Kernel>, too_late)
        ));
    }

    #[test]
    fn a_kernel_that_sleeps_without_looking_loses_a_wake_up() {
        fn blind(run_token: &Watched) {
            while run_token.swap(0) == 0 {
                let queue = run_token.queue.lock().unwrap();
                drop(run_token.doorbell.wait(queue).unwrap());
            }
        }
        assert!(is_found(
            "run_token::a_kernel_that_sleeps_without_looking_loses_a_wake_up",
            "deadlock",
            || model(blind, pass::<Kernel>)
        ));
    }
}

mod mailbox {
    use super::*;

    const HOST: u32 = 0;
    const LAUNCHER: u32 = 1;

    struct Conversation {
        turn: Watched,
        letter: Owned,
        /// The Guest has ended.
        dead: Watched,
        /// The Launcher's thread sleeps, or is about to sleep.
        waiting: Watched,
    }

    impl Conversation {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                turn: Watched::new(HOST),
                letter: Owned::new(),
                dead: Watched::new(0),
                waiting: Watched::new(0),
            })
        }

        /// `Outside::ask`.
        fn ask(&self) {
            self.letter.touch();
            give::<Kernel>(&self.turn, LAUNCHER);
            wait_for::<Kernel>(&self.turn, HOST, || true);
            self.letter.touch();
        }

        /// `Core::wait_for_request`.
        fn wait_for_request(&self) -> bool {
            self.waiting.store(1);
            let alive = || self.dead.load() == 0;
            let came = wait_for::<Kernel>(&self.turn, LAUNCHER, alive);
            self.waiting.store(0);
            came
        }

        /// `Core::die`, when no process is left that could change the turn.
        fn die(&self, times: Option<u32>) {
            self.dead.store(1);
            let waits = || self.waiting.load() != 0;
            match times {
                None => {
                    call_off::<Kernel>(
                        &self.turn,
                        LAUNCHER,
                        waits,
                        thread::yield_now,
                    );
                }
                Some(0) => {}
                Some(_) => Kernel::wake(&self.turn),
            }
        }
    }

    #[test]
    fn every_request_is_taken_and_answered_once() {
        all_orders(3, || {
            let talk = Conversation::new();
            let host = {
                let talk = talk.clone();
                thread::spawn(move || (0..2).for_each(|_| talk.ask()))
            };
            for _ in 0..2 {
                assert!(talk.wait_for_request());
                talk.letter.touch();
                give::<Kernel>(&talk.turn, HOST);
            }
            host.join().unwrap();
        });
    }

    #[test]
    fn an_answer_before_its_time_is_found() {
        assert!(is_found(
            "mailbox::an_answer_before_its_time_is_found",
            "two at a time",
            || {
                let talk = Conversation::new();
                let host = {
                    let talk = talk.clone();
                    thread::spawn(move || talk.ask())
                };
                assert!(talk.wait_for_request());
                give::<Kernel>(&talk.turn, HOST);
                talk.letter.touch();
                host.join().unwrap();
            }
        ));
    }

    /// The Host asks once and is killed, before or after. The watcher is
    /// notified, and the Launcher's thread must return from its sleep.
    fn death(times: Option<u32>) {
        let talk = Conversation::new();
        let host = {
            let talk = talk.clone();
            thread::spawn(move || {
                talk.letter.touch();
                give::<Kernel>(&talk.turn, LAUNCHER);
            })
        };
        let watcher = {
            let talk = talk.clone();
            thread::spawn(move || {
                host.join().unwrap();
                talk.die(times);
            })
        };
        while talk.wait_for_request() {
            talk.letter.touch();
            give::<Kernel>(&talk.turn, HOST);
        }
        watcher.join().unwrap();
    }

    #[test]
    fn the_launcher_notices_an_end_at_any_moment() {
        all_orders(3, || death(None));
    }

    #[test]
    fn an_end_that_is_not_reported_is_found() {
        assert!(is_found(
            "mailbox::an_end_that_is_not_reported_is_found",
            "deadlock",
            || death(Some(0))
        ));
    }

    #[test]
    fn to_wake_the_launcher_once_is_not_enough() {
        // It may be between its check for the end and its sleep.
        assert!(is_found(
            "mailbox::to_wake_the_launcher_once_is_not_enough",
            "deadlock",
            || death(Some(1))
        ));
    }

    #[test]
    fn any_other_value_in_the_turn_makes_it_wait() {
        all_orders(3, || {
            let talk = Conversation::new();
            let liar = {
                let talk = talk.clone();
                thread::spawn(move || {
                    give::<Kernel>(&talk.turn, 7);
                    give::<Kernel>(&talk.turn, LAUNCHER);
                })
            };
            assert!(talk.wait_for_request());
            liar.join().unwrap();
        });
    }
}

mod sleep {
    use super::*;

    struct Guest {
        irqs: Watched,
        kicks: Watched,
        asleep: Watched,
    }

    impl Guest {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                irqs: Watched::new(0),
                kicks: Watched::new(0),
                asleep: Watched::new(0),
            })
        }

        /// `get_ready` of a Guest that has halted: takes one interrupt, and
        /// sleeps until there is one.
        fn next_interrupt(&self, sleep: Sleep) -> u32 {
            loop {
                if let Some(irq) = lowest(&self.irqs) {
                    lower(&self.irqs, irq);
                    return irq;
                }
                sleep(self);
            }
        }

        /// `Native::irq`. No view runs the Guest, so there is none to
        /// interrupt.
        fn irq(&self, irq: u32, kick: Kick) {
            raise(&self.irqs, irq);
            kick(self);
        }
    }

    type Sleep = fn(&Guest);
    type Kick = fn(&Guest);

    fn right_sleep(guest: &Guest) {
        sleep_until_kick(&guest.kicks, &guest.asleep, |seen| {
            if lowest(&guest.irqs).is_none() {
                Kernel::wait(&guest.kicks, seen);
            }
        });
    }

    fn right_kick(guest: &Guest) {
        kick::<Kernel>(&guest.kicks, &guest.asleep, || ());
    }

    /// Two interrupts from two threads, and a Guest that sleeps for each.
    fn model(sleep: Sleep, kick: Kick) {
        let guest = Guest::new();
        let devices = [3, 5].map(|irq| {
            let guest = guest.clone();
            thread::spawn(move || guest.irq(irq, kick))
        });
        let got = [0; 2].map(|_| guest.next_interrupt(sleep));
        assert_eq!(got[0] + got[1], 8, "{got:?}");
        for device in devices {
            device.join().unwrap();
        }
        assert_eq!(guest.irqs.load(), 0);
    }

    #[test]
    fn no_wake_up_is_lost_and_no_interrupt() {
        all_orders(3, || model(right_sleep, right_kick));
    }

    #[test]
    fn to_look_before_counting_kicks_loses_one() {
        fn hasty(guest: &Guest) {
            let idle = lowest(&guest.irqs).is_none();
            sleep_until_kick(&guest.kicks, &guest.asleep, |seen| {
                if idle {
                    Kernel::wait(&guest.kicks, seen);
                }
            });
        }
        assert!(is_found(
            "sleep::to_look_before_counting_kicks_loses_one",
            "deadlock",
            || model(hasty, right_kick)
        ));
    }

    #[test]
    fn to_wake_without_counting_loses_one() {
        fn uncounted(guest: &Guest) {
            if guest.asleep.load() != 0 {
                Kernel::wake(&guest.kicks);
            }
        }
        assert!(is_found(
            "sleep::to_wake_without_counting_loses_one",
            "deadlock",
            || {
                model(right_sleep, uncounted);
            }
        ));
    }

    #[test]
    fn to_kick_before_raising_loses_one() {
        assert!(is_found(
            "sleep::to_kick_before_raising_loses_one",
            "deadlock",
            || {
                let guest = Guest::new();
                let device = {
                    let guest = guest.clone();
                    thread::spawn(move || {
                        right_kick(&guest);
                        raise(&guest.irqs, 3);
                    })
                };
                assert_eq!(guest.next_interrupt(right_sleep), 3);
                device.join().unwrap();
            }
        ));
    }

    #[test]
    fn to_sleep_without_saying_so_loses_one() {
        fn shy(guest: &Guest) {
            let seen = guest.kicks.load();
            if lowest(&guest.irqs).is_none() {
                Kernel::wait(&guest.kicks, seen);
            }
        }
        assert!(is_found(
            "sleep::to_sleep_without_saying_so_loses_one",
            "deadlock",
            || model(shy, right_kick)
        ));
    }

    #[test]
    fn an_interrupt_word_that_is_not_changed_at_once_loses_one() {
        /// Reads, changes, writes.
        fn lower_slowly(irqs: &Watched, irq: u32) {
            let all = irqs.load();
            irqs.store(all & !(1 << irq));
        }
        assert!(is_found(
            "sleep::an_interrupt_word_that_is_not_changed_at_once_loses_one",
            "left == right",
            || {
                let guest = Guest::new();
                raise(&guest.irqs, 3);
                let device = {
                    let guest = guest.clone();
                    thread::spawn(move || raise(&guest.irqs, 5))
                };
                lower_slowly(&guest.irqs, 3);
                device.join().unwrap();
                assert_eq!(guest.irqs.load(), 1 << 5);
            }
        ));
    }
}

mod running {
    use super::*;

    /// A Guest that never sleeps: only a signal stops it, and the signal goes
    /// to one view.
    struct Guest {
        irqs: Watched,
        kicks: Watched,
        asleep: Watched,
        current: Watched,
        run_tokens: [Watched; 2],
        /// A signal for each view: it waits until the view can be stopped.
        signals: [Watched; 2],
    }

    impl Guest {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                irqs: Watched::new(0),
                kicks: Watched::new(0),
                asleep: Watched::new(0),
                current: Watched::new(0),
                run_tokens: [0, 0].map(Watched::new),
                signals: [0, 0].map(Watched::new),
            })
        }

        /// `get_ready`, and the Guest's code until it is stopped. Returns when
        /// the interrupt has come.
        fn run(&self, me: usize) {
            while lowest(&self.irqs).is_none() {
                // Checking the signal and entering the Guest are one step: the
                // Switcher starts it again if a signal comes.
                while self.signals[me].swap(0) == 0 {
                    Kernel::wait(&self.signals[me], 0);
                }
            }
        }

        /// `Running::kick`.
        fn irq(&self) {
            raise(&self.irqs, 3);
            kick::<Kernel>(&self.kicks, &self.asleep, || {
                let current = self.current.load() as usize;
                self.signals[current].store(1);
                Kernel::wake(&self.signals[current]);
            });
        }
    }

    /// The Guest changes its page directory while an interrupt is raised.
    fn model(hand_over: fn(&Guest)) {
        let guest = Guest::new();
        let device = {
            let guest = guest.clone();
            thread::spawn(move || guest.irq())
        };
        let second = {
            let guest = guest.clone();
            thread::spawn(move || {
                take::<Kernel>(&guest.run_tokens[1]);
                guest.run(1);
            })
        };
        hand_over(&guest);
        device.join().unwrap();
        second.join().unwrap();
    }

    #[test]
    fn an_interrupt_finds_the_view_that_runs() {
        all_orders(3, || {
            model(|guest| {
                guest.current.store(1);
                pass::<Kernel>(&guest.run_tokens[1]);
            });
        });
    }

    #[test]
    fn to_say_which_view_runs_after_passing_the_run_token_is_too_late() {
        assert!(is_found(
            "running::to_say_which_view_runs_after_passing_the_run_token_is_too_late",
            "deadlock",
            || {
                model(|guest| {
                    pass::<Kernel>(&guest.run_tokens[1]);
                    guest.current.store(1);
                });
            }
        ));
    }
}
