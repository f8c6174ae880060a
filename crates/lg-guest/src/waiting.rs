//! Waits that have not ended: which waker is for what.
//!
//! A future that waits puts its waker here, and takes it away when it is
//! dropped. The waker is that of the context, so a wait may be part of any
//! combinator of futures. No waker is dropped in here: that may run code which
//! comes back.

use alloc::vec::Vec;
use core::task::Waker;

/// The number of a wait, by which it is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number(u64);

/// Wakers, each with what it waits for.
pub(crate) struct Waiting<K> {
    all: Vec<(Option<Number>, K, Waker)>,
    last: u64,
}

impl<K: Copy + PartialEq> Waiting<K> {
    pub(crate) const fn new() -> Self {
        Self {
            all: Vec::new(),
            last: 0,
        }
    }

    /// A number that no other wait has.
    pub(crate) fn number(&mut self) -> Number {
        self.last += 1;
        Number(self.last)
    }

    /// Has `waker` wait for `what`, as the wait with that number. One without a
    /// number is there once for the same waker. Returns a waker that is not
    /// needed any more.
    pub(crate) fn put(
        &mut self,
        number: Option<Number>,
        what: K,
        waker: &Waker,
    ) -> Option<Waker> {
        let is_same = |(of, other, known): &(_, K, Waker)| match number {
            Some(_) => *of == number,
            None => *of == number && *other == what && known.will_wake(waker),
        };
        let Some(at) = self.all.iter().position(is_same) else {
            self.all.push((number, what, waker.clone()));
            return None;
        };
        let known = &mut self.all[at];
        known.1 = what;
        (!known.2.will_wake(waker))
            .then(|| core::mem::replace(&mut known.2, waker.clone()))
    }

    /// Takes one that waits for something that has come.
    pub(crate) fn take(
        &mut self,
        has_come: impl Fn(K) -> bool,
    ) -> Option<Waker> {
        let at = self.all.iter().position(|&(_, what, _)| has_come(what))?;
        Some(self.all.swap_remove(at).2)
    }

    /// Takes away the wait with that number.
    pub(crate) fn remove(&mut self, number: Number) -> Option<Waker> {
        let of = Some(number);
        let at = self.all.iter().position(|wait| wait.0 == of)?;
        Some(self.all.swap_remove(at).2)
    }

    /// What is waited for.
    pub(crate) fn iter(&self) -> impl Iterator<Item = K> + '_ {
        self.all.iter().map(|wait| wait.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count(AtomicU32::new(0)));
        (count.clone(), count.into())
    }

    #[test]
    fn what_has_come_is_taken_and_nothing_else() {
        let mut waiting = Waiting::new();
        let ((_, early), (count, late)) = (waker(), waker());
        let (one, two) = (waiting.number(), waiting.number());
        assert!(waiting.put(Some(one), 10, &early).is_none());
        assert!(waiting.put(Some(two), 20, &late).is_none());
        assert!(waiting.take(|moment| moment <= 5).is_none());
        let taken = waiting.take(|moment| moment >= 15).unwrap();
        taken.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(waiting.iter().collect::<Vec<_>>(), [10]);
    }

    #[test]
    fn a_wait_has_its_last_waker_until_it_is_removed() {
        let mut waiting = Waiting::new();
        let ((_, old), (_, new)) = (waker(), waker());
        let number = waiting.number();
        waiting.put(Some(number), 1, &old);
        let replaced = waiting.put(Some(number), 2, &new).unwrap();
        assert!(replaced.will_wake(&old));
        assert!(waiting.put(Some(number), 2, &new).is_none());
        assert!(waiting.remove(number).unwrap().will_wake(&new));
        assert!(waiting.remove(number).is_none());
    }

    #[test]
    fn one_without_a_number_is_there_once() {
        let mut waiting = Waiting::new();
        let ((_, one), (_, other)) = (waker(), waker());
        for _ in 0..3 {
            waiting.put(None, 7, &one);
            waiting.put(None, 8, &one);
            waiting.put(None, 7, &other);
        }
        assert_eq!(waiting.iter().count(), 3);
    }
}
