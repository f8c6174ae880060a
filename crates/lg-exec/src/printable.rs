//! Text of the agent that a terminal may be given.
//!
//! The agent is part of the Guest. Its texts could hold control characters,
//! which change a terminal, or characters that make a line read differently
//! from what it says.

use alloc::string::String;

/// The longest text, in characters.
const TEXT_MOST: usize = 500;

/// A text in one line, without what changes a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut made = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == TEXT_MOST {
            made.push('…');
            break;
        }
        made.push(if is_safe(c) { c } else { '\u{fffd}' });
    }
    made
}

/// Whether a character neither controls a terminal nor changes the order or the
/// look of others.
fn is_safe(c: char) -> bool {
    let changes_order = matches!(c,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !changes_order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_all_languages_stay() {
        assert_eq!(printable("no such fîle: 東京"), "no such fîle: 東京");
    }

    #[test]
    fn what_changes_a_terminal_goes() {
        let text = "a\x1b[2Jb\nc\u{202e}d\u{9b}e\x7f";
        let wanted = "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}";
        assert_eq!(printable(text), wanted);
    }

    #[test]
    fn a_long_text_is_cut() {
        let long = "é".repeat(TEXT_MOST + 1);
        assert_eq!(printable(&long).chars().count(), TEXT_MOST + 1);
        assert!(printable(&long).ends_with('…'));
    }
}
