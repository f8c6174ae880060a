//! A stranger's text in our own messages.
//!
//! Names in archives may be long, and may have sequences that a terminal acts
//! on.

use crate::engine::printable;

/// The most characters of a stranger's text in a message.
const MOST_SHOWN: usize = 200;

/// A stranger's text as part of a message.
pub(super) fn shown(text: &[u8]) -> String {
    let text = &text[..text.len().min(2 * MOST_SHOWN)];
    let text = printable(text);
    match text.char_indices().nth(MOST_SHOWN) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
