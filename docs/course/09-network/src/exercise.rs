//! Exercise 9: an answer.
//!
//! A machine that answers everything answers answers, too, and two of them
//! never stop. So an answer must not look like a question.

use crate::{Mac, Message};
use alloc::vec::Vec;

/// The frame that answers `frame`, if it deserves an answer: it is one of ours,
/// it is for `me` or for all, and it is no answer itself. The answer to the
/// text `hello` is `re: hello`, and goes to the sender alone.
pub fn answer(me: Mac, frame: &[u8]) -> Option<Vec<u8>> {
    // To do.
    let _ = me;
    let _ = Message::read(frame)?;
    None
}
