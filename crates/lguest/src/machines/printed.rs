//! JSON that a terminal does not act on.
//!
//! JSON escapes only some control characters. Texts of a Launcher that was
//! taken over may have the others.

use std::fmt::Write as _;

/// `json` with all control characters escaped, except ends of lines. It means
/// the same: JSON leaves such characters only in strings.
pub(crate) fn without_controls(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            c if c.is_control() && c != '\n' => {
                // Writing to a string cannot fail.
                let _ = write!(safe, "\\u{:04x}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}
