//! A Guest's output, made safe for a terminal that is not its console.
//!
//! A Guest may print sequences that move the cursor, change the title, or make
//! a terminal answer. Only its own console has to carry them out.

use std::io::{self, IsTerminal, Write};

/// Prints output to standard output. On a terminal, control characters are
/// replaced by visible escapes, except the ends of lines and tabs. Elsewhere it
/// is printed as it is.
pub(super) struct Shown {
    terminal: bool,
    /// The beginning of a character.
    part: Vec<u8>,
}

impl Shown {
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            part: Vec::new(),
        }
    }

    /// Prints `bytes`.
    pub(super) fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.terminal {
            let text = self.safe(bytes);
            out.write_all(text.as_bytes())?;
        } else {
            out.write_all(bytes)?;
        }
        out.flush()
    }

    fn safe(&mut self, bytes: &[u8]) -> String {
        self.part.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.part.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(good) => {
                    add(&mut text, good);
                    rest = &[];
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    add(&mut text, &String::from_utf8_lossy(good));
                    rest = bad;
                    let Some(len) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[len..];
                }
            }
        }
        self.part = rest.to_vec();
        text
    }
}

fn add(to: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\r' => {}
            '\n' | '\t' | '"' | '\'' | '\\' => to.push(c),
            c => to.extend(c.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_speak_to_the_terminal() {
        let mut shown = Shown {
            terminal: true,
            part: Vec::new(),
        };
        assert_eq!(shown.safe(b"a\x1b[2J\r\n\tb'"), "a\\u{1b}[2J\n\tb'");
        // A character in two pieces.
        assert_eq!(shown.safe(b"\xe2\x82"), "");
        assert_eq!(shown.safe(b"\xac!"), "\u{20ac}!");
        assert_eq!(shown.safe(b"\xff\xc2"), "\u{fffd}");
        assert_eq!(shown.safe(b"\x9b5"), "\\u{9b}5");
    }
}
