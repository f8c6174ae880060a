//! Credit: how much a sender may send before the receiver has taken it.
//!
//! Each flow of bytes (standard input, output, errors) begins with a credit of
//! [`WINDOW`]. A frame costs its head and its payload ([`cost`]), so that
//! frames of one byte cannot fill more memory than long ones. The receiver
//! gives credit back when it has taken bytes. So a buffer of [`WINDOW`] bytes
//! is enough for each flow, however slowly its receiver reads.

use crate::frame::{HEAD, PAYLOAD_MOST};

/// The credit of each flow at the beginning, and the most that it can have.
pub const WINDOW: u32 = 256 * 1024;

/// The most bytes of one run that can be under way to a client that does not
/// read: two flows, and the other messages of an honest agent. A Launcher that
/// has buffered more than this may close the stream.
pub const BUFFER_MOST: usize = 2 * WINDOW as usize + 2 * (HEAD + PAYLOAD_MOST);

/// Credit is given back in pieces of at least this size.
const PIECE: u32 = WINDOW / 4;

/// What a frame with a payload of this length costs.
#[must_use]
pub fn cost(payload: usize) -> u32 {
    u32::try_from(HEAD + payload).unwrap_or(u32::MAX)
}

/// The other side has sent, or given back, more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond;

/// The credit of a sender.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    left: u32,
}

impl Default for Sender {
    fn default() -> Self {
        Self { left: WINDOW }
    }
}

impl Sender {
    /// How long a payload may be sent now; 0 = none.
    #[must_use]
    pub fn room(&self) -> usize {
        let left = usize::try_from(self.left).unwrap_or(0);
        left.saturating_sub(HEAD).min(PAYLOAD_MOST)
    }

    /// A frame with a payload of this length is sent.
    ///
    /// # Errors
    ///
    /// [`Beyond`]: there is not so much credit, and nothing has changed.
    pub fn spend(&mut self, payload: usize) -> Result<(), Beyond> {
        self.left = self.left.checked_sub(cost(payload)).ok_or(Beyond)?;
        Ok(())
    }

    /// The receiver has given credit back.
    ///
    /// # Errors
    ///
    /// [`Beyond`]: more than was spent. Nothing has changed.
    pub fn refill(&mut self, bytes: u32) -> Result<(), Beyond> {
        let left = self.left.checked_add(bytes).ok_or(Beyond)?;
        if left > WINDOW {
            return Err(Beyond);
        }
        self.left = left;
        Ok(())
    }
}

/// The credit that a receiver has given.
#[derive(Clone, Copy, Debug)]
pub struct Receiver {
    /// What the sender may still send.
    left: u32,
    /// What was taken and is not given back yet.
    taken: u32,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            left: WINDOW,
            taken: 0,
        }
    }
}

impl Receiver {
    /// A frame with a payload of this length has arrived. Its head is taken at
    /// once.
    ///
    /// # Errors
    ///
    /// [`Beyond`]: the sender had not so much credit.
    pub fn arrived(&mut self, payload: usize) -> Result<(), Beyond> {
        self.left = self.left.checked_sub(cost(payload)).ok_or(Beyond)?;
        self.taken += cost(0);
        Ok(())
    }

    /// Bytes of payloads that have arrived were taken. Returns the credit to
    /// give back now, if it is enough for a message.
    pub fn taken(&mut self, payload: usize) -> Option<u32> {
        let taken = u32::try_from(payload).unwrap_or(u32::MAX);
        self.taken = self.taken.saturating_add(taken).min(WINDOW - self.left);
        if self.taken < PIECE {
            return None;
        }
        self.left += self.taken;
        Some(core::mem::take(&mut self.taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use proptest::prelude::*;

    #[test]
    fn a_sender_stops_at_the_end_of_the_window() {
        let mut sender = Sender::default();
        let mut sent = 0;
        while sender.room() > 0 {
            let now = sender.room();
            sender.spend(now).unwrap();
            sent += cost(now);
        }
        assert!(sent <= WINDOW && sent + cost(0) >= WINDOW);
        assert_eq!(sender.spend(1), Err(Beyond));
        sender.refill(100).unwrap();
        assert!(sender.room() >= 91);
    }

    #[test]
    fn nothing_is_given_back_that_was_not_spent() {
        let mut sender = Sender::default();
        assert_eq!(sender.refill(1), Err(Beyond));
        sender.spend(10).unwrap();
        assert_eq!(sender.refill(cost(10) + 1), Err(Beyond));
        assert_eq!(sender.refill(u32::MAX), Err(Beyond));
        sender.refill(cost(10)).unwrap();
    }

    #[test]
    fn a_receiver_notices_a_sender_without_credit() {
        let mut receiver = Receiver::default();
        for _ in 0..3 {
            receiver.arrived(PAYLOAD_MOST).unwrap();
        }
        assert_eq!(receiver.arrived(PAYLOAD_MOST), Err(Beyond));
        // What never came cannot be taken.
        assert_eq!(receiver.taken(usize::MAX), Some(cost(PAYLOAD_MOST) * 3));
        receiver.arrived(PAYLOAD_MOST).unwrap();
    }

    #[test]
    fn frames_of_one_byte_cost_what_they_fill() {
        let mut receiver = Receiver::default();
        let mut frames = 0;
        while receiver.arrived(1).is_ok() {
            frames += 1;
        }
        assert_eq!(frames, WINDOW / 10);
    }

    proptest! {
        /// Whatever is sent and taken, both ends agree, and nothing stops for
        /// ever while everything that arrives is taken.
        #[test]
        fn both_ends_agree_and_go_on(
            steps in proptest::collection::vec((1..90_000_usize, any::<bool>()), 1..300),
        ) {
            let mut sender = Sender::default();
            let mut receiver = Receiver::default();
            let mut way = VecDeque::new();
            for (length, take) in steps {
                let now = sender.room().min(length);
                if now > 0 {
                    sender.spend(now).unwrap();
                    way.push_back(now);
                }
                let under_way: usize = way.iter().sum();
                prop_assert!(under_way <= WINDOW as usize);
                if take && let Some(arrived) = way.pop_front() {
                    receiver.arrived(arrived).unwrap();
                    if let Some(back) = receiver.taken(arrived) {
                        sender.refill(back).unwrap();
                    }
                }
            }
            while let Some(arrived) = way.pop_front() {
                receiver.arrived(arrived).unwrap();
                if let Some(back) = receiver.taken(arrived) {
                    sender.refill(back).unwrap();
                }
            }
            prop_assert!(sender.room() > 0);
        }
    }
}
