//! Tasks: futures that run in turn, and sleep until they are woken.
//!
//! A kernel mostly waits: for a key, a sector, a frame, a point in time. Each
//! wait is an `await` of a task. One word has a bit for each task that is
//! ready. Waking a task is one atomic `or`: it takes no lock, allocates
//! nothing, and is allowed in an interrupt handler. When the word is zero, no
//! task is ready, and the CPU can be given back.
//!
//! ```no_run
//! # #![cfg_attr(target_arch = "x86", no_std)]
//! # #![cfg_attr(target_arch = "x86", no_main)]
//! use lg_guest::executor::{Executor, Ready, yield_now};
//!
//! static READY: Ready = Ready::new();
//!
//! fn main() {
//!     let executor = Executor::new(&READY);
//!     let spawned = executor.spawn("two turns", async {
//!         yield_now().await;
//!     });
//!     assert!(spawned.is_ok());
//!     while executor.run_ready() {}
//!     assert!(executor.tasks().is_empty());
//! }
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::{Context, Poll, Waker};

/// Tasks that can exist at a time: the bits of the ready word.
// MASTERY: 32 are enough for the guests here. More would need a second word,
// and an order in which tasks get their turn.
pub const MAX_TASKS: usize = u32::BITS as usize;

/// A bit for each task that is ready.
pub struct Ready(AtomicU32);

impl Ready {
    /// No task is ready.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Makes the tasks in `mask` ready. Any context, interrupts included.
    pub fn wake(&self, mask: u32) {
        self.0.fetch_or(mask, Ordering::Release);
    }

    /// Whether all tasks sleep. The answer stays true only with interrupts off.
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

/// What a waker points to: which task to wake, and where.
struct WakeBit {
    ready: &'static Ready,
    mask: u32,
}

impl alloc::task::Wake for WakeBit {
    fn wake(self: alloc::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &alloc::sync::Arc<Self>) {
        self.ready.wake(self.mask);
    }
}

/// One task, while it does not run.
struct Task {
    name: &'static str,
    polls: u32,
    /// `None` while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// What [`Executor::tasks`] shows of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    /// The name it was spawned with.
    pub name: &'static str,
    /// How often it has run.
    pub polls: u32,
}

/// All tasks, and which of them are ready.
pub struct Executor {
    ready: &'static Ready,
    tasks: RefCell<Vec<Option<Task>>>,
    wakers: RefCell<Vec<Waker>>,
    current: AtomicU32,
}

impl Executor {
    /// No tasks yet; wake-ups arrive in `ready`.
    #[must_use]
    pub const fn new(ready: &'static Ready) -> Self {
        Self {
            ready,
            tasks: RefCell::new(Vec::new()),
            wakers: RefCell::new(Vec::new()),
            current: AtomicU32::new(0),
        }
    }

    /// Adds a task, which gets its first turn soon.
    ///
    /// # Errors
    ///
    /// All [`MAX_TASKS`] bits are taken.
    pub fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + 'static,
    ) -> Result<(), TooManyTasks> {
        let mut tasks = self.tasks.borrow_mut();
        let index = match tasks.iter().position(Option::is_none) {
            Some(index) => index,
            None if tasks.len() < MAX_TASKS => {
                let mask = 1 << tasks.len();
                self.wakers.borrow_mut().push(Waker::from(
                    alloc::sync::Arc::new(WakeBit {
                        ready: self.ready,
                        mask,
                    }),
                ));
                tasks.push(None);
                tasks.len() - 1
            }
            None => return Err(TooManyTasks),
        };
        tasks[index] = Some(Task {
            name,
            polls: 0,
            future: Some(Box::pin(future)),
        });
        self.ready.wake(1 << index);
        Ok(())
    }

    /// Gives a turn to each task that is ready, once. Returns whether there
    /// was one.
    pub fn run_ready(&self) -> bool {
        let ready = self.ready.0.swap(0, Ordering::Acquire);
        for index in 0..MAX_TASKS {
            if ready & (1 << index) != 0 {
                self.poll(index);
            }
        }
        ready != 0
    }

    /// Gives task `index` its turn. It may spawn others meanwhile, so it is
    /// taken out of the table while it runs.
    fn poll(&self, index: usize) {
        let taken = match self.tasks.borrow_mut().get_mut(index) {
            Some(Some(task)) => {
                task.polls = task.polls.wrapping_add(1);
                task.future.take()
            }
            _ => None, // woken after its end
        };
        let Some(mut future) = taken else { return };
        let waker = self.wakers.borrow()[index].clone();

        let before = self.current.swap(1 << index, Ordering::Relaxed);
        let result = future.as_mut().poll(&mut Context::from_waker(&waker));
        self.current.store(before, Ordering::Relaxed);

        let mut tasks = self.tasks.borrow_mut();
        match (result, &mut tasks[index]) {
            (Poll::Pending, Some(task)) => task.future = Some(future),
            (_, slot) => *slot = None,
        }
        // Dropping a future may wake tasks or drop wakers, so it happens
        // outside the borrow.
        drop(tasks);
    }

    /// The bit of the task that is running: for [`Ready::wake`].
    pub fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    /// All tasks.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskInfo> {
        let tasks = self.tasks.borrow();
        let info = |task: &Task| TaskInfo {
            name: task.name,
            polls: task.polls,
        };
        tasks.iter().flatten().map(info).collect()
    }
}

/// All bits for tasks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTasks;

/// Yields to all other tasks that are ready.
pub async fn yield_now() {
    let mut yielded = false;
    core::future::poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Which of two futures was first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first of them.
    Left(A),
    /// The second.
    Right(B),
}

/// Waits until one of two futures ends, and drops the other. If both have
/// ended, the first one counts.
pub async fn first<A: Future, B: Future>(
    a: A,
    b: B,
) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (core::pin::pin!(a), core::pin::pin!(b));
    core::future::poll_fn(|context| {
        if let Poll::Ready(value) = a.as_mut().poll(context) {
            return Poll::Ready(Either::Left(value));
        }
        b.as_mut().poll(context).map(Either::Right)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn executor() -> &'static Executor {
        let ready = Box::leak(Box::new(Ready::new()));
        Box::leak(Box::new(Executor::new(ready)))
    }

    #[test]
    fn a_task_runs_until_it_waits_and_goes_on_when_woken() {
        let executor = executor();
        let steps = Rc::new(RefCell::new(Vec::new()));
        let seen = steps.clone();
        executor
            .spawn("one", async move {
                seen.borrow_mut().push(1);
                yield_now().await;
                seen.borrow_mut().push(2);
            })
            .unwrap();
        assert!(executor.run_ready());
        assert_eq!(*steps.borrow(), [1]);
        assert!(executor.run_ready());
        assert_eq!(*steps.borrow(), [1, 2]);
        assert!(!executor.run_ready() && executor.tasks().is_empty());
    }

    #[test]
    fn a_sleeping_task_gets_no_turn() {
        let executor = executor();
        executor.spawn("sleeper", std::future::pending()).unwrap();
        executor.run_ready();
        assert!(!executor.run_ready());
        assert_eq!(
            executor.tasks(),
            [TaskInfo {
                name: "sleeper",
                polls: 1
            }]
        );
        executor.ready.wake(1);
        assert!(executor.run_ready());
        assert_eq!(executor.tasks()[0].polls, 2);
    }

    #[test]
    fn a_task_may_spawn_and_its_place_is_used_again() {
        let executor = executor();
        let count = Rc::new(RefCell::new(0));
        for _ in 0..3 * MAX_TASKS {
            let count = count.clone();
            executor
                .spawn("parent", async move {
                    executor
                        .spawn("child", async move { *count.borrow_mut() += 1 })
                        .unwrap();
                })
                .unwrap();
            while executor.run_ready() {}
        }
        assert_eq!(*count.borrow(), 3 * MAX_TASKS);
    }

    #[test]
    fn one_task_too_many_is_refused() {
        let executor = executor();
        for _ in 0..MAX_TASKS {
            executor.spawn("sleeper", std::future::pending()).unwrap();
        }
        assert_eq!(executor.spawn("more", async {}), Err(TooManyTasks));
    }

    #[test]
    fn waking_one_that_has_ended_does_nothing() {
        let executor = executor();
        executor.spawn("short", async {}).unwrap();
        executor.run_ready();
        executor.ready.wake(u32::MAX);
        assert!(executor.run_ready());
        assert!(!executor.run_ready());
    }

    #[test]
    fn the_first_of_two_wins() {
        let executor = executor();
        let result = Rc::new(RefCell::new(None));
        let out = result.clone();
        executor
            .spawn("race", async move {
                let slow = async {
                    yield_now().await;
                    yield_now().await;
                };
                let fast = async {
                    yield_now().await;
                    7
                };
                *out.borrow_mut() = Some(first(slow, fast).await);
            })
            .unwrap();
        while executor.run_ready() {}
        assert_eq!(*result.borrow(), Some(Either::Right(7)));
    }
}
