//! What a debugger asks of a Guest that stands, and what it is told.
//!
//! The answers come from the Guest's own processes. They are bounded, and
//! nothing else about them is certain: a Guest that has taken over its Host can
//! show a debugger whatever it likes.

use lg_wire::debug::{Order, Outcome, Stop};
use lg_wire::mailbox::{MAX_TEXT, Mailbox};
use std::sync::atomic::Ordering;

/// An order to the Host of a Guest that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What to do.
    pub order: Order,
    /// The arguments, as [`lg_wire::debug`] has them.
    pub arguments: [u32; 3],
    /// Bytes that go with it: at most [`MAX_TEXT`].
    pub bytes: Vec<u8>,
}

impl Ask {
    /// An order without bytes.
    #[must_use]
    pub fn new(order: Order, arguments: [u32; 3]) -> Self {
        Self {
            order,
            arguments,
            bytes: Vec::new(),
        }
    }

    /// Writes it where the Host reads it. Its number is the reply to the
    /// request of the Host.
    pub(super) fn write(&self, mailbox: &Mailbox) {
        for (word, argument) in mailbox.arguments.iter().zip(self.arguments) {
            word.store(argument, Ordering::Relaxed);
        }
        mailbox.write_text(&self.bytes);
        mailbox.reply.store(self.order as u32, Ordering::Relaxed);
    }
}

/// The answer to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What became of it.
    pub outcome: Outcome,
    /// A number that belongs to it.
    pub value: u32,
    /// Bytes that belong to it: at most [`MAX_TEXT`].
    pub bytes: Vec<u8>,
}

impl Told {
    /// Reads it, each word once. An outcome that does not exist is a refusal.
    pub(super) fn read(
        mailbox: &Mailbox,
        [_, outcome, value]: [u32; 3],
    ) -> Self {
        let (text, length) = mailbox.read_text();
        let outcome = Outcome::from_number(outcome);
        Self {
            outcome: outcome.unwrap_or(Outcome::Refused),
            value,
            bytes: text[..length.min(MAX_TEXT)].to_vec(),
        }
    }
}

/// The Guest has stopped by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Why.
    pub stop: Stop,
    /// An address, for a watchpoint.
    pub value: u32,
}
