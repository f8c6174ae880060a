//! Exercise 9: an answer.
//!
//! A machine that answers everything answers answers, too, and two of them
//! never stop. So an answer must not look like a question.

use crate::{ALL, Mac, Message};
use alloc::format;
use alloc::vec::Vec;

/// The frame that answers `frame`, if it deserves an answer: it is one of ours,
/// it is for `me` or for all, and it is no answer itself. The answer to the
/// text `hello` is `re: hello`, and goes to the sender alone.
pub fn answer(me: Mac, frame: &[u8]) -> Option<Vec<u8>> {
    let Message { to, from, text } = Message::read(frame)?;
    let is_for_me = to == me || to == ALL;
    if !is_for_me || text.starts_with("re: ") {
        return None;
    }
    let answer = Message {
        to: from,
        from: me,
        text: &format!("re: {text}"),
    };
    Some(answer.frame())
}
